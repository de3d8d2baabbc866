"""Text to token ids, by the `tokenizers` library.

A tokenizer is a `tokenizer.json` of that library; here is what every model needs of it: fixed
length, start and end marks, and an honest account of the words that did not fit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from ldmref.errors import CorruptModelError, UsageError

START, END, PAD, UNKNOWN = "<start>", "<end>", "<pad>", "<unknown>"
MAX_CHARACTERS = 4000


class PromptTokenizer:
    """`encode` for prompts: (n, length) ids, padded and truncated, with warnings."""

    def __init__(self, tokenizer: Tokenizer, length: int):
        self.tokenizer, self.length = tokenizer, length
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.pad = self._id(PAD)
        self.unknown = self._id(UNKNOWN)

    @classmethod
    def load(cls, path: Path, length: int) -> PromptTokenizer:
        """Read a `tokenizer.json`."""
        try:
            return cls(Tokenizer.from_file(str(path)), length)
        except UsageError:
            raise
        except Exception as error:  # the library raises bare Exceptions
            raise CorruptModelError(
                f"{path.name} is no tokenizer: {error}", code="E-TOKENIZER"
            ) from error

    def _id(self, token: str) -> int:
        found = self.tokenizer.token_to_id(token)
        if found is None:
            raise CorruptModelError(f"the tokenizer has no {token!r} token", code="E-TOKENIZER")
        return found

    def encode(self, prompts: list[str]) -> tuple[np.ndarray, list[str]]:
        """Ids (n, length) int64 and warnings: the words that did not fit or are not known."""
        rows = np.full((len(prompts), self.length), self.pad, np.int64)
        warnings = []
        for row, prompt in zip(rows, prompts, strict=True):
            encoding = self.tokenizer.encode(prompt)
            ids, offsets = encoding.ids, encoding.offsets
            strange = [
                prompt[a:b] for i, (a, b) in zip(ids, offsets, strict=True) if i == self.unknown
            ]
            if strange:
                warnings.append(f"words the model never saw: {', '.join(dict.fromkeys(strange))}")
            if len(ids) > self.length:
                lost = prompt[offsets[self.length - 1][0] :].strip()
                warnings.append(
                    f"the prompt has {len(ids) - 2} words, the model reads {self.length - 2}; "
                    f"left out: {lost if len(lost) <= 200 else lost[:200] + ' ...'}"
                )
                ids = [*ids[: self.length - 1], ids[-1]]
            row[: len(ids)] = ids
        return rows, warnings


def word_tokenizer(captions: Iterable[str], max_words: int) -> Tokenizer:
    """A tokenizer whose tokens are the whole words of `captions`, the most frequent first.

    Text is lower-cased and stripped of accents; a word is a run of letters or digits, or one of
    the marks # * ! &; everything else separates words.
    """
    tokenizer = Tokenizer(models.WordLevel({UNKNOWN: 0}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"[\p{L}\p{N}]+|[#*!&]"), behavior="removed", invert=True
    )
    words = Counter(word for caption in captions for word in split_words(tokenizer, caption))
    special = [PAD, START, END, UNKNOWN]
    ranked = sorted(words, key=lambda word: (-words[word], word))[: max_words - len(special)]
    vocabulary = {word: i for i, word in enumerate(special + ranked)}
    tokenizer.model = models.WordLevel(vocabulary, unk_token=UNKNOWN)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, 1), (END, 2)]
    )
    return tokenizer


def split_words(tokenizer: Tokenizer, text: str) -> list[str]:
    """The words of `text` as a word tokenizer sees them."""
    text = tokenizer.normalizer.normalize_str(text)
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
