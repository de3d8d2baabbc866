"""The weights of multistep methods: exact for polynomials, against powers or exponentials."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np


def moment_weights(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    r"""Return the weights of nodes that are exact for polynomials without a constant term.

    .. math:: \sum_j w_j\, r_j^i = m_i, \qquad i = 1, \ldots, s

    Args:
        nodes: The nodes r, (s,), which differ from each other and from 0.
        moments: The moments m of the powers 1 to s, (s,).

    Returns:
        The weights w, s floats.

    >>> from ldmref.samplers import moment_weights
    >>> moment_weights([-1.0], [0.5])  # the second-order Adams-Bashforth method
    [-0.5]
    """
    if not nodes:
        return []
    powers = np.asarray(nodes)[None, :] ** np.arange(1, len(nodes) + 1)[:, None]
    return np.linalg.solve(powers, np.asarray(moments)).tolist()


@cache
def quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights on [0, 1], exact to rounding for exponentials up to e^40."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    return 0.5 * (nodes + 1.0), 0.5 * weights


def exponential_moment(power: int, h: float) -> float:
    r"""Return the integral of a power of u against the weights of an exponential integrator.

    .. math:: \int_0^1 h\, e^{-h(1 - u)}\, u^k\, du = k!\, h\, \varphi_{k+1}(-h)

    These are the weights of the predictions x0 in exponential integrators in lambda = -log sigma.
    It is 1 - e^-h for k = 0.

    Args:
        power: k, an integer >= 0.
        h: Length of the step in lambda, log(sigma / sigma'); negative for steps up.

    Returns:
        The integral, a float; accurate also for h near 0.

    Source: Hochbruck and Ostermann 2010, "Exponential integrators", eq. 2.10.

    >>> from ldmref.samplers import exponential_moment
    >>> round(exponential_moment(1, 1.0), 12)  # 1 / e
    0.367879441171
    """
    u, w = quadrature()
    return float(h * np.sum(w * np.exp(-h * (1.0 - u)) * u**power))
