"""Prompt weights in the notation of A1111's web interface."""

from __future__ import annotations

import re
from typing import NamedTuple

from array_api_compat import array_namespace

from ldmref.errors import UsageError
from ldmref.math.arrays import Array

FACTORS = {"(": 1.1, "[": 1 / 1.1}  # of one pair of brackets
MAX_WEIGHT = 1000.0

_LEXEME = re.compile(
    r"""(?P<escape>\\[()\[\]\\]?)
      | (?P<open>[(\[])
      | :\s*(?P<weight>[+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*\)
      | (?P<close>[)\]])
      | (?P<text>[^\\()\[\]:]+|:)""",
    re.VERBOSE,
)
_BREAK = re.compile(r"\bBREAK\b")


class WeightedText(NamedTuple):
    """A span of text with one weight for all its tokens.

    Args:
        text: The text.
        weight: The weight, from -1000 to 1000; 1 without brackets.

    >>> from ldmref.prompts import parse_prompt_weights
    >>> parse_prompt_weights("a (red) cat")[0][1]
    WeightedText(text='red', weight=1.1)
    """

    text: str
    weight: float


def parse_prompt_weights(prompt: str) -> list[list[WeightedText]]:
    r"""Split a prompt at BREAK into sections, and each section into spans of equal weight.

    (word) multiplies by 1.1, (word:1.3) by 1.3, [word] by 1 / 1.1. Brackets nest, and an unclosed
    one extends to the end. An unmatched closing bracket is text, and so is an unmatched `:1.3)`.
    \( \) \[ \] \\ are the literal characters; any other backslash is dropped. Adjacent spans of
    equal weight are joined.

    Args:
        prompt: A prompt in the notation of A1111.

    Returns:
        For each section, its spans in order.

    Source: AUTOMATIC1111/stable-diffusion-webui, modules/prompt_parser.py, `parse_prompt_attention`
    (version 1.10). Differs in one respect: BREAK within brackets is still a break.

    Raises:
        UsageError: A weight is above 1000 or below -1000.

    >>> from ldmref.prompts import parse_prompt_weights
    >>> parse_prompt_weights(r"a (red:1.3) [hat] \(x\)")[0][1]
    WeightedText(text='red', weight=1.3)
    """
    texts: list[str | None] = []  # None is a BREAK
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def add(text: str | None) -> None:
        texts.append(text)
        weights.append(1.0)

    def scale(begin: int, factor: float) -> None:
        weights[begin:] = [weight * factor for weight in weights[begin:]]

    for match in _LEXEME.finditer(prompt):
        lexeme = match[0]
        kind = match.lastgroup
        bracket = "[" if lexeme == "]" else "("
        if kind == "escape":
            add(lexeme[1:])
        elif kind == "open":
            opened[lexeme].append(len(texts))
        elif kind in ("close", "weight") and opened[bracket]:
            scale(opened[bracket].pop(), float(match["weight"] or FACTORS[bracket]))
        else:
            pieces = _BREAK.split(lexeme)
            for i, text in enumerate(pieces):
                if i:
                    add(None)
                    text = text.lstrip()
                add(text if i == len(pieces) - 1 else text.rstrip())
    for bracket, factor in FACTORS.items():
        for begin in opened[bracket]:
            scale(begin, factor)

    strongest = max(weights, key=abs, default=1.0)
    if abs(strongest) > MAX_WEIGHT:
        message = f"a prompt weight of {strongest:g} is too large, the limit is {MAX_WEIGHT:g}"
        hint = "weights from 0.5 to 1.5 are usual"
        raise UsageError(message, code="E-PROMPT-WEIGHTS", hint=hint)
    sections: list[list[WeightedText]] = [[]]
    for text, weight in zip(texts, weights, strict=True):
        if text is None:
            sections.append([])
        elif sections[-1] and sections[-1][-1].weight == weight:
            sections[-1][-1] = WeightedText(sections[-1][-1].text + text, weight)
        else:
            sections[-1].append(WeightedText(text, weight))
    return sections


def emphasize(hidden: Array, weights: Array) -> Array:
    r"""Return hidden states scaled by the weights of their tokens, with the mean of each chunk
    restored.

    .. math:: y = w\,z\,\frac{\operatorname{mean}(z)}{\operatorname{mean}(w z)}

    with means over all elements of a chunk, and y = w z if mean(w z) = 0. The means are computed in
    at least float32. Restoring the mean is purely empirical: images look better.

    Args:
        hidden: Hidden states z, (n, l, d).
        weights: Weights w, (n, l).

    Returns:
        Shape and dtype of `hidden`; weights of 1 return `hidden` bit for bit.

    Source: AUTOMATIC1111/stable-diffusion-webui, modules/sd_emphasis.py, "Original".

    >>> import numpy as np
    >>> from ldmref.prompts import emphasize
    >>> emphasize(np.asarray([[[1.0], [3.0]]]), np.asarray([[1.0, 2.0]])).ravel().round(3)
    array([0.571, 3.429])
    """
    xp = array_namespace(hidden, weights)
    dtype = xp.float64 if hidden.dtype == xp.float64 else xp.float32

    def mean(z: Array) -> Array:
        return xp.mean(xp.astype(z, dtype), axis=(1, 2), keepdims=True)

    scaled = hidden * xp.astype(weights, hidden.dtype)[:, :, None]
    before = mean(hidden)
    after = mean(scaled)
    one = xp.ones_like(after)
    ratio = xp.where(after == 0, one, before / xp.where(after == 0, one, after))
    return scaled * xp.astype(ratio, hidden.dtype)
