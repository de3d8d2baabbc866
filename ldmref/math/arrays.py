"""The type `Array`, and helpers for formulas that accept both scalars and arrays.

A formula accepts arrays of any library that follows the array API standard (NumPy, PyTorch, CuPy,
array-api-strict), gets its namespace from `array_namespace(x)` and returns arrays of that library.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, Any, Protocol

from array_api_compat import array_namespace

if TYPE_CHECKING:

    class Array(Any, Protocol):
        """An array of any library, or a number: what formulas add, multiply and compare.

        Arrays of NumPy, PyTorch and CuPy, symbolic arrays of a graph and numbers satisfy it. Texts,
        lists, tables, modules and None do not. Docstrings give shapes and dtypes. Libraries differ
        in the other attributes and in what operators return, so these are not checked: the base
        `Any` says so.
        """

        def __add__(self, other: Array, /) -> Any: ...
        def __radd__(self, other: Array, /) -> Any: ...
        def __sub__(self, other: Array, /) -> Any: ...
        def __rsub__(self, other: Array, /) -> Any: ...
        def __mul__(self, other: Array, /) -> Any: ...
        def __rmul__(self, other: Array, /) -> Any: ...
        def __truediv__(self, other: Array, /) -> Any: ...
        def __rtruediv__(self, other: Array, /) -> Any: ...
        def __pow__(self, other: Array, /) -> Any: ...
        def __lt__(self, other: Array, /) -> Any: ...
        def __le__(self, other: Array, /) -> Any: ...
        def __gt__(self, other: Array, /) -> Any: ...
        def __ge__(self, other: Array, /) -> Any: ...
        def __neg__(self) -> Any: ...
        def __float__(self) -> float: ...
        def __bool__(self) -> bool: ...
else:
    Array = Any


def along(coefficient: Array, x: Array) -> Array:
    """Reshape a coefficient per example to broadcast over the trailing axes of x, in x's dtype.

    Args:
        coefficient: scalar (Python, NumPy or 0-d), or (n,).
        x: (n, ...).

    Returns:
        a Python float for Python and NumPy scalars, which never changes x's dtype; arrays reshaped
        to (n, 1, ...) and cast to the dtype of `x`.

    Raises:
        ValueError: `coefficient` is neither a scalar nor of length n.

    Accuracy: rounded once, to x's dtype.
    Derived: broadcasting.

    >>> import numpy as np
    >>> along(np.asarray([1.0, 2.0]), np.zeros((2, 3, 3))).shape
    (2, 1, 1)
    """
    if isinstance(coefficient, Real):
        return float(coefficient)
    if coefficient.ndim > 1 or coefficient.shape not in ((), (1,), x.shape[:1]):
        raise ValueError(
            f"a coefficient of shape {coefficient.shape} does not fit {x.shape}: "
            "it must be a scalar, or a number for each example along the first axis"
        )
    xp = array_namespace(coefficient)
    shape = coefficient.shape + (1,) * (x.ndim - 1) if coefficient.ndim else ()
    return xp.astype(xp.reshape(coefficient, shape), x.dtype, copy=False)


def amplitudes(alpha_bar: Array, x: Array) -> tuple[Array, Array]:
    r"""Return the scales of signal and noise in x_t, one pair per example, along x.

    .. math:: \left(\sqrt{\bar\alpha}, \sqrt{1 - \bar\alpha}\right)

    Args:
        alpha_bar: scalar or (n,), in [0, 1]; dimensionless.
        x: (n, ...), real floating.

    Returns:
        two coefficients that broadcast against x, as `along` does.

    Raises:
        ValueError: a scalar is out of range (arrays give NaN there), or n disagrees.

    Accuracy: 2 ulp for alpha_bar, rounded once to x's dtype.
    Derived: definition.

    >>> import numpy as np
    >>> amplitudes(0.64, np.zeros((1, 2)))
    (0.8, 0.6)
    """
    if isinstance(alpha_bar, Real) and not 0.0 <= float(alpha_bar) <= 1.0:
        raise ValueError(f"alpha_bar must be in [0, 1], not {alpha_bar}")
    return along(root(alpha_bar), x), along(root(1.0 - alpha_bar), x)


def root(a: Array) -> Array:
    """Square root of a scalar or an array.

    Args:
        a: scalar or array, >= 0.

    Returns:
        sqrt(a): a Python float for Python and NumPy scalars, otherwise dtype and shape of `a`.

    Raises:
        ValueError: a scalar is negative (arrays give NaN there).

    Accuracy: correctly rounded.
    Derived: definition.

    >>> root(4.0)
    2.0
    """
    if not isinstance(a, Real):
        return array_namespace(a).sqrt(a)
    if a < 0.0:
        raise ValueError(f"square root of {a}: {_OUT_OF_RANGE}")
    return math.sqrt(a)


def log(a: Array) -> Array:
    """Natural logarithm of a scalar or an array.

    Args:
        a: scalar or array, > 0.

    Returns:
        log(a): a Python float for Python and NumPy scalars, otherwise dtype and shape of `a`.

    Raises:
        ValueError: a scalar is not positive (arrays give NaN or -inf there).

    Accuracy: 1 ulp.
    Derived: definition.

    >>> log(1.0)
    0.0
    """
    if not isinstance(a, Real):
        return array_namespace(a).log(a)
    if a <= 0.0:
        raise ValueError(f"logarithm of {a}: {_OUT_OF_RANGE}")
    return math.log(a)


_OUT_OF_RANGE = "an argument is out of its range; ldmref.math.checked says which"
