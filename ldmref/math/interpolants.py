"""Stochastic interpolants: every path from data to noise, x = a x0 + b eps, in one formula.

a(t) falls from 1 to 0 and b(t) rises from 0 to 1. The variance-preserving path, the straight path
of flow matching and TrigFlow differ only in these two functions of time. A velocity and a state
determine data and noise on each of them, by the same two linear equations.

`signal`, `noise` and their rates are scalars or (n,), and broadcast over the trailing axes.
"""

from __future__ import annotations

from ldmref.math.arrays import Array, along


def interpolant_pair(
    x: Array,
    velocity: Array,
    signal: Array,
    noise: Array,
    signal_rate: Array,
    noise_rate: Array,
) -> tuple[Array, Array]:
    r"""Return data and noise from a state and its velocity, on any path.

    .. math:: x_0 = \frac{\dot b\, x - b\, \dot x}{a \dot b - b \dot a}, \qquad
              \epsilon = \frac{a\, \dot x - \dot a\, x}{a \dot b - b \dot a}

    Args:
        x: a x0 + b eps, (n, ...), real floating.
        velocity: a' x0 + b' eps, shape of `x`; of a network its prediction.
        signal: a, scalar or (n,), >= 0.
        noise: b, scalar or (n,), >= 0.
        signal_rate: a', the derivative of a by time, scalar or (n,); <= 0 from data to noise.
        noise_rate: b', the derivative of b by time, scalar or (n,); >= 0 from data to noise.

    Returns:
        (x0, eps), shape and dtype of `x`. The straight path, a = 1 - t and b = t, has
        `x0_from_velocity`; a = cos(t) and b = sin(t) has `x0_from_v`.

    Raises:
        ValueError: a coefficient and `x` disagree in n.

    Accuracy: each term within 6 ulp; nothing cancels in a b' - b a' if the signal falls and the
    noise rises.
    Derived: x = a x0 + b eps and x' = a' x0 + b' eps, solved by Cramer's rule; the interpolants are
    those of Albergo, Boffi, Vanden-Eijnden 2023, arXiv:2303.08797, definition 2.1, with noise at
    one end.

    >>> import numpy as np
    >>> x, velocity = np.asarray([[1.5]]), np.asarray([[2.0]])
    >>> interpolant_pair(x, velocity, 0.75, 0.25, -1.0, 1.0)
    (array([[1.]]), array([[3.]]))
    """
    turn = signal * noise_rate - noise * signal_rate
    x0 = along(noise_rate / turn, x) * x - along(noise / turn, x) * velocity
    eps = along(signal / turn, x) * velocity - along(signal_rate / turn, x) * x
    return x0, eps
