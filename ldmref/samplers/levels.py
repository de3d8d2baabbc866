"""Noise levels that a caller gives, as numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ldmref.errors import UsageError, short_repr
from ldmref.samplers.path import VE, NoisePath


def noise_levels(sigmas: Sequence[float] | np.ndarray, path: NoisePath = VE) -> list[float]:
    """Return numbers, or a one-dimensional array of them, as a list of Python floats.

    Args:
        sigmas: The numbers.
        path: The path on which they are levels.

    Raises:
        UsageError: `sigmas` is not a list of finite numbers of at least 0, or has a level at which
            the path has no data left: above 1 on `FLOW`.
    """
    try:
        if isinstance(sigmas, str | bytes):
            raise TypeError("text")
        levels = [_number(sigma) for sigma in sigmas]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise UsageError(
            f"sigmas must be a list of numbers, not {short_repr(sigmas)}", code="E-SIGMAS"
        ) from None
    for sigma in levels:
        if not 0.0 <= sigma < math.inf:
            raise UsageError(
                f"sigmas must be finite numbers of at least 0, not {short_repr(sigma)}",
                code="E-SIGMAS",
            )
        if path.alpha(sigma) < 0.0:
            raise UsageError(
                f"sigmas on the path {path.name!r} must be from 0 to 1, not {short_repr(sigma)}",
                code="E-SIGMAS",
            )
    return levels


def _number(value: Any) -> float:
    """Return a number, or an array of one number, as a float; refuse text and truth values."""
    if isinstance(value, str | bytes | bool):
        raise TypeError("not a number")
    return float(value)
