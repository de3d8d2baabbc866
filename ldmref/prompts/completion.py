"""The words that a tokenizer has as one token, and those that begin with some letters."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, models

from ldmref.prompts.tokenizer import PromptTokenizer

SHORTEST = 2  # letters of a word that is worth completing
INSIDE = "##"  # how WordPiece begins a token that continues a word
SPACE = "\u2581"  # how SentencePiece begins a token that begins a word


def list_words(tokenizer: PromptTokenizer, shortest: int = SHORTEST) -> list[str]:
    """Return the words that a tokenizer has as one token, those with the smallest ids first.

    Vocabularies of words, of WordPiece and of byte-pair encoding are made so that frequent words
    come first. Words have letters only; of byte-pair encoding, whose tokens are bytes, only those
    of ASCII are read.

    Args:
        tokenizer: The tokenizer.
        shortest: The number of letters that a word has at least.

    >>> from ldmref.prompts import PromptTokenizer, word_tokenizer
    >>> from ldmref.prompts.completion import list_words
    >>> captions = ["a red cat", "a red hat"]
    >>> list_words(PromptTokenizer(word_tokenizer(captions, 20), length=6))
    ['red', 'cat', 'hat']
    >>> list_words(PromptTokenizer(word_tokenizer(captions, 20), length=6), shortest=1)
    ['a', 'red', 'cat', 'hat']
    """
    vocabulary = tokenizer.tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    words = (read_word(tokenizer.tokenizer, token) for token in tokens)
    kept = (word.lower() for word in words if len(word) >= shortest and word.isalpha())
    return list(dict.fromkeys(kept))


def read_word(tokenizer: Tokenizer, token: str) -> str:
    """Return the word that a token is, "" if it is a part of one."""
    model = tokenizer.model
    if isinstance(model, models.BPE):
        suffix = model.end_of_word_suffix or ""
        return token.removesuffix(suffix) if token.endswith(suffix) and token.isascii() else ""
    if isinstance(model, models.Unigram):
        return token.removeprefix(SPACE) if token.startswith(SPACE) else ""
    return "" if token.startswith(INSIDE) else token


def complete_word(words: Sequence[str], start: str, most: int = 8) -> list[str]:
    """Return the first words that begin with a text and are longer, without regard to case.

    >>> from ldmref.prompts.completion import complete_word
    >>> complete_word(["red", "cat", "reindeer"], "RE")
    ['red', 'reindeer']
    """
    small = start.lower()
    found = (word for word in words if word.startswith(small) and word != small)
    return [word for _, word in zip(range(most), found, strict=False)]
