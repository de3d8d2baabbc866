"""A tokenizer of whole words: that of the models that are trained here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from ldmref.prompts.emoji import with_emoji_names
from ldmref.prompts.tokenizer import END, PAD, START, UNKNOWN


def word_tokenizer(captions: Iterable[str], max_words: int) -> Tokenizer:
    """A tokenizer of whole words: the most frequent ones in `captions`.

    Text is lower-cased and stripped of accents; a word is a run of letters or digits, or one of
    the characters # * ! &; everything else separates words.
    """
    tokenizer = Tokenizer(models.WordLevel({UNKNOWN: 0}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    word_pattern = Regex(r"[\p{L}\p{N}]+|[#*!&]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(word_pattern, behavior="removed", invert=True)
    frequency = Counter(word for caption in captions for word in split_words(tokenizer, caption))
    ranked = sorted(frequency, key=lambda word: (-frequency[word], word))
    tokens = [PAD, START, END, UNKNOWN, *ranked][:max_words]
    ids = {token: id for id, token in enumerate(tokens)}
    tokenizer.model = models.WordLevel(ids, unk_token=UNKNOWN)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, 1), (END, 2)]
    )
    return tokenizer


def split_words(tokenizer: Tokenizer, text: str) -> list[str]:
    """The words of `text` as a word tokenizer splits it; an emoji stands for its name."""
    text = tokenizer.normalizer.normalize_str(with_emoji_names(text))
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
