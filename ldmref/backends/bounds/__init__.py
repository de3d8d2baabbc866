"""Bounds of the rounding errors of a backend's operations, element by element.

    from ldmref.backends.bounds import error_bound

    bound = error_bound("linear", (x, weight, bias), {}, "float16")
    assert (abs(y - reference) <= bound).all()

`reference` is the operation in exact arithmetic on the same arguments, which are numbers of the
dtype. Each bound holds for every algorithm that the interface `Backend` allows: any order of
summation in float32 at least, intermediate arrays in the dtype, Winograd's convolution, blocked
attention. `basis` says whether it is derived from the standard model alone or has calibrated
factors. docs/evidence.md explains both and shows how far the bounds are from the errors seen.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ldmref.backends.bounds import norms, pointwise, products, softmax
from ldmref.backends.bounds.rounding import PRECISIONS, Precision, precision
from ldmref.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from ldmref.backends.named import LayerCall

__all__ = [
    "OPERATIONS",
    "PRECISIONS",
    "Precision",
    "basis",
    "error_bound",
    "layer_bound",
    "precision",
]


def _exact(p: Precision, *args: np.ndarray) -> float:
    """Return 0: the operation moves numbers and does not round."""
    return 0.0


BOUNDS: dict[str, Callable[..., Any]] = {
    "add": pointwise.add,
    "asarray": pointwise.asarray,
    "attention": softmax.attention,
    "conv2d": products.conv2d,
    "embedding": _exact,
    "geglu": pointwise.geglu,
    "gelu": pointwise.gelu,
    "group_norm": norms.group_norm,
    "group_norm_silu": pointwise.group_norm_silu,
    "layer_norm": norms.layer_norm,
    "linear": products.linear,
    "mul": pointwise.mul,
    "pad_bottom_right": _exact,
    "quick_gelu": pointwise.quick_gelu,
    "silu": pointwise.silu,
    "upsample2x": _exact,
}
OPERATIONS = tuple(BOUNDS)
"""The names of the operations that have an error bound."""
# Operations whose bounds follow from the standard model alone, without calibrated factors.
DERIVED = ("add", "asarray", "embedding", "mul", "pad_bottom_right", "upsample2x")


def error_bound(
    operation: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    dtype: str,
    result: np.ndarray | None = None,
    *,
    winograd: int = 2,
) -> np.ndarray:
    """Bound |y - exact result| for every element of the result y of an operation.

    Args:
        operation: One of `OPERATIONS`: a method of `Backend`, or "add" (of all arguments) or "mul".
        args: Positional arguments of the operation, NumPy arrays. Floats are numbers of `dtype` in
            any type that holds them, and are converted to float64.
        kwargs: Keyword arguments of the operation, NumPy arrays also.
        dtype: The type in which the backend computes: float64, float32, float16 or bfloat16.
        result: The result, which gives the shape for operations that do not round. None: the
            reference computes it if it is needed.
        winograd: Largest m of Winograd's F(m x m) that a 3 x 3 convolution may use: 0 (direct), 2,
            or 4, which only `speed="fastest"` uses.

    Returns:
        Bounds of the absolute error, float64, in the shape of the result, >= 0.

    Raises:
        UsageError: `operation` or `dtype` is unknown.

    >>> import numpy as np
    >>> from ldmref.backends.bounds import error_bound
    >>> error_bound("mul", (np.asarray([1.0, 3.0]), np.asarray([1.0, 2.0])), {}, "float16")
    array([0.00048831, 0.00292972])
    """
    if operation not in BOUNDS:
        hint = did_you_mean(operation, BOUNDS)
        raise UsageError(f"no error bound for {operation!r}", code="E-BOUND", hint=hint)
    p = precision(dtype)
    args = tuple(map(_as_float64, args))
    kwargs = {name: _as_float64(value) for name, value in kwargs.items()}
    if BOUNDS[operation] is _exact:
        return np.zeros(_moved(operation, args, kwargs) if result is None else np.shape(result))
    if operation == "conv2d":
        kwargs["winograd"] = winograd
    with np.errstate(over="ignore", under="ignore"):
        return BOUNDS[operation](p, *args, **kwargs)


def layer_bound(
    call: LayerCall,
    inputs: Mapping[str, np.ndarray],
    parameters: Mapping[str, np.ndarray],
    dtype: str,
    result: np.ndarray | None = None,
) -> np.ndarray:
    """Bound the error of a layer of one operation, as `error_bound` does.

    Args:
        call: The layer; its kind is one of `OPERATIONS`.
        inputs: Its arrays by role, of which the first is called "input".
        parameters: Its parameters by name.
        dtype: The type in which it is computed.
        result: Its result, an array of any shape. None: as for `error_bound`.

    Returns:
        Bounds of the absolute error, float64, in the shape of the result.

    >>> import numpy as np
    >>> from ldmref.backends.bounds import layer_bound
    >>> from ldmref.backends.named import LayerCall
    >>> call = LayerCall("act", "silu", {}, {}, {}, lambda arrays: arrays["input"])
    >>> bool(layer_bound(call, {"input": np.ones(2)}, {}, "float32")[0] < 1e-5)
    True
    """
    from ldmref.backends.base import Backend
    from ldmref.backends.named import parameter_arguments

    names = list(inspect.signature(getattr(Backend, call.kind)).parameters)[1:]
    owned = parameter_arguments(call.kind)
    first = next(name for name in names if name not in owned)
    values = {first if role == "input" else role: x for role, x in inputs.items()}
    values |= {**parameters, **call.attributes}
    in_order = takewhile(lambda name: hasattr(values.get(name), "shape"), names)
    arrays = tuple(values.pop(name) for name in list(in_order))
    rest = {name: values[name] for name in names if name in values}
    return error_bound(call.kind, arrays, rest, dtype, result)


def basis(operation: str) -> Literal["derived", "calibrated"]:
    """Return whether a bound follows from the standard model alone or has calibrated factors.

    A derived bound holds for all numbers. A calibrated one rests on the model that roundings are
    independent, or on measured factors, and held on all random inputs of the calibration.

    Args:
        operation: A name in `OPERATIONS`.

    Returns:
        "derived" or "calibrated".

    >>> from ldmref.backends.bounds import basis
    >>> basis("upsample2x"), basis("conv2d")
    ('derived', 'calibrated')
    """
    return "derived" if operation in DERIVED else "calibrated"


def _as_float64(value: object) -> Any:
    """Convert an array of floats to float64; integers, numbers and None stay as they are."""
    if not hasattr(value, "dtype"):
        return value
    array = np.asarray(value)
    return array if array.dtype.kind in "iub" else array.astype(np.float64)


def _moved(operation: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, ...]:
    """Return the shape of the result of an operation that does not round."""
    from ldmref.backends.numpy import NumpyBackend

    return getattr(NumpyBackend(dtype="float64"), operation)(*args, **kwargs).shape
