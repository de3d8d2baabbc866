"""`Backend`: the operations in which all networks of ldmref are written.

A backend is an object, passed as the first argument `ops` of every layer. Nothing is global, so two
backends can run side by side in one process. Arrays are (n, c, h, w) for images and (n, l, d) for
tokens. Everything else goes through `ops.xp`, the backend's array-API namespace.

A new backend subclasses `Backend`, sets `xp` and implements the operations marked "required"
(`missing_operations` says which are still to be written); it may override the others with something
faster. `ldmref.testing.check_backend` compares each operation with the float64 NumPy reference.

A backend has one or more speeds: `exact` computes as the definitions read; `fast` reorders the
computation and agrees within the rounding of its dtype; `fastest` gives up accuracy or takes time
to prepare, as the backend documents.
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
    """One array library on one device in one floating-point type."""

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
        """Open the device; called by the constructor, once the arguments have been checked."""

    compiles = False  # whether `compile` traces the network: see there for what it is called with

    xp: Any
    """The array-API namespace of this backend's arrays."""

    # -- required -------------------------------------------------------------------------------

    @abstractmethod
    def asarray(self, x: Array, dtype: str | None = None) -> Array:
        """Convert a host array: floats to `dtype` (default: the backend's), integers to int64."""
        raise NotImplementedError

    @abstractmethod
    def to_numpy(self, x: Array) -> np.ndarray:
        """Convert to a NumPy array on the host (bfloat16 to float32)."""
        raise NotImplementedError

    @abstractmethod
    def linear(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        """`x @ weight.T + bias`; x: (..., i), weight: (o, i), bias: (o,) -> (..., o)."""
        raise NotImplementedError

    @abstractmethod
    def conv2d(
        self, x: Array, weight: Array, bias: Array | None = None, stride: int = 1, padding: int = 0
    ) -> Array:
        """Cross-correlation; x: (n, i, h, w), weight: (o, i, k, k), bias: (o,) -> (n, o, h', w')"""
        raise NotImplementedError

    @abstractmethod
    def group_norm(self, x: Array, weight: Array, bias: Array, groups: int, eps: float) -> Array:
        """Zero mean and unit (biased) variance over each group of channels; x: (n, c, h, w)."""
        raise NotImplementedError

    @abstractmethod
    def layer_norm(self, x: Array, weight: Array, bias: Array, eps: float) -> Array:
        """Zero mean and unit (biased) variance over the last axis; x: (..., d)."""
        raise NotImplementedError

    @abstractmethod
    def attention(self, q: Array, k: Array, v: Array, causal: bool = False) -> Array:
        """softmax(q k^T / sqrt(d)) v; q: (n, heads, l, d), k and v: (n, heads, m, d)."""
        raise NotImplementedError

    @abstractmethod
    def embedding(self, table: Array, ids: Array) -> Array:
        """Rows of `table` (v, d) picked by integer `ids` (n, l) -> (n, l, d)."""
        raise NotImplementedError

    @abstractmethod
    def silu(self, x: Array) -> Array:
        """x * sigmoid(x)."""
        raise NotImplementedError

    @abstractmethod
    def gelu(self, x: Array) -> Array:
        """Exact GELU, x * Phi(x) with the error function (not the tanh approximation)."""
        raise NotImplementedError

    @abstractmethod
    def quick_gelu(self, x: Array) -> Array:
        """x * sigmoid(1.702 x), the activation of OpenAI's CLIP."""
        raise NotImplementedError

    @abstractmethod
    def upsample2x(self, x: Array) -> Array:
        """Nearest-neighbour upsampling; (n, c, h, w) -> (n, c, 2h, 2w)."""
        raise NotImplementedError

    @abstractmethod
    def pad_bottom_right(self, x: Array) -> Array:
        """One row and one column of zeros after the last; (n, c, h, w) -> (n, c, h+1, w+1)."""
        raise NotImplementedError

    # -- optional: compositions to fuse, weights to prepare ---------------------------------------

    def weight(self, x: Array) -> Array:
        """Convert a parameter as `asarray` does, in the memory format of this backend's kernels."""
        return self.asarray(x)

    def weight_bytes(self, shape: tuple[int, ...], pixels: int) -> int:
        """Upper bound on the memory of a parameter, cached copies in other formats included.

        `pixels`: the number of pixels in a batch at the parameter's layer.
        """
        return math.prod(shape) * ITEM_SIZES[self.dtype]

    def geglu(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        """`a * gelu(gate)`, `[a, gate] = linear(x)`; x: (..., i), weight: (2 o, i) -> (..., o)."""
        halves = self.xp.reshape(self.linear(x, weight, bias), (*x.shape[:-1], 2, -1))
        a, gate = self.xp.unstack(halves, axis=-2)  # a slice's gradient is padded
        return a * self.gelu(gate)

    def group_norm_silu(
        self, x: Array, weight: Array, bias: Array, groups: int, eps: float
    ) -> Array:
        """`silu(group_norm(x))`."""
        return self.silu(self.group_norm(x, weight, bias, groups, eps))

    def cast(self, x: Array, dtype: str) -> Array:
        """Convert one of this backend's arrays to another floating-point dtype."""
        return self.asarray(x, dtype)

    def own(self, name: str, x: Array, dtype: str | None = None) -> Array:
        """Return an argument as this backend's array: its own as it is, NumPy's by `asarray`.

        Raises:
            UsageError: `x` is not an array; `name` says which argument it is.
        """
        if not hasattr(x, "shape") or not hasattr(x, "dtype"):
            message = f"{name} must be an array, not {short_repr(x)}"
            raise UsageError(
                message, code="E-ARRAY", hint="numpy.asarray, or model.backend.asarray"
            )
        foreign = isinstance(x, np.ndarray) and not is_numpy_namespace(self.xp)
        return self.asarray(x, dtype) if foreign else x

    def is_finite(self, x: Array) -> bool:
        """Whether floats hold neither NaN nor infinity."""
        return bool(self.xp.all(self.xp.isfinite(x)))

    @property
    def state_dtype(self) -> str:
        """`dtype`, but at least float32: for sampler states and timesteps."""
        return "float64" if self.dtype == "float64" else "float32"

    def missing_operations(self) -> list[str]:
        """The required operations that are still to be written, with their signatures.

        `abstractmethod` is only a mark here: a backend of which one operation is written can be
        made, and that operation tested.
        """
        kind = type(self)
        names = [n for n in dir(kind) if getattr(getattr(kind, n), "__isabstractmethod__", False)]
        parameters = {n: list(inspect.signature(getattr(kind, n)).parameters)[1:] for n in names}
        missing = [f"{name}({', '.join(parameters[name])})" for name in names]
        return missing if hasattr(self, "xp") else ["xp", *missing]

    # -- execution --------------------------------------------------------------------------------

    def inference(self) -> AbstractContextManager:
        """A context in which gradients are not recorded."""
        return nullcontext()

    def recording(self) -> AbstractContextManager:
        """A context that ends `inference` for a while: arrays made in it can be differentiated."""
        return nullcontext()

    def differentiable(self) -> Backend:
        """Return this backend with gradients recorded in `inference()`, too, and never compiled.

        Raises:
            UsageError: the array library does not differentiate.
        """
        raise UsageError(
            f"the {self.name} backend does not differentiate",
            code="E-GRAD",
            hint='ldmref.load(..., backend="torch")',
        )

    def compile(self, network: Callable, params: Mapping[str, Any]) -> Callable:
        """`network(ops, params, config, ...)` as a function of the remaining arguments.

        Compiled if `compiles`. Later changes of the parameters may have no effect. The networks are
        called with `config`, a frozen dataclass, as the first argument; all others are arrays,
        tuples of arrays, or None, and may be given by name.
        """
        return partial(network, self, params)

    def synchronize(self) -> None:
        """Wait for the device to finish all queued work; for timing."""

    def describe(self) -> dict[str, str]:
        """Name, version, device, dtype and speed, as recorded in an image's metadata."""
        selected = {key: getattr(self, key) for key in ("device", "dtype", "speed")}
        return {"name": self.name, "version": self.version(), **selected}

    def version(self) -> str:
        """The array library's version."""
        return ""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its arguments; caches and handles of the device are made again."""
        return type(self), (self.device, self.dtype, self.speed)

    def __repr__(self) -> str:
        return f"<{self.name} backend, {self.device}, {self.dtype}>"
