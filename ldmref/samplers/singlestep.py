r"""DPM-Solver++, singlestep, with one evaluation for each sigma of the schedule.

The steps of `dpm_solver.py` go from one sigma to the next, with intermediate nodes between them.
Here, a block of `order` steps is one step of the method, and its intermediate nodes are sigmas of
the schedule: a block goes from sigma_0 over sigma_1 (and sigma_2) to sigma_3. Every step starts
again at the block's first state,

.. math:: x' = e^{-h} x + (1 - e^{-h})\, x_0 + \sum_j c_j D_j, \qquad h = \log(\sigma_0 / \sigma')

with D_1 and D_2 the first and half the second derivative of x0 in units of h, at sigma_0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import Denoiser, History, Interval, Noise, Step, Stepped
from ldmref.samplers.moments import exponential_moment
from ldmref.samplers.steps import euler_step


class Block(NamedTuple):
    """The block so far: its first state, and (sigma, prediction) of each step, oldest first."""

    x: Array
    past: tuple[tuple[float, Array], ...]


def dpmpp_singlestep(
    order: int = 2, solver: str = "midpoint", orders: Sequence[int] | None = None
) -> Step:
    """DPM-Solver++, singlestep, of order 2 or 3 in blocks of as many steps.

    Step k of a block is of order k. Order 2 takes c_1 = (1 - e^-h) / 2 (`midpoint`) or the exact
    1 - (1 - e^-h) / h (`heun`). Order 3 takes the exact c_1 for the difference to the newest
    prediction (`midpoint`), or integrates the parabola through all three exactly (`heun`).

    The step to sigma = 0 goes to x0.

    Args:
        order: Number of steps per block, 2 or 3.
        solver: Weights of the differences, `midpoint` or `heun`.
        orders: Order of every step of the schedule, by index (`singlestep_orders`); None: 1, 2
            (, 3) in turn, without an end.

    Returns:
        A step for `sample`: order 2, one evaluation per step. Its history is the start of the
        block and the predictions since.

    Raises:
        ValueError: `order` or `solver` is not one of these.

    Source: Lu et al. 2022, arXiv:2211.01095, algorithm 1, and published code; diffusers 0.42.1,
    `DPMSolverSinglestepScheduler`.

    >>> import numpy as np
    >>> from ldmref.samplers import dpmpp_singlestep, sample
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> *_, last = sample(denoise, np.asarray([2.0]), [2.0, 1.4, 1.0, 0.7, 0.5], dpmpp_singlestep())
    >>> last.x.round(3)  # the exact result is 1
    array([0.984])
    """
    if order not in (2, 3) or solver not in ("midpoint", "heun"):
        raise ValueError(f"order must be 2 or 3, solver midpoint or heun; not {order}, {solver!r}")

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        sigma = interval.sigma
        sigma_next = interval.sigma_next
        x0 = denoise(x, sigma)
        if sigma_next == 0.0:
            return x0, x0, ()
        start, past = history or (x, ())
        wanted = orders[interval.i] if orders is not None else len(past) % order + 1
        if wanted == 1 or not past:
            start = x
            past = ()
        if sigma not in [s for s, _ in past]:  # a schedule may repeat a level
            past = (*past, (sigma, x0))
        return _move(start, past, sigma_next, solver), x0, Block(start, past)

    return step


def singlestep_orders(steps: int, order: int, lower_order_final: bool = True) -> list[int]:
    """Return the order of every step: 1, ..., `order` in turn, and 1 instead of a last `order`.

    Source: diffusers 0.42.1, `DPMSolverSinglestepScheduler.get_order_list`.

    >>> singlestep_orders(4, 2), singlestep_orders(6, 3), singlestep_orders(5, 3)
    ([1, 2, 1, 1], [1, 2, 3, 1, 2, 1], [1, 2, 3, 1, 2])
    """
    orders = [i % order + 1 for i in range(steps)]
    if lower_order_final and steps % order == 0:
        orders[-1] = 1
    return orders


def _move(x: Array, past: Sequence[tuple[float, Array]], sigma_next: float, solver: str) -> Array:
    """Move from the block's first state to sigma_next, using all of its predictions."""
    sigma, x0 = past[0]
    h = math.log(sigma / sigma_next)
    euler = euler_step(x, x0, sigma, sigma_next)
    if len(past) == 1:
        return euler
    exact = exponential_moment(1, h)
    # first divided differences to the block's first prediction, in units of h
    slopes = [(new - x0) * (h / math.log(sigma / s)) for s, new in past[1:]]
    if len(past) == 2:
        c1 = exact if solver == "heun" else -0.5 * math.expm1(-h)
        return euler + c1 * slopes[0]
    if solver == "midpoint":
        return euler + exact * slopes[1]
    r1, r0 = (math.log(sigma / s) / h for s, _ in past[1:])
    second = (slopes[1] - slopes[0]) * (1.0 / (r0 - r1))
    d1 = slopes[0] - r1 * second
    return euler + exact * d1 + exponential_moment(2, h) * second
