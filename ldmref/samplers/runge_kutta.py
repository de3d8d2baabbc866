r"""Runge-Kutta methods: Butcher tableaux as data, and one step for all of them.

The probability-flow ODE is dx/dsigma = (x - x0) / sigma. A stage is a point u at s between sigma
and sigma', with slope e = (u - x0(u)) / s; only the differences d = e - e_1 to the first slope are
formed, from differences of predictions:

.. math:: b_i = h \sum_{j<i} a_{ij}\, d_j, \qquad u_i = \mathrm{euler}(s_i) + b_i, \qquad
          d_i = \frac{x_0 - x_0(u_i) + b_i}{s_i}, \qquad h = \sigma' - \sigma

which equals the usual form because every row of the tableau sums to its node.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction as F

from array_api_compat import array_namespace

from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import Denoiser, History, Interval, Noise, Step, Stepped
from ldmref.samplers.steps import euler_step


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta method in exact fractions.

    Args:
        nodes: The nodes c, (s,), from 0.
        matrix: The matrix a; row i has i entries.
        weights: The weights b, (s,).
        order: Order of convergence.
        weights_low: Weights of an embedded method of lower order, to estimate the error.

    Raises:
        ValueError: A row does not sum to its node, or weights do not sum to 1.
    """

    nodes: tuple[F, ...]
    matrix: tuple[tuple[F, ...], ...]
    weights: tuple[F, ...]
    order: int
    weights_low: tuple[F, ...] = ()

    def __post_init__(self):
        sizes = [len(row) for row in self.matrix]
        if sizes != list(range(len(self.nodes))) or len(self.weights) != len(self.nodes):
            raise ValueError(f"not an explicit tableau of {len(self.nodes)} stages")
        if [sum(row, F(0)) for row in self.matrix] != list(self.nodes):
            raise ValueError("a row does not sum to its node")
        if any(sum(b, F(0)) != 1 for b in (self.weights, self.weights_low) if b):
            raise ValueError("weights do not sum to 1")


MIDPOINT = Tableau((F(0), F(1, 2)), ((), (F(1, 2),)), (F(0), F(1)), 2)
HEUN = Tableau((F(0), F(1)), ((), (F(1),)), (F(1, 2), F(1, 2)), 2)
RK4 = Tableau(
    (F(0), F(1, 2), F(1, 2), F(1)),
    ((), (F(1, 2),), (F(0), F(1, 2)), (F(0), F(0), F(1))),
    (F(1, 6), F(1, 3), F(1, 3), F(1, 6)),
    4,
)
DORMAND_PRINCE = Tableau(
    (F(0), F(1, 5), F(3, 10), F(4, 5), F(8, 9), F(1), F(1)),
    (
        (),
        (F(1, 5),),
        (F(3, 40), F(9, 40)),
        (F(44, 45), F(-56, 15), F(32, 9)),
        (F(19372, 6561), F(-25360, 2187), F(64448, 6561), F(-212, 729)),
        (F(9017, 3168), F(-355, 33), F(46732, 5247), F(49, 176), F(-5103, 18656)),
        (F(35, 384), F(0), F(500, 1113), F(125, 192), F(-2187, 6784), F(11, 84)),
    ),
    (F(35, 384), F(0), F(500, 1113), F(125, 192), F(-2187, 6784), F(11, 84), F(0)),
    5,
    (F(5179, 57600), F(0), F(7571, 16695), F(393, 640), F(-92097, 339200), F(187, 2100), F(1, 40)),
)


def combine(weights: Sequence[F | float], differences: list[Array]) -> Array:
    """Return the sum of weight times difference, 0.0 if the sum is empty."""
    total: Array = 0.0
    for w, d in zip(weights, differences, strict=True):
        if w != 0.0:
            total = total + float(w) * d
    return total


def slope_differences(
    denoise: Denoiser, x: Array, x0: Array, sigma: float, sigma_next: float, tableau: Tableau
) -> tuple[list[Array], Array, Array]:
    """Compute all stages after the first: (slopes minus the first slope, last point, its x0)."""
    h = sigma_next - sigma
    u = x
    x0_u = x0
    differences: list[Array] = []
    for c, row in zip(tableau.nodes[1:], tableau.matrix[1:], strict=True):
        s = float(1 - c) * sigma + float(c) * sigma_next  # exactly sigma_next for c = 1
        correction = h * combine(row[1:], differences)
        u = euler_step(x, x0, sigma, s) + correction
        x0_u = denoise(u, s)
        differences.append((x0 - x0_u + correction) * (1.0 / s))
    return differences, u, x0_u


