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
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
from array_api_compat import device, is_numpy_namespace

from ldmref.backends.operations import Operations
from ldmref.errors import UsageError, did_you_mean, short_repr
from ldmref.math.arrays import Array

DTYPES = ("float64", "float32", "float16", "bfloat16")
ITEM_SIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}  # bytes


class Backend(Operations):
    """One array library on one device in one floating-point type: the class to subclass.

    A subclass sets `name`, `dtypes` and `xp` and implements the thirteen abstract operations:
    `asarray`, `to_numpy`, `linear`, `conv2d`, `group_norm`, `layer_norm`, `attention`, `embedding`,
    `silu`, `gelu`, `quick_gelu`, `upsample2x` and `pad_bottom_right`. All other methods have
    defaults that it may override with something faster.

    `Operations` says what all of them share. Parameters are in `dtype`; sampler states are in
    `state_dtype`.

    `ldmref.testing.assert_conforms` compares each operation with the float64 NumPy reference.

    Args:
        device: Device on which it computes. None: `default_device`.
        dtype: Floating-point type of parameters and activations, one of `dtypes`. None:
            float32.
        speed: One of `speeds`. None: the first.

    Raises:
        UsageError: `dtype` or `speed` does not exist for this backend.
        BackendUnavailable: The library or the device is missing (raised by `set_up`).

    Attributes:
        name: Name of the backend, which images record.
        default_device: The device without `device`.
        dtypes: The floating-point types that exist.
        speeds: The speeds that exist, some of `exact`, `fast` and `fastest`; the first is the
            default.
        compiles: Whether `compile` traces the network.
        observes_layers: Whether `call_layer` looks at every layer. Keys and values of the text are
            then computed in each step, as other programs do.

    >>> import numpy as np
    >>> from ldmref.backends import get_backend
    >>> ops = get_backend("numpy", dtype="float64")
    >>> x = ops.asarray(np.arange(8.0).reshape(1, 2, 2, 2))
    >>> ops.group_norm(x, ops.asarray([1.0, 1.0]), ops.asarray([0.0, 0.0]), 1, 1e-5)[0, 0].round(2)
    array([[-1.53, -1.09],
           [-0.65, -0.22]])
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
    observes_layers = False

    # -- arrays ------------------------------------------------------------------------------------

    def weight(self, x: Array) -> Array:
        """Return a parameter as `asarray` does, in the memory format of this backend's kernels.

        Args:
            x: The parameter, NumPy's or this backend's, of any shape.

        Returns:
            Shape of `x`, in `dtype` if it holds floats.
        """
        return self.asarray(x)

    def weight_bytes(self, shape: tuple[int, ...], pixels: int) -> int:
        """Return an upper bound on the memory of a parameter with its cached copies, in bytes.

        Args:
            shape: Shape of the parameter.
            pixels: Number of pixels in a batch at the parameter's layer.
        """
        return math.prod(shape) * ITEM_SIZES[self.dtype]

    def cast(self, x: Array, dtype: str) -> Array:
        """Return `x`, an array of this backend, in the floating-point type `dtype`, same shape."""
        return self.asarray(x, dtype)

    def count_from_zero(self, x: Array, axis: int) -> Array:
        """Return 0, 1, ... along an axis of `x`, the same for all other entries.

        Args:
            x: Array of this backend, of any shape; its numbers are not read.
            axis: The axis, which may be negative.

        Returns:
            Shape of `x`, in `state_dtype`, which holds every place of a long text.
        """
        xp = self.xp
        counted = xp.arange(x.shape[axis], dtype=getattr(xp, self.state_dtype), device=device(x))
        line = [1] * x.ndim
        line[axis] = -1
        return xp.broadcast_to(xp.reshape(counted, tuple(line)), x.shape)

    def broadcast_like(self, x: Array, *like: Array) -> Array:
        """Return `x`, repeated along its axes of size 1 where another array is longer.

        Args:
            x: Array of this backend, of any shape.
            like: Others, whose numbers are not read. Their own axes of size 1 change nothing.

        Returns:
            The shape of the sum of all, in the dtype of `x`; it may share the memory of `x`.

        >>> import numpy as np
        >>> from ldmref.backends import get_backend
        >>> get_backend("numpy").broadcast_like(np.asarray([[1.0, 2.0]]), np.zeros((2, 1)))
        array([[1., 2.],
               [1., 2.]])
        """
        return self.xp.broadcast_arrays(x, *like)[0]

    def zeros(self, shape: tuple[int, ...], like: Array) -> Array:
        """Return zeros in the dtype, and on the device, of an array.

        Args:
            shape: Their shape.
            like: Array of this backend, of any shape; its numbers are not read.
        """
        return self.xp.zeros(shape, dtype=like.dtype, device=device(like))

    def own(self, name: str, x: Array, dtype: str | None = None) -> Array:
        """Return an argument as an array of this backend: NumPy arrays are converted.

        Args:
            name: Name of the argument, for the message.
            x: An array of this backend or of NumPy, of any shape.
            dtype: Floating-point type to which NumPy arrays are converted. None: `dtype` of the
                backend.

        Returns:
            Shape of `x`.

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
        """Return whether `x`, an array of floats of any shape, holds neither NaN nor infinity."""
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

    def call_layer(
        self, function: Callable, p: Mapping[str, Any], args: tuple, kwargs: Mapping[str, Any]
    ) -> Array:
        """Call `function(ops, p, *args, **kwargs)`, a layer made of several operations.

        Backends that observe layers override it (`ldmref.backends.named`).

        Args:
            function: One of the functions of `ldmref.models` that are marked with `@layer`.
            p: The layer's parameters, a part of a network's tree.
            args: Positional arguments, the first of which is the layer's input.
            kwargs: Arguments by name.

        Returns:
            What the function returns.
        """
        return function(self, p, *args, **kwargs)

    def call_function(
        self, name: str, function: Callable, *args: object, axis: int | None = None
    ) -> Array:
        """Call `function(*args)`, a part of a network without operations, which gets a name.

        Args:
            name: Name of the part, such as "time_proj".
            function: A function of arrays.
            args: Its arguments.
            axis: An axis of the first argument, and of a result of its shape, along which every
                item is computed alone, so that a backend may compute a few at a time. None: there
                is none.

        Returns:
            What the function returns, an array of any shape.

        >>> from ldmref.backends import get_backend
        >>> get_backend("numpy").call_function("time_proj", lambda t: t / 1000.0, 500.0)
        0.5
        """
        return function(*args)

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
        raise self._not_differentiable()

    def gradient(self, function: Callable[[Array], Array], x: Array) -> Array:
        """Return the gradient of a function at `x`, also within `inference()`.

        Args:
            function: Returns one number, of shape (), for an array like `x`.
            x: Array of this backend, floating, of any shape.

        Returns:
            Shape and dtype of `x`.

        Raises:
            UsageError: The array library does not differentiate.
        """
        raise self._not_differentiable()

    def _not_differentiable(self) -> UsageError:
        message = f"the {self.name} backend does not differentiate"
        return UsageError(message, code="E-GRAD", hint='ldmref.load(..., backend="torch")')

    def compile(self, network: Callable, params: Mapping[str, Any]) -> Callable:
        """Return `network(ops, params, ...)` as a function of the remaining arguments.

        The model calls all its networks through the result, with arrays of this backend and static
        arguments. `ldmref/backends/arguments.py` documents them and both sides' obligations, and
        separates arrays from static arguments. The default does not compile. A backend that does
        also sets `compiles`; its operations still work on their own.

        Args:
            network: A function of a backend, parameters, and the arguments of the network.
            params: The network's parameters, a tree of arrays of this backend.
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
