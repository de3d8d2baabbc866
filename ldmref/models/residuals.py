"""What ControlNets add to a denoiser: a named tuple of arrays, and of tuples of arrays.

Each family has its own: `Residuals` of a U-Net, `BlockResiduals` of a transformer.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from ldmref.backends.base import Backend


def map_residuals(function: Callable[..., Any], *residuals: object) -> Any:
    """Apply `function` to each array, or to the arrays at the same place of several residuals.

    Where one of several has nothing, an empty tuple, the result is what the others have.
    """
    first = residuals[0]
    if not isinstance(first, tuple):
        return function(*residuals)
    present = [part for part in residuals if part]
    if len(present) < len(residuals):
        return present[0] if present else first
    parts = [map_residuals(function, *same) for same in zip(*residuals, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)


def convert_residuals(ops: Backend, residuals: Any | None) -> Any | None:
    """Convert residuals to arrays of a backend."""
    if residuals is None:
        return None
    return map_residuals(lambda x: ops.own("control", x), residuals)


def weigh_residuals(weight: float, residuals: object) -> Any:
    """Return the product of a weight and residuals."""
    return map_residuals(lambda x: weight * x, residuals)


def add_residuals(terms: Sequence[Any]) -> Any | None:
    """Return the sum of the residuals of several ControlNets; None for no terms."""
    total = None
    for residuals in terms:
        total = residuals if total is None else map_residuals(operator.add, total, residuals)
    return total


def list_arrays(residuals: object) -> list[Any]:
    """Return the arrays of residuals in their order."""
    found: list[Any] = []
    map_residuals(found.append, residuals)
    return found
