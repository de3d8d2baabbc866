"""Text to token ids, by the `tokenizers` library.

A `PromptTokenizer` is a tokenizer of that library and the four marks with which a text encoder was
trained; here is what every model needs of it: a fixed length, long prompts, and an honest account
of the words that did not fit. `prompts/clip.py` makes CLIP's, `word_tokenizer` one of
whole words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from ldmref.errors import CorruptModelError, UsageError, did_you_mean
from ldmref.prompts.weights import WeightedText, parse_prompt_weights

START, END, PAD, UNKNOWN = "<start>", "<end>", "<pad>", "<unknown>"
MAX_CHARACTERS = 4000
LONG_PROMPTS, PROMPT_WEIGHTS = ("truncate", "chunk"), ("none", "a1111")


class SpecialTokens(NamedTuple):
    """The tokens that stand for no text; `unknown` stands for text outside the vocabulary."""

    start: str
    end: str
    pad: str
    unknown: str


WORD_MARKS = SpecialTokens(START, END, PAD, UNKNOWN)


@dataclass(frozen=True)
class PromptOptions:
    """How prompts are read.

    Args:
        long_prompts: `truncate` reads what fits between one start and end mark; `chunk` reads all,
            in as many chunks as it takes, each with its own start and end.
        prompt_weights: `none` takes brackets as text; `a1111` reads (word), (word:1.3), [word],
            BREAK and the escapes \\( \\) \\[ \\] \\\\ as `parse_prompt_weights` says.
        chunks: at least so many chunks; shorter prompts are followed by empty ones.

    Raises:
        UsageError: another value.
    """

    long_prompts: str = "truncate"
    prompt_weights: str = "none"
    chunks: int = 1

    def __post_init__(self) -> None:
        for name, known in (("long_prompts", LONG_PROMPTS), ("prompt_weights", PROMPT_WEIGHTS)):
            value = getattr(self, name)
            if value not in known:
                raise UsageError(
                    f"unknown {name} {value!r}",
                    code="E-" + name.upper().replace("_", "-"),
                    hint=did_you_mean(str(value), known),
                )


@dataclass(frozen=True)
class Tokens:
    """Prompts as the text encoder reads them, in chunks of the encoder's length.

    `ids`: (n, chunks, length) int64; `weights`: the same shape, float32, 1 where nothing else is
    asked for; `counts`: the chunks that each prompt needs; `warnings`: one line each.
    """

    ids: np.ndarray
    weights: np.ndarray
    counts: list[int]
    warnings: list[str]


class TokenGroup(NamedTuple):
    """What must stay in one chunk: a token, or all vectors of a word that was added."""

    ids: tuple[int, ...]
    weight: float
    place: tuple[int, int, int]  # section, fragment, and the character where its word begins


class PromptTokenizer:
    """Ids of prompts, chunked or truncated, with warnings.

    Args:
        tokenizer: its post-processor is not used, its truncation and padding are switched off.
        length: tokens that the text encoder reads at once, start and end mark included.
        marks: tokens of the vocabulary.
        clean: what happens to the text before.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        length: int,
        marks: SpecialTokens = WORD_MARKS,
        clean: Callable[[str], str] | None = None,
    ):
        self.tokenizer, self.length, self.marks, self.clean = tokenizer, length, marks, clean
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.start, self.end, self.pad, self.unknown = (self._id(mark) for mark in marks)
        self.vectors = _vectors(tokenizer)

    @classmethod
    def load(cls, path: Path, length: int) -> PromptTokenizer:
        """Read the `tokenizer.json` of a word tokenizer."""
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
        tokens = self.read(prompts)
        return tokens.ids[:, 0], tokens.warnings

    def read(self, prompts: Sequence[str], reading: PromptOptions | None = None) -> Tokens:
        """Ids and weights of prompts, all in as many chunks as the longest needs."""
        reading = reading or PromptOptions()
        warnings: list[str] = []
        laid = [self._lay_out(prompt, reading, warnings) for prompt in prompts]
        chunks = max([reading.chunks, *(len(parts) for parts in laid)])
        ids = np.full((len(laid), chunks, self.length), self.pad, np.int64)
        weights = np.ones(ids.shape, np.float32)
        ids[:, :, 0], ids[:, :, 1] = self.start, self.end
        for i, parts in enumerate(laid):
            for j, part in enumerate(parts):
                row = [id for unit in part for id in unit.ids]
                scale = [unit.weight for unit in part for _ in unit.ids]
                ids[i, j, 1 : len(row) + 2] = [*row, self.end]
                weights[i, j, 1 : len(row) + 1] = scale
        return Tokens(ids, weights, [len(parts) for parts in laid], warnings)

    def _lay_out(
        self, prompt: str, reading: PromptOptions, warnings: list[str]
    ) -> list[list[TokenGroup]]:
        """The units of each chunk of a prompt."""
        found = [mark for mark in (self.marks.start, self.marks.end) if mark in prompt]
        if found:
            warnings.append(f"{' and '.join(found)} in a prompt is read as text, not as a mark")
        sections = [[WeightedText(prompt, 1.0)]]
        if reading.prompt_weights == "a1111":
            sections = parse_prompt_weights(prompt)
        if self.clean is not None:
            sections = [[WeightedText(self.clean(t), w) for t, w in parts] for parts in sections]
        strange: list[str] = []
        units = [
            [u for j, part in enumerate(parts) for u in self._units(part, (i, j), strange)]
            for i, parts in enumerate(sections)
        ]
        if strange:
            warnings.append(f"words the model never saw: {', '.join(dict.fromkeys(strange))}")
        chunks = _fill(units, self.length - 2)
        if reading.long_prompts == "chunk":
            return chunks
        lost = [unit for chunk in chunks[1:] for unit in chunk]
        if lost:
            size = sum(len(unit.ids) for section in units for unit in section)
            name = "words" if self.marks is WORD_MARKS else "tokens"
            text = _text_from(sections, lost[0].place).strip()
            warnings.append(
                f"the prompt has {size} {name}, the model reads {self.length - 2}"
                f"{', and BREAK needs long_prompts=chunk' if len(sections) > 1 else ''}; "
                f"left out: {text if len(text) <= 200 else text[:200] + ' ...'}"
            )
        return chunks[:1]

    def _units(
        self, fragment: WeightedText, place: tuple[int, int], strange: list[str]
    ) -> Iterator[TokenGroup]:
        """The units of one fragment; words outside the vocabulary are added to `strange`."""
        text, weight = fragment
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        begin, word = 0, None
        for id, (a, b), w in zip(encoding.ids, encoding.offsets, encoding.word_ids, strict=True):
            if id == self.unknown:
                strange.append(text[a:b])
            if w is None or w != word:
                begin, word = a, w
            yield TokenGroup(self.vectors.get(id, (id,)), weight, (*place, begin))


