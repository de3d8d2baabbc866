"""Weights that are not the model's: never loaded, of another checkpoint, quantised or merged.

A linear layer computes y = W x + b. Where a recording has more rows than W has columns, W and b
follow from x and y, and if they leave only rounding, the layer is right and its weights are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ldmref.backends.named import LayerCall

OTHERS = "has other weights than the model"
CHANGED = "has weights that change its output by {:.2g} %"
RELATED = 0.5  # of an output: what changes it more is another weight
NORMS = {
    "layer_norm": -1,
    "rms_norm": -1,
    "divide_by_rms": -1,
    "group_norm": 1,
}  # the axis of their channels
TINY = float(np.finfo(np.float64).tiny)
ALIKE = 1e-6  # of the largest value: rows that differ by rounding alone
MORE = 4  # rows than unknowns, at which a layer that computes something else does not fit


class FittedLayer(NamedTuple):
    """A layer with the weights that its recorded arrays show.

    Attributes:
        text: In words, how far what they compute is from what the model's do.
        array: What it computes with them.
    """

    text: str
    array: np.ndarray


def fit_weights(
    call: LayerCall, inputs: Mapping[str, Any], recorded: np.ndarray
) -> FittedLayer | None:
    """Return a layer with the weights that fit what it read and returned best.

    Args:
        call: A linear layer, a convolution or a norm, with the model's parameters.
        inputs: What it read, with its parameters.
        recorded: What it returned.

    Returns:
        The layer; None if it is another one, or the arrays have too few rows.
    """
    weight = inputs.get("weight")
    x = inputs.get("input")
    if not isinstance(weight, np.ndarray) or not isinstance(x, np.ndarray):
        return None
    if not np.isfinite(x).all() or not np.isfinite(recorded).all():
        return None
    if call.kind in NORMS:
        return _fit_norm(call, inputs, recorded, NORMS[call.kind])
    rows = x if call.kind == "linear" else _windows(call, x, weight, recorded)
    if rows is None or call.kind not in ("linear", "conv2d"):
        return None
    channels_last = recorded if call.kind == "linear" else np.moveaxis(recorded, 1, -1)
    flat, target = (a.reshape(-1, a.shape[-1]) for a in (rows, channels_last))
    has_bias = isinstance(inputs.get("bias"), np.ndarray)
    design = np.concatenate([flat, np.ones((len(flat), 1))], axis=1) if has_bias else flat
    if len(design) < design.shape[1] + MORE or len(target) != len(design):
        return None
    if np.ptp(target, axis=0).max() <= ALIKE * np.abs(target).max():
        return None  # all rows are the same one, which tells nothing of weights
    own = weight.reshape(len(weight), -1).T
    known = np.concatenate([own, inputs["bias"][None]]) if has_bias else own
    expected = design @ known
    change = np.linalg.lstsq(design, target - expected, rcond=None)[0]
    text = _describe(design @ change, expected)
    array = (expected + design @ change).reshape(channels_last.shape)
    return FittedLayer(text, array if call.kind == "linear" else np.moveaxis(array, -1, 1))


def _describe(change: np.ndarray, expected: np.ndarray) -> str:
    """Return in words how far weights are from the model's, by what they change of an output."""
    apart = float(np.linalg.norm(change) / max(float(np.linalg.norm(expected)), TINY))
    return OTHERS if apart > RELATED else CHANGED.format(100.0 * apart)


def _windows(
    call: LayerCall, x: np.ndarray, weight: np.ndarray, like: np.ndarray
) -> np.ndarray | None:
    """Return what each position of a convolution reads, (n, h, w, c kh kw); None: another size."""
    padding, stride = (call.attributes.get(name, d) for name, d in (("padding", 0), ("stride", 1)))
    if x.ndim != 4 or weight.ndim != 4 or x.shape[1] != weight.shape[1]:
        return None
    edges = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    size = weight.shape[2:]
    seen = np.lib.stride_tricks.sliding_window_view(np.pad(x, edges), size, axis=(2, 3))
    seen = np.moveaxis(seen[:, :, ::stride, ::stride], 1, 3)
    rows = seen.reshape(*seen.shape[:3], -1)
    return rows if like.ndim == 4 and rows.shape[:3] == (len(like), *like.shape[2:]) else None


def _fit_norm(
    call: LayerCall, inputs: Mapping[str, Any], recorded: np.ndarray, axis: int
) -> FittedLayer | None:
    """Return a norm with the scale and shift of each channel that fit best."""
    plain = {name: x for name, x in inputs.items() if name not in ("weight", "bias")}
    weight = np.asarray(inputs["weight"])
    bias = inputs.get("bias")
    plain["weight"] = np.ones_like(weight)
    if isinstance(bias, np.ndarray):
        plain["bias"] = np.zeros_like(bias)
    normed = np.asarray(call.compute(plain))
    if normed.shape != recorded.shape:
        return None
    x, y = (np.moveaxis(a, axis, -1).reshape(-1, a.shape[axis]) for a in (normed, recorded))
    unknowns = 1 + isinstance(bias, np.ndarray)
    if len(x) < unknowns + MORE:
        return None
    centre = (x.mean(axis=0), y.mean(axis=0)) if unknowns == 2 else (0.0, 0.0)
    dx, dy = x - centre[0], y - centre[1]
    scale = (dx * dy).sum(axis=0) / np.maximum((dx * dx).sum(axis=0), TINY)
    fitted = scale * dx + centre[1]
    moved = np.moveaxis(normed, axis, -1)
    array = np.moveaxis(fitted.reshape(moved.shape), -1, axis)
    return FittedLayer(_describe((scale - weight) * dx, weight * dx), array)
