"""Known faults of learned tokens: those that fill up an image or a text, as Z-Image's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ldmref.locate.faults.variants import Given
from ldmref.locate.replay.points import FollowedRun, Point

NOUNS = {"cap_pad_token": "text", "x_pad_token": "image"}  # what a learned token fills up
SAME = 1e-6  # of the largest value: rounding of a token in float32


def other_filling(replay: FollowedRun, point: Point) -> Iterator[Given]:
    """Yield tokens that others fill up than the learned ones: zeros, other tokens, or the last."""
    computed = np.asarray(point.computed)
    if not point.role or computed.ndim != 3 or computed.dtype.kind != "f":
        return
    found = {noun: replay.parameters_of(name) for name, noun in NOUNS.items()}
    tokens = {noun: np.ravel(x) for noun, x in found.items() if x is not None}
    tokens = {noun: x for noun, x in tokens.items() if x.shape == computed.shape[-1:]}
    for noun, token in tokens.items():
        filled = np.abs(computed - token).max(axis=-1) <= SAME * np.abs(token).max()
        if not filled.any() or filled.all(axis=1).any():
            continue
        rows = filled[..., None]
        text = f"the tokens that fill up the {noun} are"
        yield f"{text} 0", np.where(rows, 0.0, computed)
        for other in tokens.keys() - {noun}:
            yield f"{text} those of the {other}", np.where(rows, tokens[other], computed)
        last = np.maximum(np.argmax(filled, axis=1) - 1, 0)  # rows behind may be read by nobody
        repeated = computed[np.arange(len(computed)), last][:, None, :]
        yield f"{text} the last one again", np.where(rows, repeated, computed)
