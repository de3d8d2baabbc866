"""Tables of angles: which positions a port's stand for.

Ports pass cosines and sines of the angles p theta^(-2 k / d) to each block, (l, d) with both
channels of a pair beside each other (diffusers: `image_rotary_emb`); ldmref passes the positions p.
The slowest frequency of an axis tells p, as its angle is small; the others must then agree.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ldmref.locate.recorded.names import read_array
from ldmref.models.transformer_layers import THETA, find_angles
from ldmref.trace.model import Trace, TraceEntry

TABLES = ("image_rotary_emb.0", "image_rotary_emb.1")
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
