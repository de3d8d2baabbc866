"""Interpolation between two latents: on the straight line and on the great circle.

High-dimensional standard normal noise lies near a sphere. The midpoint of the straight line has
half the variance, unlike anything seen in training; the great circle preserves it.
"""

from __future__ import annotations

from array_api_compat import array_namespace

from ldmref.math.arrays import Array, along


def lerp(a: Array, b: Array, t: Array) -> Array:
    r"""Interpolate on the straight line from a to b.

    .. math:: (1 - t)\, a + t\, b

    Args:
        a: (n, ...), real floating.
        b: shape and dtype of `a`.
        t: position, scalar or (n,); 0 at `a`, 1 at `b`, outside [0, 1] extrapolates.

    Returns:
        shape and dtype of `a`; exactly `a` at 0 and `b` at 1.

    Raises:
        ValueError: `t` and `a` disagree in n.

    Accuracy: each term within 2 ulp.
    Derived: definition.

    >>> import numpy as np
    >>> lerp(np.asarray([[0.0, 4.0]]), np.asarray([[8.0, 4.0]]), 0.25)
    array([[2., 4.]])
    """
    t = along(t, a)
    return (1.0 - t) * a + t * b


def slerp(a: Array, b: Array, t: Array) -> Array:
    r"""Interpolate on the great circle from a to b, treating each example as one vector.

    .. math:: \frac{\sin((1 - t)\,\omega)}{\sin\omega}\, a + \frac{\sin(t\,\omega)}{\sin\omega}\, b,
              \qquad \omega = \angle(a, b)

    For a and b of equal length it preserves the length, at constant angular speed. Where the great
    circle is undefined (an example is zero, or sin(omega) is below the square root of ulp:
    parallel, where the two formulas agree to an ulp, or opposite) it is `lerp`.

    Args:
        a: (n, ...), real floating.
        b: shape and dtype of `a`.
        t: position, scalar or (n,); 0 at `a`, 1 at `b`, outside [0, 1] continues around it.

    Returns:
        shape and dtype of `a`; exactly `a` at 0 and `b` at 1.

    Raises:
        ValueError: `t` and `a` disagree in n.

    Accuracy: (8 + number of elements) ulp of |a| + |b|, divided by sin(omega) for obtuse angles.
    Source: Shoemake 1985, SIGGRAPH 19(3):245; the angle: Kahan 2006, "How futile are
    mindless assessments of roundoff", section 12.

    >>> import numpy as np
    >>> slerp(np.asarray([[1.0, 0.0]]), np.asarray([[0.0, 1.0]]), 0.5).round(6)
    array([[0.707107, 0.707107]])
    """
    xp = array_namespace(a, b)
    flat_a, flat_b = (xp.reshape(z, (a.shape[0], -1)) for z in (a, b))
    unit_a = _unit(flat_a)
    unit_b = _unit(flat_b)
    omega = 2.0 * xp.atan2(_length(unit_a - unit_b), _length(unit_a + unit_b))
    zero = (_length(unit_a) == 0.0) | (_length(unit_b) == 0.0)
    straight = zero | (xp.sin(omega) < float(xp.finfo(a.dtype).eps) ** 0.5)
    omega = xp.where(straight, xp.ones_like(omega), omega)
    t = along(t, flat_a) + xp.zeros_like(omega)

    def weight(s: Array) -> Array:
        return xp.where(straight, s, xp.sin(s * omega) / xp.sin(omega))

    return xp.reshape(weight(1.0 - t) * flat_a + weight(t) * flat_b, a.shape)


def _length(x: Array) -> Array:
    return array_namespace(x).linalg.vector_norm(x, axis=1, keepdims=True)


def _unit(x: Array) -> Array:
    """Rows of length 1; zero rows stay zero."""
    length = _length(x)
    return x / array_namespace(x).where(length == 0.0, length + 1.0, length)
