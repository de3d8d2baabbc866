"""Why an array that should be finite is not: it overflows float16, or all keys are masked."""

from __future__ import annotations

import math

import numpy as np

LARGEST = 65504.0  # of float16


def explain_nonfinite(recorded: np.ndarray, computed: np.ndarray, kind: str) -> str:
    """Return why a recorded array is not finite where the right one is; "" if it is not known.

    Args:
        recorded: The array, with NaN or infinities.
        computed: What it should be, finite.
        kind: The operation that returns it, such as `attention`.

    >>> explain_nonfinite(np.array([1.0, np.inf]), np.array([1.0, 3e5]), "")
    'overflows float16: 3e+05 is above 65504, and fits when it is scaled by 2^-3'
    """
    if recorded.shape != computed.shape:
        return ""
    bad = ~np.isfinite(recorded)
    if (np.abs(computed[bad]) > LARGEST).all():
        largest = float(np.abs(computed).max())
        if not math.isfinite(largest):
            return ""
        power = math.ceil(math.log2(largest / LARGEST))
        return (
            f"overflows float16: {largest:.5g} is above 65504, and fits when it is scaled by "
            f"2^-{power}"
        )
    if kind == "attention" and (bad.all(axis=-1) == bad.any(axis=-1)).all():
        return "all keys of these queries are masked: the softmax of -inf alone is NaN"
    return ""
