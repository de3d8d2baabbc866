"""The tokens of prompts, and those that do not come from text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class SpecialTokens(NamedTuple):
    """The tokens that do not come from text.

    Args:
        start: The token before each chunk; "" for none.
        end: The token after each chunk; "" for none.
        pad: The token that fills chunks.
        unknown: The token for words outside the vocabulary.

    >>> from ldmref.prompts import SpecialTokens
    >>> SpecialTokens("<start>", "<end>", "<pad>", "<unknown>").pad
    '<pad>'
    """

    start: str
    end: str
    pad: str
    unknown: str


@dataclass(frozen=True)
class Tokens:
    """Tokenized prompts, in chunks of the text encoder's length.

    Attributes:
        ids: (n, chunks, length) int64.
        weights: (n, chunks, length) float32, 1 by default.
        mask: (n, chunks, length) int64, 1 for the tokens of the text with its start, end and
            template, 0 for padding.
        counts: The number of chunks that each prompt needs.
        truncated: The number of tokens of each prompt that were left out.
        warnings: Warnings, one line each.
        dropped: The number of leading tokens whose hidden states the denoiser does not read.

    >>> from ldmref.prompts import PromptTokenizer, word_tokenizer
    >>> tokenizer = PromptTokenizer(word_tokenizer(["a red cat"], 8), length=4)
    >>> tokens = tokenizer.tokenize(["a red cat"])
    >>> tokens.ids.shape, tokens.truncated, len(tokens.warnings)
    ((1, 1, 4), [1], 1)
    """

    ids: np.ndarray
    weights: np.ndarray
    mask: np.ndarray
    counts: list[int]
    truncated: list[int]
    warnings: list[str]
    dropped: int = 0