def _fill(sections: list[list[TokenGroup]], room: int) -> list[list[TokenGroup]]:
    """Chunks of at most `room` ids; a section begins a new one, an empty last one is dropped."""
    chunks: list[list[TokenGroup]] = []
    for section in sections:
        chunks.append([])
        used = 0
        for unit in section:
            if used + len(unit.ids) > room:
                chunks.append([])
                used = 0
            chunks[-1].append(unit)
            used += len(unit.ids)
    return chunks if chunks[-1] or len(chunks) == 1 else chunks[:-1]


def _text_from(sections: list[list[WeightedText]], place: tuple[int, int, int]) -> str:
    """The prompt from a place on."""
    i, j, begin = place
    texts = ["".join(part.text for part in parts) for parts in sections[i + 1 :]]
    first = sections[i][j].text[begin:] + "".join(part.text for part in sections[i][j + 1 :])
    return " BREAK ".join([first, *texts])


def _vectors(tokenizer: Tokenizer) -> dict[int, tuple[int, ...]]:
    """The ids of added words with several vectors: word, word_1, word_2, ..., as diffusers does."""
    added = {t.content: id for id, t in tokenizer.get_added_tokens_decoder().items()}
    found = {}
    for word, id in added.items():
        ids = [id]
        while (following := added.get(f"{word}_{len(ids)}")) is not None:
            ids.append(following)
        found[id] = tuple(ids)
    return {id: ids for id, ids in found.items() if len(ids) > 1}


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
