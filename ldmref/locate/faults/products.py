"""Known faults of linear layers, convolutions and resampling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ldmref.backends.named import LayerCall
from ldmref.locate.faults.variants import Inputs, Variant, with_changes

# torch -> NumPy
PADDINGS: dict[str, Any] = {
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}


def missing_bias(call: LayerCall) -> Iterator[Variant]:
    """Yield the layer without its bias, and with its bias twice."""
    if "bias" in call.parameters:
        yield with_changes("bias is missing", bias=None)
        yield Variant("bias is added twice", lambda c, x: c.compute({**x, "bias": 2 * x["bias"]}))


def left_out(call: LayerCall) -> Iterator[Variant]:
    """Yield zeros, as if nothing read the output: a term that is not added."""
    yield Variant("the output is not used (zeros)", lambda c, x: np.zeros_like(c.compute(x)))


def transposed_weight(call: LayerCall) -> Iterator[Variant]:
    """Yield the layer with a transposed weight."""
    shape = call.parameters["weight"].shape
    if shape[0] != shape[1]:
        return
    axes = (1, 0, *range(2, len(shape)))
    text = "the weight is transposed"
    yield Variant(text, lambda c, x: c.compute({**x, "weight": x["weight"].transpose(axes)}))


def swapped_halves(call: LayerCall) -> Iterator[Variant]:
    """Yield the layer with the halves of its output exchanged: value and gate of GEGLU."""
    width = call.parameters["weight"].shape[0]
    if width % 2 == 0:
        text = "the halves of the output are swapped (gate and value)"
        yield Variant(text, lambda c, x: np.roll(c.compute(x), width // 2, axis=-1))


def other_padding(call: LayerCall) -> Iterator[Variant]:
    """Yield convolutions that pad with other values."""
    padding = call.attributes.get("padding", 0)
    if not padding:
        return
    edges = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    for name, mode in PADDINGS.items():
        yield Variant(
            f"padding mode {name} instead of zeros",
            lambda call, x, mode=mode: call.compute(
                {**x, "input": np.pad(x["input"], edges, mode=mode), "padding": 0}
            ),
        )


def other_edges(call: LayerCall) -> Iterator[Variant]:
    """Yield symmetric padding for asymmetric, and the reverse."""
    size = call.parameters["weight"].shape[-1]
    if size == 1:
        return
    padding = call.attributes.get("padding", 0)
    if padding:
        for text, edge in (
            ("asymmetric padding (right and bottom) instead of symmetric", (0, 2 * padding)),
            ("asymmetric padding (right and bottom, by one) instead of symmetric", (0, 1)),
            ("asymmetric padding (left and top) instead of symmetric", (2 * padding, 0)),
            ("no padding", (0, 0)),
        ):
            yield Variant(text, lambda call, x, edge=edge: _padded(call, x, edge))
    else:
        text = "symmetric padding instead of asymmetric"
        yield Variant(text, lambda call, x: call.compute({**x, "padding": size // 2}))
        yield Variant(
            f"{text}, of the padded image",
            lambda call, x: call.compute(
                {**x, "input": x["input"][:, :, :-1, :-1], "padding": size // 2}
            ),
        )


def _padded(call: LayerCall, x: Inputs, edge: tuple[int, int]) -> np.ndarray:
    image = np.pad(x["input"], ((0, 0), (0, 0), edge, edge))
    return call.compute({**x, "input": image, "padding": 0})


def flipped_kernel(call: LayerCall) -> Iterator[Variant]:
    """Yield a convolution in the mathematical sense, and one with rows and columns exchanged."""
    if call.parameters["weight"].shape[-1] > 1:
        text = "the kernel is flipped (convolution instead of cross-correlation)"
        yield Variant(
            text, lambda c, x: c.compute({**x, "weight": x["weight"][:, :, ::-1, ::-1].copy()})
        )
        text = "rows and columns of the kernel are exchanged"
        yield Variant(
            text, lambda c, x: c.compute({**x, "weight": x["weight"].swapaxes(2, 3).copy()})
        )


def other_stride(call: LayerCall) -> Iterator[Variant]:
    """Yield stride 1 for 2, and the reverse."""
    right = call.attributes.get("stride", 1)
    yield with_changes(f"stride {3 - right} instead of {right}", stride=3 - right)


def bilinear_upsampling(call: LayerCall) -> Iterator[Variant]:
    """Yield bilinear upsampling by 2, with and without aligned corners."""
    yield Variant("bilinear instead of nearest upsampling", lambda c, x: _resize(x["input"], False))
    yield Variant(
        "bilinear upsampling with aligned corners instead of nearest",
        lambda c, x: _resize(x["input"], True),
    )
    yield Variant("zeros between pixels instead of nearest upsampling", _zero_stuffed)
    text = "the image is tiled instead of nearest upsampling"
    yield Variant(text, lambda c, x: np.tile(x["input"], (1, 1, 2, 2)))


def _zero_stuffed(call: LayerCall, x: Inputs) -> np.ndarray:
    image = x["input"]
    n, c, h, w = image.shape
    y = np.zeros((n, c, 2 * h, 2 * w), image.dtype)
    y[:, :, ::2, ::2] = image
    return y


def _resize(x: np.ndarray, corners: bool) -> np.ndarray:
    for axis in (2, 3):
        n = x.shape[axis]
        if corners:
            place = np.arange(2 * n) * ((n - 1) / (2 * n - 1))
        else:
            place = np.maximum((np.arange(2 * n) + 0.5) / 2.0 - 0.5, 0.0)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, n - 1)
        weight = (place - low).reshape([-1 if i == axis else 1 for i in range(4)])
        x = np.take(x, low, axis) * (1.0 - weight) + np.take(x, high, axis) * weight
    return x


def other_corner(call: LayerCall) -> Iterator[Variant]:
    """Yield padding on the left and at the top, and by copies of the edge."""
    right = ((0, 0), (0, 0), (0, 1), (0, 1))
    left = ((0, 0), (0, 0), (1, 0), (1, 0))
    yield Variant("padded on the left and top", lambda c, x: np.pad(x["input"], left))
    yield Variant("padded with the edge", lambda c, x: np.pad(x["input"], right, mode="edge"))
    yield Variant("the padding is missing", lambda c, x: x["input"])
