"""Tables of angles: which positions a port's stand for, and what rounding makes of a network's own.

Ports pass cosines and sines of the angles p theta^(-2 k / d) to each block, (l, d) with both
channels of a pair beside each other (diffusers: `image_rotary_emb`); ldmref passes the positions p.
The slowest frequency of an axis tells p, as its angle is small; the others must then agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ldmref.backends.named import LayerCall
from ldmref.locate.names import read_array
from ldmref.locate.precision import Rounding
from ldmref.locate.unfit import UNFIT
from ldmref.models.transformer_layers import THETA, find_angles
from ldmref.trace.model import Trace, TraceEntry

TABLES = ("image_rotary_emb.0", "image_rotary_emb.1")
# Tables that a network makes once for all of its layers, by operations that read them. Those of
# angles are rounded before a layer begins: by |angle| units, which grows with the position.
OF_OPERATIONS = {"turn_pairs": ("cos", "sin")}
CLOSE = 2.0**-6  # of a cosine or a sine: tables of bfloat16 are of this position


def read_positions(port: Trace, entry: TraceEntry, dims: Sequence[int]) -> np.ndarray | None:
    """Return the positions (l, axes) of the tokens of a layer.

    Args:
        port: The trace.
        entry: The layer.
        dims: The channels of each axis.

    Returns:
        Whole numbers; None if no tables were recorded, or if theirs are no such positions.
    """
    if not dims or any(role not in entry.inputs for role in TABLES):
        return None
    cosines, sines = (read_array(port, entry.inputs[role]) for role in TABLES)
    if cosines.ndim != 2 or cosines.shape != sines.shape or cosines.shape[1] != sum(dims):
        return None
    ends = np.cumsum(dims)
    slowest = [THETA ** (-(d - 2) / d) for d in dims]
    angles = np.arctan2(sines[:, ends - 1], cosines[:, ends - 1])
    positions = np.rint(angles / slowest)
    expected = np.repeat(find_angles(positions, tuple(dims), THETA), 2, axis=1)
    apart = np.maximum(np.abs(np.cos(expected) - cosines), np.abs(np.sin(expected) - sines))
    return positions if float(apart.max(initial=0.0)) <= CLOSE else None


class _TableKeeper(Rounding):
    """A run in a number format that keeps the tables which operations read."""

    def __init__(self, dtype: str):
        super().__init__(dtype)
        self.tables: dict[str, dict[str, np.ndarray]] = {}

    def visit(self, call: LayerCall) -> Any:
        if call.kind in OF_OPERATIONS:
            self.tables[call.name] = {role: call.inputs[role] for role in OF_OPERATIONS[call.kind]}
        return super().visit(call)


def make_tables(
    dtype: str, function: Callable, params: Mapping[str, Any], arguments: Mapping[str, Any]
) -> dict[str, dict[str, np.ndarray]]:
    """Return the tables that operations of a network read, by their names.

    Args:
        dtype: The number format in which the network computes them.
        function: The network.
        params: Its parameters.
        arguments: Its other arguments.
    """
    keeper = _TableKeeper(dtype)
    keeper.name_parameters(params)
    kind = np.dtype(keeper.inner.dtype)
    cast = {
        name: x.astype(kind) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x
        for name, x in arguments.items()
    }
    try:
        with np.errstate(all="ignore"), keeper.observed(""):
            function(keeper, params, **cast)
    except UNFIT:  # arrays that do not fit are judged elsewhere
        pass
    return keeper.tables
