"""The words of a prompt, and the tokens that each of them became."""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

from ldmref.prompts.chunks import Chunk
from ldmref.prompts.tokenizer import PromptOptions, PromptTokenizer


class PromptWord(NamedTuple):
    """A word of a prompt.

    Args:
        text: The word as the tokenizer read it.
        tokens: Positions of its tokens among the hidden states of all chunks.
        encoder: The kind of the text encoder, if the model has several kinds.
    """

    text: str
    tokens: tuple[int, ...]
    encoder: str = ""


def find_words(
    tokenizer: PromptTokenizer, prompt: str, options: PromptOptions | None = None
) -> list[PromptWord]:
    """Return the words of a prompt in their order; words that were cut off are left out.

    Byte-pair encoding divides a word into several tokens, and an added word of textual inversion
    has several vectors; all of them belong to the word. Start, end and padding tokens belong to
    none.

    >>> from ldmref.prompts.words import word_tokenizer
    >>> tokenizer = PromptTokenizer(word_tokenizer(["a red cat"], 8), length=6)
    >>> [(word.text, word.tokens) for word in find_words(tokenizer, "A red cat!")]
    [('A', (1,)), ('red', (2,)), ('cat', (3,)), ('!', (4,))]
    """
    parsed = tokenizer.tokenize_one(prompt, options or PromptOptions())
    before = len(parsed.head) - tokenizer.template.dropped
    words = []
    for i, chunk in enumerate(parsed.chunks):
        words += _words_of_chunk(chunk, parsed.text, i * tokenizer.kept + before)
    return words


def _words_of_chunk(chunk: Chunk, text: str, first: int) -> list[PromptWord]:
    """Return the words of a chunk whose first token has the position `first`."""
    words = []
    for start, groups in groupby(chunk, key=lambda group: group.position):
        parts = list(groups)
        count = sum(len(part.ids) for part in parts)
        tokens = tuple(range(first, first + count))
        words.append(PromptWord(text[start : parts[-1].end].strip(), tokens))
        first = first + count
    return words
