"""A fixed-step integrator for probability flows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from ldmref.math.arrays import Array


def integrate_rk4(
    velocity: Callable[[Array, float], Array], x: Array, times: Sequence[float]
) -> Array:
    r"""Integrate dx/dt = velocity(x, t) with the classical Runge-Kutta method.

    .. math:: k_1 = u(x, t), \quad k_2 = u(x + \tfrac h2 k_1, t + \tfrac h2), \quad
              k_3 = u(x + \tfrac h2 k_2, t + \tfrac h2), \quad k_4 = u(x + h k_3, t + h), \qquad
              x' = x + \tfrac h6 (k_1 + 2 k_2 + 2 k_3 + k_4)

    Args:
        velocity: `velocity(x, t)`, shape of `x`.
        x: the state at times[0], any shape.
        times: in either direction, Python floats; one step per interval.

    Returns:
        the state at times[-1], shape and dtype of `x`.

    Accuracy: order 4; exact if the velocity is a cubic in t alone.
    Source: Kutta 1901; Hairer, Norsett, Wanner 1993, Solving ODEs I, table II.1.2.

    >>> import numpy as np
    >>> integrate_rk4(lambda x, t: 4.0 * t**3 + 0.0 * x, np.asarray([1.0]), [0.0, 2.0])
    array([17.])
    """
    for t, t_next in pairwise([float(t) for t in times]):
        h = t_next - t
        k1 = velocity(x, t)
        k2 = velocity(x + 0.5 * h * k1, t + 0.5 * h)
        k3 = velocity(x + 0.5 * h * k2, t + 0.5 * h)
        k4 = velocity(x + h * k3, t_next)
        x = x + (h / 6.0) * (k1 + 2.0 * (k2 + k3) + k4)
    return x
