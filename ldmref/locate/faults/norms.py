"""Known faults of group and layer normalization."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from ldmref.backends.named import LayerCall
from ldmref.locate.faults.variants import Inputs, Variant, with_changes
from ldmref.locate.recorded.layouts import HEADS
from ldmref.locate.replay.points import OperationChange

# The smallest number that changes 1 in float32, float16 and bfloat16: torch's eps of RMS norms.
OF_FORMATS = (2.0**-23, 2.0**-10, 2.0**-7)
USUAL = (1e-5, 1e-6, *OF_FORMATS, 1e-8, 0.0)
EPSILONS = (1e-3, 1e-4, 1e-5, 1e-6, *OF_FORMATS, 1e-8, 1e-12, 0.0, 1e-2, 1e-1)
SMALL = 1e-2  # a number that is added and less than this is an eps
KINDS = {
    "divide_by_rms": "RMS norms",
    "layer_norm": "layer norms",
    "divide_by_deviation": "layer norms",
    "group_norm": "group norms",
}


def other_eps(call: LayerCall) -> Iterator[Variant]:
    """Yield the usual values of eps."""
    right = call.attributes["eps"]
    for eps in EPSILONS:
        if eps != right:
            yield with_changes(f"eps {eps:g} instead of {right:g}", eps=eps)


def eps_of_norm(call: LayerCall) -> tuple[str, float] | None:
    """Return the attribute that holds the eps of a norm, and the eps; None for other operations.

    A norm that is written as its operations adds it as a number.
    """
    norm = call.kind in KINDS
    name = "eps" if norm else "number" if call.kind == "add_number" else ""
    eps = call.attributes.get(name)
    if not isinstance(eps, int | float) or not (norm or 0.0 < eps < SMALL):
        return None
    return name, float(eps)


def eps_of_all(calls: Iterable[LayerCall]) -> Iterator[tuple[str, dict[str, OperationChange]]]:
    """Yield other values of eps in all norms of a module, of a kind, and of a part.

    Args:
        calls: The operations of the part.

    Yields:
        The fault in words, and the changes by the names of the norms.
    """
    groups: dict[tuple[str, float], dict[str, str]] = {}
    for call in calls:
        found = eps_of_norm(call)
        if found is not None:
            attribute, eps = found
            around = call.name.rpartition(".")[0]
            around = around.rpartition(".")[0] if "norm" in around.rpartition(".")[2] else around
            for where in (f"norms of {around}", KINDS.get(call.kind, "norms"), "norms"):
                groups.setdefault((where, eps), {})[call.name] = attribute
    seen: list[dict[str, str]] = []
    for (where, right), norms in groups.items():
        if len(norms) < 2 or norms in seen:
            continue
        seen.append(norms)
        for eps in USUAL:
            if eps != right:
                variants = {name: with_changes("", **{key: eps}) for name, key in norms.items()}
                text = f"eps {eps:g} instead of {right:g} in all {where}"
                yield text, {name: variant.change for name, variant in variants.items()}


def eps_outside(call: LayerCall) -> Iterator[Variant]:
    """Yield eps added to the standard deviation instead of the variance."""
    eps = call.attributes["eps"]

    def change(call: LayerCall, x: Inputs) -> np.ndarray:
        centred, variance = _moments(call, x)
        return _affine(call, x, centred / (np.sqrt(variance) + eps))

    yield Variant("eps is added to the standard deviation instead of the variance", change)


def unbiased_variance(call: LayerCall) -> Iterator[Variant]:
    """Yield the variance divided by n - 1."""
    eps = call.attributes["eps"]

    def change(call: LayerCall, x: Inputs) -> np.ndarray:
        centred, variance = _moments(call, x)
        n = centred.shape[-1]
        return _affine(call, x, centred / np.sqrt(variance * (n / (n - 1)) + eps))

    if _length(call) > 1:
        yield Variant("unbiased variance (divided by n - 1)", change)


def missing_affine(call: LayerCall) -> Iterator[Variant]:
    """Yield the norm without its weight, without its bias, and without both."""
    base = call.attributes.get("base", 0.0)  # which the weight is added to
    neutral = 1.0 - base
    yield Variant(
        "weight is missing",
        lambda c, x: c.compute({**x, "weight": np.full_like(x["weight"], neutral)}),
    )
    if "bias" in call.parameters:
        yield Variant(
            "bias is missing", lambda c, x: c.compute({**x, "bias": np.zeros_like(x["bias"])})
        )
        yield Variant(
            "weight and bias are missing",
            lambda c, x: c.compute(
                {**x, "weight": np.ones_like(x["weight"]), "bias": np.zeros_like(x["bias"])}
            ),
        )
    if base:
        yield with_changes(f"weight instead of {base:g} + weight", base=0.0)
        return
    yield Variant(
        "weight + 1 instead of weight", lambda c, x: c.compute({**x, "weight": x["weight"] + 1})
    )


def root_mean_square(call: LayerCall) -> Iterator[Variant]:
    """Yield the norm without subtraction of the mean."""
    eps = call.attributes["eps"]

    def change(call: LayerCall, x: Inputs) -> np.ndarray:
        flat = _flat(call, x["input"])
        return _affine(call, x, flat / np.sqrt(np.mean(flat * flat, -1, keepdims=True) + eps))

    yield Variant("the mean is not subtracted (RMS norm)", change)


def other_mean_square(call: LayerCall) -> Iterator[Variant]:
    """Yield RMS norms of another mean square: of all heads, without the mean, and other roots."""
    eps = call.attributes["eps"]
    base = call.attributes.get("base", 0.0)

    def change(call: LayerCall, x: Inputs, axes: tuple[int, ...]) -> np.ndarray:
        y = x["input"]
        return y / np.sqrt(np.mean(y * y, axis=axes, keepdims=True) + eps) * (base + x["weight"])

    def centred(call: LayerCall, x: Inputs) -> np.ndarray:
        y = x["input"]
        return call.compute({**x, "input": y - y.mean(axis=-1, keepdims=True)})

    def outside(call: LayerCall, x: Inputs) -> np.ndarray:
        y = x["input"]
        root = np.sqrt(np.mean(y * y, axis=-1, keepdims=True))
        return y / (root + eps) * (base + x["weight"])

    if call.inputs["input"].ndim == 4:
        text = "the mean square is that of all heads instead of each"
        yield Variant(text, lambda c, x: change(c, x, (1, 3)))
    width = call.inputs["input"].shape[-1]
    for heads in HEADS if call.inputs["input"].ndim == 3 else ():
        if width % heads == 0 and heads < width:
            text = f"the mean square is that of each of {heads} heads instead of all"
            yield Variant(text, lambda c, x, heads=heads: _of_each_head(c, x, heads))
    yield Variant("the mean is subtracted (layer norm)", centred)
    yield Variant("eps is added to the root instead of the mean square", outside)
    yield Variant("the norm is missing", lambda c, x: x["input"])
    text = "the norm is missing, but for its weight"
    yield Variant(text, lambda c, x: x["input"] * (base + x["weight"]))


def _of_each_head(call: LayerCall, x: Inputs, heads: int) -> np.ndarray:
    """Return the norm of each head of tokens (n, l, heads d) by itself."""
    y = x["input"].reshape(*x["input"].shape[:-1], heads, -1)
    mean = np.mean(y * y, axis=-1, keepdims=True)
    normalized = (y / np.sqrt(mean + call.attributes["eps"])).reshape(x["input"].shape)
    return normalized * (call.attributes.get("base", 0.0) + x["weight"])


def other_groups(call: LayerCall) -> Iterator[Variant]:
    """Yield other numbers of groups."""
    right = call.attributes.get("groups")
    if right is None:
        return
    channels = call.inputs["input"].shape[1]
    for groups in (1, 2, 4, 8, 16, 32, 64, channels):
        if groups != right and channels % groups == 0:
            yield with_changes(f"{groups} groups instead of {right}", groups=groups)


def interleaved_groups(call: LayerCall) -> Iterator[Variant]:
    """Yield groups of every g-th channel instead of neighbouring ones."""
    groups, eps = call.attributes["groups"], call.attributes["eps"]

    def change(call: LayerCall, x: Inputs) -> np.ndarray:
        n, c = x["input"].shape[:2]
        parts = x["input"].reshape(n, c // groups, groups, -1)
        mean = parts.mean(axis=(1, 3), keepdims=True)
        variance = parts.var(axis=(1, 3), keepdims=True)
        return _affine(call, x, (parts - mean) / np.sqrt(variance + eps))

    yield Variant("the groups are interleaved: channels c with the same c mod groups", change)


def other_axis(call: LayerCall) -> Iterator[Variant]:
    """Yield layer norm along the tokens instead of the channels."""
    eps = call.attributes["eps"]

    def change(call: LayerCall, x: Inputs) -> np.ndarray:
        y = x["input"]
        mean, variance = y.mean(axis=-2, keepdims=True), y.var(axis=-2, keepdims=True)
        return _affine(call, x, (y - mean) / np.sqrt(variance + eps))

    if call.inputs["input"].ndim > 1:
        yield Variant("normalized along the tokens instead of the channels", change)


def one_pass(call: LayerCall, x: Inputs, dtype: str) -> np.ndarray:
    """Return a norm with the variance E[x^2] - E[x]^2, which some kernels compute in one pass.

    It is right, and rounds by (1 + mean^2 / variance) as much as the variance of two passes.
    """
    flat = _flat(call, np.asarray(x["input"], dtype))
    mean = flat.mean(axis=-1, keepdims=True)
    variance = np.maximum((flat * flat).mean(axis=-1, keepdims=True) - mean * mean, 0.0)
    return _affine(call, x, (flat - mean) / np.sqrt(variance + call.attributes["eps"]))


def _flat(call: LayerCall, x: np.ndarray) -> np.ndarray:
    """Return an array whose last axis is normalized."""
    groups = call.attributes.get("groups")
    return x if groups is None else x.reshape(x.shape[0], groups, -1)


def _length(call: LayerCall) -> int:
    shape = call.inputs["input"].shape
    groups = call.attributes.get("groups")
    return shape[-1] if groups is None else math.prod(shape[1:]) // groups


def _moments(call: LayerCall, x: Inputs) -> tuple[np.ndarray, np.ndarray]:
    flat = _flat(call, x["input"])
    centred = flat - flat.mean(axis=-1, keepdims=True)
    return centred, np.mean(centred * centred, axis=-1, keepdims=True)


def _affine(call: LayerCall, x: Inputs, flat: np.ndarray) -> np.ndarray:
    y = flat.reshape(x["input"].shape)
    if "groups" not in call.attributes:
        return y * x["weight"] + x["bias"]
    shape = (-1, *[1] * (y.ndim - 2))
    return y * x["weight"].reshape(shape) + x["bias"].reshape(shape)
