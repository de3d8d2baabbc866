"""Error bounds of single operations, relative to the largest value of their result."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import numpy as np

from ldmref.backends.base import Backend
from ldmref.locate.points import Point


def bound_of(point: Point, parameters: Mapping[str, np.ndarray], dtype: str) -> float | None:
    """Return the bound on a layer's own error, None for layers without one.

    Args:
        point: The output of a layer.
        parameters: The layer's parameters in the port's number format.
        dtype: That format.
    """
    if point.role or point.call.composite:
        return None
    from ldmref.backends.bounds import OPERATIONS, error_bound

    if point.call.kind not in OPERATIONS:
        return None
    names = list(inspect.signature(getattr(Backend, point.call.kind)).parameters)[1:]
    values = {**point.call.attributes, **parameters, **point.inputs}
    values[names[0]] = point.inputs["input"]
    values.pop("input", None)
    first = tuple(values.pop(name) for name in names[:2] if name in values)
    rest = {name: values[name] for name in names if name in values}
    bound = error_bound(point.call.kind, first, rest, dtype, point.computed)
    scale = float(np.max(np.abs(point.computed), initial=0.0))
    return float(np.max(bound, initial=0.0)) / scale if scale else None