def runge_kutta_correction(
    denoise: Denoiser, x: Array, x0: Array, sigma: float, sigma_next: float, tableau: Tableau
) -> Array:
    """Return the correction of the method to Euler's step from `sigma` to `sigma_next`."""
    differences, _, _ = slope_differences(denoise, x, x0, sigma, sigma_next, tableau)
    return (sigma_next - sigma) * combine(tableau.weights[1:], differences)


def runge_kutta(tableau: Tableau) -> Step:
    r"""Return an explicit Runge-Kutta method for the probability-flow ODE in sigma.

    .. math:: x' = x_0 + \frac{\sigma'}{\sigma}(x - x_0) + h \sum_{i>1} b_i\, d_i

    The step to sigma = 0 is Euler's step to x0 because the slope at 0 does not exist.

    Args:
        tableau: `MIDPOINT`, `HEUN`, `RK4`, `DORMAND_PRINCE` (`ldmref.samplers.runge_kutta`) or
            another `Tableau`.

    Returns:
        A step for `sample`, without history. It works for x of any shape and for increasing sigmas.

    Source: Butcher 2016, Numerical Methods for Ordinary Differential Equations, section 232; Karras
    et al. 2022, arXiv:2206.00364, algorithm 1 (Heun, without churn).

    >>> import numpy as np
    >>> from ldmref.samplers import runge_kutta, sample
    >>> from ldmref.samplers.runge_kutta import RK4
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> *_, last = sample(denoise, np.asarray([2.0]), [2.0, 1.4, 1.0, 0.7, 0.5], runge_kutta(RK4))
    >>> last.x.round(3)  # the exact result is 1
    array([1.])
    """

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        sigma = interval.sigma
        sigma_next = interval.sigma_next
        x0 = denoise(x, sigma)
        if sigma_next == 0.0:
            return x0, x0, ()
        correction = runge_kutta_correction(denoise, x, x0, sigma, sigma_next, tableau)
        return euler_step(x, x0, sigma, sigma_next) + correction, x0, ()

    return step


def midpoint() -> Step:
    r"""Return the midpoint method: the slope at the (arithmetic) middle of the interval.

    .. math:: u = \mathrm{euler}\left(\tfrac12(\sigma + \sigma')\right), \qquad
              x' = x + h\, e(u), \qquad h = \sigma' - \sigma

    Returns:
        A step for `sample`: order 2, two evaluations per step (one in the step to 0), no history.

    Source: Hairer, Norsett, Wanner 1993, Solving ODEs I, section II.1 (Runge 1895).

    >>> import numpy as np
    >>> from ldmref.samplers import midpoint, sample
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> *_, last = sample(denoise, np.asarray([2.0]), [2.0, 1.4, 1.0, 0.7, 0.5], midpoint())
    >>> last.x.round(3)  # the exact result is 1
    array([1.])
    """
    return runge_kutta(MIDPOINT)


def heun() -> Step:
    r"""Return Heun's second-order method: an Euler step, corrected with the slope at its end.

    .. math:: \hat x = x_0 + \frac{\sigma'}{\sigma}(x - x_0), \qquad
              x' = \hat x + \frac{\sigma - \sigma'}{2\sigma'}(\hat x_0 - x_0)

    with x_0 and \hat x_0 the predictions at both ends. The step to sigma = 0 goes to x0.

    Returns:
        A step for `sample`: order 2, two evaluations per step (one in the step to 0), no history.

    Source: Karras et al. 2022, arXiv:2206.00364, algorithm 1 (without churn).

    >>> import numpy as np
    >>> from ldmref.samplers import heun, sample
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> *_, last = sample(denoise, np.asarray([2.0]), [2.0, 1.4, 1.0, 0.7, 0.5], heun())
    >>> last.x.round(3)  # the exact result is 1
    array([1.01])
    """
    return runge_kutta(HEUN)


