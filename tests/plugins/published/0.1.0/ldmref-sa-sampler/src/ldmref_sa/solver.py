r"""SA-Solver: an Adams method for stochastic differential equations, as a step of ldmref.

The reverse process with noise of strength tau has the same marginals for every tau. In ldmref's
coordinates x = x0 + sigma * eps, with lambda = -log sigma, h = lambda' - lambda and constant tau in
a step, its exact solution is (proposition 4.2)

.. math:: x' = e^{-ah} x + \int_\lambda^{\lambda'} a\, e^{-a(\lambda' - l)}\, x_0(l)\, dl
               + \sigma'\sqrt{1 - e^{-2\tau^2 h}}\,\xi, \quad a = 1 + \tau^2, \quad \xi \sim N(0, I)

tau = 0 is the probability flow, tau = 1 the reverse process of DDPM. An Adams method replaces x0(l)
by the polynomial through known predictions. With r_k the positions of their noise levels in units
of the step (the start is 0, the end 1), this is

.. math:: x' = e^{-ah} x + (1 - e^{-ah})\, x_0 + \sum_k w_k (x_{0,k} - x_0) + \dots, \qquad
          \sum_k w_k r_k^i = ah \int_0^1 e^{-ah(1 - u)} u^i du

The predictor uses the predictions of this step and of earlier steps. The corrector also uses the
prediction at the end of the step, which the next step needs anyway, and the same noise.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ldmref.samplers import (
    Denoiser,
    Interval,
    Noise,
    Step,
    Stepped,
    exponential_moment,
    moment_weights,
)

Prediction = tuple[float, Any]  # (sigma, x0)


class SAHistory(NamedTuple):
    """The last step: its predictions, newest first, its a = 1 + tau^2 and its correction."""

    past: tuple[Prediction, ...]
    rate: float
    correction: Any


def sa_solver(
    predictor_order: int = 2,
    corrector_order: int = 2,
    eta: float = 1.0,
    low: float = 0.0,
    high: float = math.inf,
    published: bool = False,
) -> Step:
    """Return a step of SA-Solver in its data prediction, with one evaluation per step.

    The orders grow from 1 (predictor) and 2 (corrector) by one with every step. Without noise the
    method converges at the order of the corrector, but at most at order 3, which the first step
    reaches. With noise, the error also has a term tau * h (theorem 5.1 of the paper).

    Args:
        predictor_order: Number of predictions in the predictor, 1 to 4.
        corrector_order: Number of predictions in the corrector, with the new one, 2 to 4; 0: none.
        eta: tau, the strength of the noise: 0 is the probability flow, 1 the reverse process.
        low, high: The noise levels sigma at which steps with noise start; tau is 0 at others.
        published: Whether the weight of a sum of one term leaves out the exponential, as in the
            authors' code and in diffusers; the order remains.

    Returns:
        A step for `ldmref.samplers.sample`.

    Raises:
        ValueError: An argument is not one of these.

    Source: Xue et al. 2023, arXiv:2309.05019, algorithm 1; the predictor is eq. 14 and 15, the
    corrector eq. 17 and 18.
    """
    if predictor_order not in (1, 2, 3, 4):
        raise ValueError(f"predictor_order must be 1 to 4, not {predictor_order!r}")
    if corrector_order not in (0, 2, 3, 4):
        raise ValueError(f"corrector_order must be 0 or 2 to 4, not {corrector_order!r}")
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta must be from 0 to 1, not {eta!r}")
    kept = max(predictor_order, corrector_order) - 1

    def step(
        denoise: Denoiser, x: Any, interval: Interval, history: tuple, noise: Noise
    ) -> Stepped:
        sigma = interval.sigma
        sigma_next = interval.sigma_next
        x0 = denoise(x, sigma)
        if sigma_next in (0.0, sigma):
            return (x0 if sigma_next == 0.0 else x), x0, ()
        past: tuple[Prediction, ...] = ()
        if history:
            past, rate, predicted = history
            if corrector_order:
                nodes = ((sigma, x0), *past[1 : corrector_order - 1])
                corrected = integrate(past[0], nodes, sigma, rate, published)
                x = x + (corrected - predicted)
        tau = eta if low <= sigma <= high and sigma_next < sigma else 0.0
        rate = 1.0 + tau**2
        newest = (sigma, x0)
        correction = integrate(newest, past[: predictor_order - 1], sigma_next, rate, published)
        x_next = x0 + (sigma_next / sigma) ** rate * (x - x0) + correction
        if tau > 0.0:
            variance = -math.expm1(-2.0 * tau**2 * math.log(sigma / sigma_next))
            x_next = x_next + sigma_next * math.sqrt(variance) * noise()
        return x_next, x0, SAHistory((newest, *past)[: max(kept, 1)], rate, correction)

    return step


def integrate(
    newest: Prediction,
    others: tuple[Prediction, ...],
    sigma_next: float,
    rate: float,
    published: bool = False,
) -> Any:
    """Return what the others add to the integral of a constant x0: sum_k w_k (x0_k - x0).

    Args:
        newest: The prediction at the start of the step.
        others: Further predictions; their number is the degree of the polynomial.
        sigma_next: The noise level at the end of the step.
        rate: a = 1 + tau^2.
        published: See `sa_solver`.
    """
    sigma, x0 = newest
    h = math.log(sigma / sigma_next)
    positions = [math.log(sigma / s) / h for s, _ in others]
    moments = [exponential_moment(i + 1, rate * h) for i in range(len(others))]
    if published and len(others) == 1:
        moments = [0.5 * rate * h]
    weights = moment_weights(positions, moments)
    terms = (w * (other - x0) for w, (_, other) in zip(weights, others, strict=True))
    return sum(terms, 0.0)
