"""The embedded model's networks with one mistake in them: a backend with a wrong operation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ldmref.backends.numpy import NumpyBackend
from ldmref.check.capstone.questions import Mistake, Parts
from ldmref.loading import load
from ldmref.math.arrays import Array
from ldmref.models import layers, unflatten
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import Params, flatten

RIGHT = NumpyBackend()


class MistakenBackend(NumpyBackend):
    """NumPy's operations, some of them replaced; `of_layers` replaces whole layers."""

    def __init__(
        self, of_layers: Mapping[Callable, Callable] | None = None, **operations: object
    ) -> None:
        super().__init__()
        self._of_layers = {_plain(layer): other for layer, other in (of_layers or {}).items()}
        for name, operation in operations.items():
            setattr(self, name, operation)

    def call_layer(
        self, function: Callable, p: Mapping[str, Any], args: tuple, kwargs: Mapping[str, Any]
    ) -> Any:
        """Call the layer, or what replaces it."""
        return self._of_layers.get(_plain(function), function)(self, p, *args, **kwargs)


def _plain(layer: Callable) -> Callable:
    return getattr(layer, "__wrapped__", layer)


class OtherConcat:
    """The namespace of NumPy, whose `concat` along channels changes the arrays before."""

    def __init__(self, change: Callable[[Any, Any], list[Any]]) -> None:
        self._change = change

    def __getattr__(self, name: str) -> Any:
        return getattr(RIGHT.xp, name)

    def concat(self, arrays: Any, axis: int = 0) -> Any:
        """Concatenate; along channels, what `change` returns."""
        return RIGHT.xp.concat(self._change(*arrays) if axis == 1 else arrays, axis=axis)


def wrong(text: str, network: Callable[[Any], Parts], **operations: Any) -> Mistake:
    """Return a mistake that a network has with other operations."""
    return Mistake(text, lambda: network(MistakenBackend(**operations)))


@functools.cache
def embedded_model() -> LatentDiffusion:
    """Return the embedded model on NumPy."""
    return load(backend="numpy", dtype="float32")


@functools.cache
def weights_of(network: str) -> Params:
    """Return the weights of "unet" or "vae" in float32."""
    flat = flatten(embedded_model().params[network])
    return unflatten({name: np.asarray(x, np.float32) for name, x in flat.items()})


def random(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> np.ndarray:
    """Return standard normal numbers times `scale`, in float32."""
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def is_time(x: np.ndarray) -> bool:
    """Return whether x is an embedded time, (n, d), and not an image or tokens."""
    return x.ndim == 2


def silu_not_for_the_time(x: np.ndarray) -> np.ndarray:
    """Return SiLU of images, and the time as it is."""
    return x if is_time(x) else RIGHT.silu(x)


def norm_without_silu(x: Array, weight: Array, bias: Array, groups: int, eps: float) -> Any:
    """Return GroupNorm alone, in place of GroupNorm and SiLU."""
    return RIGHT.group_norm(x, weight, bias, groups, eps)


def silu_before_norm(x: Array, weight: Array, bias: Array, groups: int, eps: float) -> Any:
    """Return GroupNorm of SiLU, in place of SiLU of GroupNorm."""
    return RIGHT.group_norm(RIGHT.silu(x), weight, bias, groups, eps)


def gate_for_value(x: Array, weight: Array, bias: Array) -> Any:
    """Return gelu(values) times gates, in place of values times gelu(gates)."""
    value, gate = np.split(RIGHT.linear(x, weight, bias), 2, axis=-1)
    return gate * RIGHT.gelu(value)


def silu_gate(x: Array, weight: Array, bias: Array) -> Any:
    """Return values times silu(gates)."""
    value, gate = np.split(RIGHT.linear(x, weight, bias), 2, axis=-1)
    return value * RIGHT.silu(gate)


def scaled_attention(factor: Callable[[Any], float]) -> Callable:
    """Return attention whose scores are multiplied by factor(q)."""

    def attention(q: Array, k: Array, v: Array, **options: Any) -> Any:
        return RIGHT.attention(q * np.float32(factor(q)), k, v, **options)

    return attention


def attention_of_cut_rows(back: bool) -> Callable:
    """Return attention whose heads are cut by a reshape alone, and joined by one if `back`."""

    def cut(x: Array) -> Any:
        return layers.merge_heads(RIGHT, x).reshape(x.shape)

    def attention(q: Array, k: Array, v: Array, **options: Any) -> Any:
        y = RIGHT.attention(cut(q), cut(k), cut(v), **options)
        if not back:
            return y
        return layers.split_heads(RIGHT, y.reshape(len(y), y.shape[2], -1), y.shape[1])

    return attention


def attention_of_heads(number: int) -> Callable:
    """Return attention with another number of heads."""

    def attention(q: Array, k: Array, v: Array, **options: Any) -> Any:
        heads = q.shape[1]
        q, k, v = (
            layers.split_heads(RIGHT, layers.merge_heads(RIGHT, x), number) for x in (q, k, v)
        )
        y = RIGHT.attention(q, k, v, **options)
        return layers.split_heads(RIGHT, layers.merge_heads(RIGHT, y), heads)

    return attention


def sums_of_normed_tokens(
    ops: Any, p: Any, x: Array, context: Array, heads: int, *_: object
) -> Any:
    """Return a transformer block that adds each part to the normed tokens."""
    x = layers.layer_norm(ops, p.norm1, x)
    x = x + layers.attention(ops, p.attn1, x, x, heads)
    x = layers.layer_norm(ops, p.norm2, x)
    x = x + layers.attention(ops, p.attn2, x, context, heads)
    x = layers.layer_norm(ops, p.norm3, x)
    return x + layers.feed_forward(ops, p.ff, x)


def norms_of_sums(ops: Any, p: Any, x: Array, context: Array, heads: int, *_: object) -> Any:
    """Return a transformer block whose LayerNorms come after the sums."""
    x = layers.layer_norm(ops, p.norm1, x + layers.attention(ops, p.attn1, x, x, heads))
    x = layers.layer_norm(ops, p.norm2, x + layers.attention(ops, p.attn2, x, context, heads))
    return layers.layer_norm(ops, p.norm3, x + layers.feed_forward(ops, p.ff, x))