def rk4() -> Step:
    r"""Return the classical fourth-order Runge-Kutta method.

    .. math:: x' = x + \frac{h}{6}(e_1 + 2 e_2 + 2 e_3 + e_4), \qquad h = \sigma' - \sigma

    with e_i the slope (x - x_0) / sigma at stage i. The step to sigma = 0 goes to x0.

    Returns:
        A step for `sample`: order 4, four evaluations per step (one in the step to 0), no history.

    Source: Hairer, Norsett, Wanner 1993, Solving ODEs I, table II.1.2 (Kutta 1901).

    >>> import numpy as np
    >>> from ldmref.samplers import rk4, sample
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> *_, last = sample(denoise, np.asarray([2.0]), [2.0, 1.4, 1.0, 0.7, 0.5], rk4())
    >>> last.x.round(3)  # the exact result is 1
    array([1.])
    """
    return runge_kutta(RK4)


def rk45(rtol: float = 1e-5, atol: float = 1e-5) -> Step:
    """Return Dormand-Prince 5(4) with adaptive substeps within each interval.

    A substep is accepted if the two embedded methods differ by at most atol + rtol max(|x|, |x'|)
    in every element of the batch; the next one is 0.9 error^(-1/5) times as long, limited to the
    range from a fifth to five times. The last slope of an accepted substep is the first of the
    next. The sigmas only determine where callbacks and constraints apply.

    Rounding may change whether a substep is accepted; two backends may then divide an interval
    differently, and their results differ by the error of the method. The default tolerances,
    those of score_sde, keep that error far below half a grey level of an image (2 / 255 / 2).

    Args:
        rtol: Accepted error relative to the state, > 0.
        atol: Accepted absolute error, > 0; data are of order 1.

    Returns:
        A step for `sample`: order 5, at least seven evaluations per step (one in the step to 0).
        Its history is (length of the next substep, evaluations so far).

    Raises:
        ValueError: A tolerance is not positive.

    Source: Dormand and Prince 1980, "A family of embedded Runge-Kutta formulae", table 2; step
    control as in Hairer, Norsett, Wanner 1993, Solving ODEs I, section II.4.

    >>> import numpy as np
    >>> from ldmref.samplers import rk45, sample
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> *_, last = sample(denoise, np.asarray([2.0]), [2.0, 1.4, 1.0, 0.7, 0.5], rk45())
    >>> last.x.round(3)  # the exact result is 1
    array([1.])
    """
    if not (rtol > 0.0 and atol > 0.0):
        raise ValueError(f"tolerances must be positive, not rtol={rtol}, atol={atol}")
    weights = DORMAND_PRINCE.weights
    low = DORMAND_PRINCE.weights_low
    error_weights = [b - b_low for b, b_low in zip(weights, low, strict=True)]

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        sigma = interval.sigma
        sigma_next = interval.sigma_next
        length, count = history or (abs(sigma_next - sigma), 0)
        x0_start = x0 = denoise(x, sigma)
        count += 1
        if sigma_next == 0.0:
            return x0, x0, (length, count)
        # below is rounding
        xp = array_namespace(x)
        shortest = 2.0**-20 * max(sigma, sigma_next)
        while sigma != sigma_next:
            h = max(length, shortest)
            last = h >= abs(sigma_next - sigma)
            s = sigma_next if last else sigma + math.copysign(h, sigma_next - sigma)
            differences, u, x0_u = slope_differences(denoise, x, x0, sigma, s, DORMAND_PRINCE)
            count += len(differences)
            gap = (s - sigma) * combine(error_weights[1:], differences)
            scale = atol + rtol * xp.where(xp.abs(x) > xp.abs(u), xp.abs(x), xp.abs(u))
            error = float(xp.max(xp.abs(gap) / scale))
            if math.isnan(error):
                return u, x0_start, (length, count)  # left for the caller to detect
            factor = 5.0 if error == 0.0 else min(5.0, max(0.2, 0.9 * error**-0.2))
            h = abs(s - sigma)
            accepted = error <= 1.0 or h <= shortest
            length = max(length, h * factor) if accepted and last else h * factor
            if accepted:
                x = u
                x0 = x0_u
                sigma = s
        return x, x0_start, (length, count)

    return step
