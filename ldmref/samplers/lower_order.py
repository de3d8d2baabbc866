"""Lower orders in the last steps of a multistep method.

Schedules that are not even in log sigma end with a long step: `linspace` of 8 steps goes from
sigma = 0.44 to 0.029 after a step that is less than a quarter as long. A parabola through earlier
predictions is useless that far away, so published methods return to a line and to Euler's step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import Denoiser, History, Interval, Noise, Step, Stepped
from ldmref.samplers.multistep import MultistepHistory
from ldmref.samplers.sampler import Sampler
from ldmref.samplers.singlestep import singlestep_orders


def limit_order(step: Step, limit: Callable[[Interval], int]) -> Step:
    """Return a multistep method whose `history` is cut to one prediction less than its order.

    Args:
        step: Step whose history is a tuple of predictions, newest first, or a `MultistepHistory`.
        limit: Function that returns the highest order in an interval; it must not grow along the
            schedule.
    """

    def limited_step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        return step(denoise, x, interval, newest(history, limit(interval) - 1), noise)

    return limited_step


def newest(history: History, count: int) -> History:
    """Cut a history to its newest `count` predictions."""
    if count and isinstance(history, MultistepHistory):  # which has one outside `past`
        return history._replace(past=history.past[: count - 1])
    return history[:count]


def lower_at_the_end(sampler: Sampler, options: dict[str, Any], sigmas: Sequence[float]) -> Step:
    """Make the step of a sampler, with orders 2 and 1 in the last two steps where that helps.

    It helps UniPC, singlestep methods and methods that fit parabolas; `dpmpp_2m` and others are as
    in k-diffusion. The step to 0 goes to x0 in every method. As in the published codes of
    DPM-Solver and UniPC, the last step that counts is the one to the last positive sigma.

    Args:
        sampler: Sampler from `get_sampler`.
        options: Arguments of `sampler.make`.
        sigmas: Noise levels of the run, (n + 1,).

    Source: Zhao et al. 2023, arXiv:2302.04867, published code (`uni_pc.py`, `lower_order_final`, at
    any number of steps); Lu et al. 2022, arXiv:2211.01095, published code (below 10 steps).
    """
    steps = len(sigmas) - (2 if sigmas[-1] == 0.0 else 1)
    if "lower_order_final" in sampler.configurable:
        return _count_to(sampler.make(**options, lower_order_final=True), steps)
    if sampler.block:
        orders = singlestep_orders(steps, sampler.block)
        return sampler.make(**options, orders=[*orders, 1])
    step = sampler.make(**options)
    if sampler.lower_orders == "always":
        return limit_order(step, lambda interval: max(1, steps - interval.i))
    return step


def _count_to(step: Step, steps: int) -> Step:
    """Return `step` for a run of that many steps, whatever its intervals say."""

    def counted_step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        return step(denoise, x, interval._replace(n=steps), history, noise)

    return counted_step
