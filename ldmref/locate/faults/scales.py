"""Known faults of quantized weights: scales that a port forgets where it multiplies.

A float8 weight W = s Q has a scale s, or one for each row. A port that multiplies by Q alone adds
the right bias to a product that is too small or too large.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ldmref.locate.faults.variants import Given
from ldmref.locate.law import GAIN
from ldmref.locate.recorded.layouts import relative_error
from ldmref.locate.replay.points import FollowedRun, Point

KINDS = ("linear", "conv2d")
LEAST_OF_ROW = 16  # numbers of a row from which a factor can be told


def forgotten_scale(replay: FollowedRun, point: Point) -> Iterator[Given]:
    """Yield products that are scaled by one factor, or by one for each row of the weight."""
    if point.role or point.call.kind not in KINDS or point.recorded.shape != point.computed.shape:
        return
    axis = 1 if point.call.kind == "conv2d" else point.computed.ndim - 1
    bias = replay.parameters(point.call).get("bias")
    term = np.zeros(1) if bias is None else np.asarray(bias, np.float64)
    term = term.reshape([-1 if i == axis else 1 for i in range(point.computed.ndim)])
    product = np.asarray(point.computed, np.float64) - term
    found = np.asarray(point.recorded, np.float64) - term
    power = float(np.vdot(product, product))
    if not power:
        return
    factor = float(np.vdot(product, found)) / power
    if term.any() and factor:  # without a bias the output is scaled, which any array may be
        text = f"the product is scaled by {factor:.5g}, and the bias is not"
        yield f"{text}: a scale of the weights is missing", factor * product + term
    others = tuple(i for i in range(product.ndim) if i != axis)
    powers = np.square(product).sum(axis=others, keepdims=True)
    if product.size < LEAST_OF_ROW * product.shape[axis] or not powers.all():
        return
    factors = (product * found).sum(axis=others, keepdims=True) / powers
    left = relative_error(factors * product, found)
    if factors.all() and relative_error(factor * product, found) > GAIN * left:
        text = f"the rows of the product are scaled, by {factors.min():.4g} to {factors.max():.4g}"
        yield f"{text}: scales of the weights are missing", factors * product + term
