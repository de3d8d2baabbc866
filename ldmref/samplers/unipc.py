r"""UniPC: a predictor and a corrector that share one evaluation, in lambda = -log sigma.

Both integrate the polynomial through predictions x0 exactly against e^(-h (1 - u)): the predictor
through those of this step and the last ones, the corrector, one step later, also through the new
one. With r the positions of the predictions in units of the step h (the start is 0, the end 1), the
weights of the differences to the prediction at the start solve

.. math:: \sum_k w_k r_k^i = h \int_0^1 e^{-h(1 - u)} u^i du, \qquad
          x' = \mathrm{euler} + \sum_k w_k (x_{0,k} - x_0)

The paper's function B(h) cancels in these equations. It remains only where the published method
takes 1/2 for the single weight of a one-term sum: in the predictor of order 2, which with `bh2` is
DPM-Solver++(2M), and in the corrector of order 1.

For the noise prediction the same polynomials go through eps, against the weights of the slope:

.. math:: \sum_k w_k r_k^i = -\sigma' h \int_0^1 e^{h(1 - u)} u^i du
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple, TypeAlias

from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import Denoiser, History, Interval, Noise, Step, Stepped
from ldmref.samplers.moments import exponential_moment, moment_weights
from ldmref.samplers.runge_kutta import combine
from ldmref.samplers.steps import euler_step

Node: TypeAlias = tuple[float, Array]  # (sigma, prediction)


class UniPCHistory(NamedTuple):
    """The last step: its (corrected) start, its order, its predictions, newest first."""

    x: Array
    order: int
    past: tuple[Node, ...]


def unipc(
    order: int = 2,
    variant: str = "bh2",
    corrector: bool = True,
    noise_prediction: bool = False,
    lower_order_final: bool = False,
    disable_corrector: Collection[int] = (),
) -> Step:
    """UniPC, multistep: one evaluation per step.

    The order of the predictor grows from 1 to `order` by one with every step. The corrector raises
    it by one, but the first step, corrected to order 2, limits the run to order 3. The step to
    sigma = 0 goes to x0.

    Args:
        order: Number of predictions in the predictor, 1 to 3; 2 in diffusers by default.
        variant: `bh1`, B(h) = h, or `bh2`, B(h) = 1 - e^-h (e^h - 1 for the noise prediction).
        corrector: Whether steps are corrected; without the corrector, the method is UniP.
        noise_prediction: Whether to interpolate eps instead of x0.
        lower_order_final: Whether to reduce the order to 1 towards the last step, as in the
            published code.
        disable_corrector: Indices of steps whose result is not corrected.

    Returns:
        A step for `sample`; its history is a `UniPCHistory`.

    Raises:
        ValueError: `order` or `variant` is not one of these.

    Source: Zhao et al. 2023, arXiv:2302.04867, algorithms 1 (UniC) and 2 (UniP); published code,
    `uni_pc.py`, for both predictions.

    >>> import numpy as np
    >>> from ldmref.samplers import sample, unipc
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> *_, last = sample(denoise, np.asarray([2.0]), [2.0, 1.4, 1.0, 0.7, 0.5], unipc())
    >>> last.x.round(3)  # the exact result is 1
    array([1.001])
    """
    if order not in (1, 2, 3) or variant not in ("bh1", "bh2"):
        raise ValueError(f"order must be 1 to 3, variant bh1 or bh2; not {order}, {variant!r}")

    def moment(power: int, h: float, sigma_next: float) -> float:
        if noise_prediction:
            return sigma_next * exponential_moment(power, -h)
        return exponential_moment(power, h)

    def single(h: float, sigma_next: float) -> float:
        """Return B(h) in the units of the weights."""
        if noise_prediction:
            return -sigma_next * (h if variant == "bh1" else math.expm1(h))
        return h if variant == "bh1" else -math.expm1(-h)

    def move(
        x: Array, sigma: float, sigma_next: float, new: Array, others: Sequence[Node], halved: bool
    ) -> Array:
        """Move from (x, sigma) to sigma_next, using the predictions `new` and `others`."""
        h = math.log(sigma / sigma_next)
        if h == 0.0:
            return x
        positions = [math.log(sigma / s) / h for s, _ in others]
        if halved:
            weights = [0.5 * single(h, sigma_next) / r for r in positions]
        else:
            moments = [moment(i + 1, h, sigma_next) for i in range(len(positions))]
            weights = moment_weights(positions, moments)
        correction = combine(weights, [other - new for _, other in others])
        if noise_prediction:
            return x + (sigma_next - sigma) * new + correction
        return euler_step(x, new, sigma, sigma_next) + correction

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        sigma = interval.sigma
        sigma_next = interval.sigma_next
        x0 = denoise(x, sigma)
        if sigma_next == 0.0:
            return x0, x0, ()
        new = (x - x0) * (1.0 / sigma) if noise_prediction else x0
        past = ()
        if history:
            x_last, order_last, past = history
            if corrector and interval.i - 1 not in disable_corrector:
                (start, first), *earlier = past
                nodes = [*earlier[: order_last - 1], (sigma, new)]
                x = move(x_last, start, sigma, first, nodes, order_last == 1)
        if past and past[0][0] == sigma:  # a repeated level
            past = past[1:]
        p = min(order, len(past) + 1)
        if lower_order_final:
            p = min(p, interval.n - interval.i)
        x_next = move(x, sigma, sigma_next, new, past[: p - 1], p == 2)
        return x_next, x0, UniPCHistory(x, p, ((sigma, new), *past)[:order])

    return step
