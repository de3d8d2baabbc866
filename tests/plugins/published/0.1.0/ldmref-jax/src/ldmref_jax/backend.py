"""The operations of ldmref in JAX, and whole networks compiled by `jax.jit`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from ldmref.backends import Backend, fill, split_arrays
from ldmref.errors import BackendUnavailable
from ldmref.models import flatten, unflatten

# Products on GPUs and TPUs are in TF32 or bfloat16 unless JAX is told otherwise.
PRECISION = lax.Precision.HIGHEST


class JaxBackend(Backend):
    """JAX on a CPU, GPU or TPU.

    `fast` compiles each network with `jax.jit`, once for each shape of its inputs; the parameters
    are arguments of the compiled function. `exact` runs one operation after the other.

    Token ids are int64, which JAX only has while 64-bit types are enabled. The backend enables them
    where it converts arrays and, in its own thread, while a network runs. Only for float64 it
    enables them in the whole process.
    """

    name = "jax"
    speeds = ("fast", "exact")
    xp = jnp

    def set_up(self) -> None:
        if self.dtype == "float64":  # samplers multiply states by Python's numbers
            jax.config.update("jax_enable_x64", True)
        self._device = find_device(self.device)
        self.compiles = self.speed == "fast"

    def version(self) -> str:
        return jax.__version__

    def asarray(self, x: Any, dtype: str | None = None) -> jax.Array:
        x = x if isinstance(x, jax.Array) else np.asarray(x)
        floating = jnp.issubdtype(x.dtype, jnp.floating)  # bfloat16 is not a NumPy type
        wanted = (dtype or self.dtype) if floating else "int64"
        with jax.enable_x64(True):
            return jnp.asarray(x, wanted, device=self._device)

    def to_numpy(self, x: jax.Array) -> np.ndarray:
        return np.asarray(x.astype("float32") if x.dtype == jnp.bfloat16 else x)

    # -- operations -------------------------------------------------------------------------------

    def linear(self, x: jax.Array, weight: jax.Array, bias: jax.Array | None = None) -> jax.Array:
        y = multiply(x, weight.astype(x.dtype).T)
        return y if bias is None else y + bias.astype(x.dtype)

    def conv2d(
        self,
        x: jax.Array,
        weight: jax.Array,
        bias: jax.Array | None = None,
        stride: int = 1,
        padding: int = 0,
    ) -> jax.Array:
        y = lax.conv_general_dilated(
            x,
            weight.astype(x.dtype),
            window_strides=(stride, stride),
            padding=[(padding, padding)] * 2,
            precision=PRECISION,
            preferred_element_type=wide(x.dtype),
        ).astype(x.dtype)
        return y if bias is None else y + bias.astype(x.dtype)[:, None, None]

    def group_norm(
        self, x: jax.Array, weight: jax.Array, bias: jax.Array, groups: int, eps: float
    ) -> jax.Array:
        y = standardize(x.reshape(x.shape[0], groups, -1), eps).reshape(x.shape)
        per_channel = (-1,) + (1,) * (x.ndim - 2)
        return (y * weight.reshape(per_channel) + bias.reshape(per_channel)).astype(x.dtype)

    def layer_norm(self, x: jax.Array, weight: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
        return (standardize(x, eps) * weight + bias).astype(x.dtype)

    def attention(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        causal: bool = False,
        bias: jax.Array | None = None,
        scale: float | None = None,
    ) -> jax.Array:
        factor = q.shape[-1] ** -0.5 if scale is None else scale
        scores = multiply(q * factor, k.swapaxes(2, 3), wide(q.dtype))
        if bias is not None:
            scores = scores + bias
        if causal:
            later = jnp.arange(k.shape[2]) > jnp.arange(q.shape[2])[:, None]
            scores = jnp.where(later, -jnp.inf, scores)
        return multiply(jax.nn.softmax(scores, axis=-1).astype(q.dtype), v)

    def embedding(self, table: jax.Array, ids: jax.Array) -> jax.Array:
        return table[ids]

    def silu(self, x: jax.Array) -> jax.Array:
        return jax.nn.silu(x)

    def gelu(self, x: jax.Array) -> jax.Array:
        return jax.nn.gelu(x, approximate=False)

    def quick_gelu(self, x: jax.Array) -> jax.Array:
        return x * jax.nn.sigmoid(1.702 * x)

    def upsample2x(self, x: jax.Array) -> jax.Array:
        return x.repeat(2, axis=2).repeat(2, axis=3)

    def pad_bottom_right(self, x: jax.Array) -> jax.Array:
        return jnp.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1)))

    # -- execution --------------------------------------------------------------------------------

    def inference(self) -> AbstractContextManager:
        """Return a context with 64-bit types; networks run in it."""
        return jax.enable_x64(True)

    def compile(self, network: Callable, params: Mapping[str, Any]) -> Callable:
        if not self.compiles:
            return super().compile(network, params)
        leaves = flatten(params)  # a dictionary of arrays, which JAX takes as an argument

        @partial(jax.jit, static_argnames="template")
        def compiled(leaves: dict, arrays: list, template: Hashable) -> Any:
            args, kwargs = fill(template, arrays)
            return network(self, unflatten(leaves), *args, **kwargs)

        def run(*args: Any, **kwargs: Any) -> Any:
            arrays, template = split_arrays(args, kwargs)
            with self.inference():
                return compiled(leaves, arrays, template)

        return run

    def synchronize(self) -> None:
        jax.block_until_ready(jax.live_arrays(self._device.platform))


def find_device(name: str) -> jax.Device:
    """Return the device called "cpu", "cuda" or "cuda:1".

    Raises:
        BackendUnavailable: JAX does not have it.
    """
    platform, _, index = name.partition(":")
    try:
        return jax.devices(platform)[int(index or 0)]
    except (RuntimeError, ValueError, IndexError):
        here = [f"{d.platform}:{d.id}" for d in {*jax.devices(), *jax.devices("cpu")}]
        raise BackendUnavailable(
            f"JAX cannot use device {name!r}",
            code="E-DEVICE",
            hint=f"devices here: {', '.join(sorted(here))}",
        ) from None


def wide(dtype: Any) -> Any:
    """Return the type in which sums of numbers of `dtype` are accumulated."""
    return jnp.promote_types(dtype, jnp.float32)


def multiply(a: jax.Array, b: jax.Array, dtype: Any = None) -> jax.Array:
    """Return the matrix product a @ b in `dtype`, by default that of `a`."""
    y = jnp.matmul(a, b, precision=PRECISION, preferred_element_type=wide(a.dtype))
    return y.astype(dtype or a.dtype)


def standardize(x: jax.Array, eps: float) -> jax.Array:
    """Return x with mean 0 and variance 1 along its last axis, in float32 at least."""
    y = x.astype(wide(x.dtype))
    y = y - y.mean(axis=-1, keepdims=True)
    return y * lax.rsqrt((y * y).mean(axis=-1, keepdims=True) + eps)
