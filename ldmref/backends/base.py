"""`Backend`: the operations in which all networks of ldmref are written.

A backend is an object, passed as the first argument `ops` of every layer. Nothing is global, so two
backends can run side by side in one process. Everything that is not an operation of `Backend` goes
through `ops.xp`, the backend's array-API namespace.

A backend has one or more speeds. `exact` follows the definitions of the operations. `fast` reorders
the computation and agrees within the rounding of its dtype. `fastest` gives up accuracy or takes
time to prepare, as the backend documents.
"""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
from array_api_compat import is_numpy_namespace

from ldmref.errors import UsageError, did_you_mean, short_repr
from ldmref.math.arrays import Array

DTYPES = ("float64", "float32", "float16", "bfloat16")
ITEM_SIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}  # bytes


class Backend:
    """One array library on one device in one floating-point type: the class to subclass.

    A subclass sets `name`, `dtypes` and `xp` and implements the thirteen abstract operations:
    `asarray`, `to_numpy`, `linear`, `conv2d`, `group_norm`, `layer_norm`, `attention`, `embedding`,
    `silu`, `gelu`, `quick_gelu`, `upsample2x` and `pad_bottom_right`. All other methods have
    defaults that it may override with something faster.

    Images are arrays (n, c, h, w) and tokens (n, l, d), whatever their order in memory. Every
    operation takes and returns arrays of this backend on its device, returns the dtype of its first
    argument, does not modify its arguments and accepts non-contiguous views. Sums should be
    accumulated in float32 at least. Parameters are in `dtype`; sampler states are in `state_dtype`.

    `ldmref.testing.assert_conforms` compares each operation with the float64 NumPy reference.

    Args:
        device: Device on which it computes; None: `default_device`.
        dtype: Floating-point type of parameters and activations, one of `dtypes`; None: float32.
        speed: One of `speeds`; None: the first.

    Raises:
        UsageError: `dtype` or `speed` does not exist for this backend.
        BackendUnavailable: The library or the device is missing (raised by `set_up`).

    Attributes:
        xp: The array-API namespace of the arrays, such as `array_api_compat.numpy`.
        compiles: Whether `compile` traces the network.
    """

    name: str = "base"
    default_device: str = "cpu"
    dtypes: tuple[str, ...] = DTYPES
    speeds: tuple[str, ...] = ("exact",)  # or fast, fastest; the first is the default

    def __init__(
        self, device: str | None = None, dtype: str | None = None, speed: str | None = None
    ):
        self.device = device or self.default_device
        self.dtype = dtype or "float32"
        self.speed = speed or self.speeds[0]
        if self.dtype not in self.dtypes:
            message = f"dtype {self.dtype!r} does not exist on the {self.name} backend"
            hint = did_you_mean(self.dtype, self.dtypes)
            raise UsageError(message, code="E-DTYPE", hint=hint)
        if self.speed not in self.speeds:
            message = f"speed {self.speed!r} does not exist on the {self.name} backend in"
            hint = did_you_mean(self.speed, self.speeds)
            raise UsageError(f"{message} {self.dtype}", code="E-SPEED", hint=hint)
        self.set_up()

    def set_up(self) -> None:
        """Open the device; called by the constructor after it has checked the arguments."""

    compiles = False
    xp: Any

    # -- required -------------------------------------------------------------------------------

    @abstractmethod
    def asarray(self, x: Array, dtype: str | None = None) -> Array:
        """Convert an array or list: floats to `dtype` (None: the backend's), integers to int64."""
        raise NotImplementedError

    @abstractmethod
    def to_numpy(self, x: Array) -> np.ndarray:
        """Convert to a NumPy array on the host (bfloat16 to float32)."""
        raise NotImplementedError

    @abstractmethod
    def linear(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        """Compute x @ weight.T + bias; x: (..., i), weight: (o, i), bias: (o,) -> (..., o)."""
        raise NotImplementedError

    @abstractmethod
    def conv2d(
        self, x: Array, weight: Array, bias: Array | None = None, stride: int = 1, padding: int = 0
    ) -> Array:
        """Cross-correlate x (n, i, h, w) with weight (o, i, k, k), add bias (o,).

        Returns (n, o, h', w') with h' = (h + 2 padding - k) // stride + 1; padding adds zeros.
        """
        raise NotImplementedError

    @abstractmethod
    def group_norm(self, x: Array, weight: Array, bias: Array, groups: int, eps: float) -> Array:
        """Normalise each group of channels to mean 0 and (biased) variance 1; x: (n, c, h, w).

        The result is multiplied by weight (c,), and bias (c,) is added; `eps` is added to the
        variance.
        """
        raise NotImplementedError

    @abstractmethod
    def layer_norm(self, x: Array, weight: Array, bias: Array, eps: float) -> Array:
        """Normalise the last axis to mean 0 and (biased) variance 1; x: (..., d).

        The result is multiplied by weight (d,), and bias (d,) is added; `eps` is added to the
        variance.
        """
        raise NotImplementedError

    @abstractmethod
    def attention(self, q: Array, k: Array, v: Array, causal: bool = False) -> Array:
        """Compute softmax(q k^T / sqrt(d)) v; q: (n, heads, l, d), k and v: (n, heads, m, d).

        With `causal`, query i only attends to keys 0 to i.
        """
        raise NotImplementedError

    @abstractmethod
    def embedding(self, table: Array, ids: Array) -> Array:
        """Look up the rows of `table` (v, d) at integer `ids` (n, l) -> (n, l, d)."""
        raise NotImplementedError

    @abstractmethod
    def silu(self, x: Array) -> Array:
        """Compute x * sigmoid(x)."""
        raise NotImplementedError

    @abstractmethod
    def gelu(self, x: Array) -> Array:
        """Compute x * Phi(x), GELU with the error function (not the tanh approximation)."""
        raise NotImplementedError

    @abstractmethod
    def quick_gelu(self, x: Array) -> Array:
        """Compute x * sigmoid(1.702 x), the activation of OpenAI's CLIP."""
        raise NotImplementedError

    @abstractmethod
    def upsample2x(self, x: Array) -> Array:
        """Repeat every pixel in both directions; (n, c, h, w) -> (n, c, 2h, 2w)."""
        raise NotImplementedError

    @abstractmethod
    def pad_bottom_right(self, x: Array) -> Array:
        """Append one row and one column of zeros; (n, c, h, w) -> (n, c, h+1, w+1)."""
        raise NotImplementedError

    # -- optional: compositions to fuse, weights to prepare ---------------------------------------

    def weight(self, x: Array) -> Array:
        """Convert a parameter as `asarray` does, in the memory format of this backend's kernels."""
        return self.asarray(x)

    def weight_bytes(self, shape: tuple[int, ...], pixels: int) -> int:
        """Return an upper bound on the memory of a parameter with its cached copies, in bytes.

        Args:
            shape: Shape of the parameter.
            pixels: Number of pixels in a batch at the parameter's layer.
        """
        return math.prod(shape) * ITEM_SIZES[self.dtype]

    def geglu(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        """Compute a * gelu(gate), [a, gate] = linear(x); weight: (2 o, i) -> (..., o)."""
        halves = self.xp.reshape(self.linear(x, weight, bias), (*x.shape[:-1], 2, -1))
        a, gate = self.xp.unstack(halves, axis=-2)  # a slice's gradient is padded
        return a * self.gelu(gate)

    def group_norm_silu(
        self, x: Array, weight: Array, bias: Array, groups: int, eps: float
    ) -> Array:
        """Compute silu(group_norm(x))."""
        return self.silu(self.group_norm(x, weight, bias, groups, eps))

    def cast(self, x: Array, dtype: str) -> Array:
        """Convert one of this backend's arrays to another floating-point dtype."""
        return self.asarray(x, dtype)

    def own(self, name: str, x: Array, dtype: str | None = None) -> Array:
        """Return an argument as an array of this backend: NumPy arrays are converted.

        Args:
            name: Name of the argument, for the message.
            x: An array of this backend or of NumPy.
            dtype: Floating-point type to which NumPy arrays are converted.

        Raises:
            UsageError: `x` is not an array.
        """
        if not hasattr(x, "shape") or not hasattr(x, "dtype"):
            message = f"{name} must be an array, not {short_repr(x)}"
            raise UsageError(
                message, code="E-ARRAY", hint="numpy.asarray, or model.backend.asarray"
            )
        foreign = isinstance(x, np.ndarray) and not is_numpy_namespace(self.xp)
        return self.asarray(x, dtype) if foreign else x

    def is_finite(self, x: Array) -> bool:
        """Return whether an array of floats holds neither NaN nor infinity."""
        return bool(self.xp.all(self.xp.isfinite(x)))

    @property
    def state_dtype(self) -> str:
        """The dtype of sampler states and timesteps: `dtype`, but at least float32."""
        return "float64" if self.dtype == "float64" else "float32"

    def missing_operations(self) -> list[str]:
        """List the required operations that are not implemented yet, with their signatures.

        `abstractmethod` is only a mark here: a backend with a single operation can be constructed,
        so the operation can be tested.
        """
        kind = type(self)
        names = [n for n in dir(kind) if getattr(getattr(kind, n), "__isabstractmethod__", False)]
        parameters = {n: list(inspect.signature(getattr(kind, n)).parameters)[1:] for n in names}
        missing = [f"{name}({', '.join(parameters[name])})" for name in names]
        return missing if hasattr(self, "xp") else ["xp", *missing]

    # -- execution --------------------------------------------------------------------------------

    def inference(self) -> AbstractContextManager:
        """Return a context in which gradients are not recorded."""
        return nullcontext()

    def recording(self) -> AbstractContextManager:
        """Return a context that suspends `inference`: its arrays can be differentiated."""
        return nullcontext()

    def differentiable(self) -> Backend:
        """Return this backend, never compiled, with gradients also recorded in `inference()`.

        Raises:
            UsageError: The array library does not differentiate.
        """
        raise UsageError(
            f"the {self.name} backend does not differentiate",
            code="E-GRAD",
            hint='ldmref.load(..., backend="torch")',
        )

    def compile(self, network: Callable, params: Mapping[str, Any]) -> Callable:
        """Return `network(ops, params, ...)` as a function of the remaining arguments.

        The model calls all its networks through the result, with arrays of this backend and static
        arguments. `ldmref/backends/arguments.py` documents them and both sides' obligations, and
        separates arrays from static arguments. The default does not compile. A backend that does
        also sets `compiles`; its operations still work on their own.
        """
        return partial(network, self, params)

    def synchronize(self) -> None:
        """Wait for the device to finish all queued work; for timing."""

    def describe(self) -> dict[str, str]:
        """Return name, version, device, dtype and speed, as recorded in an image's metadata."""
        selected = {key: getattr(self, key) for key in ("device", "dtype", "speed")}
        return {"name": self.name, "version": self.version(), **selected}

    def version(self) -> str:
        """Return the array library's version."""
        return ""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments only; caches and handles of the device are made again."""
        return type(self), (self.device, self.dtype, self.speed)

    def __repr__(self) -> str:
        return f"<{self.name} backend, {self.device}, {self.dtype}>"
