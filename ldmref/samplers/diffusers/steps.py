r"""Step functions that reproduce the conventions of diffusers' schedulers.

Its DDIM and PNDM step to t - T // n, whatever the next timestep is, and interpret the state there.
Some of its schedulers lose their index in the schedule where img2img begins. In the coordinates
x = x0 + sigma eps, a variance-preserving state that was computed for one sigma and is read at
another is

.. math:: x_{read} = x \sqrt{1 + \sigma_{read}^2} / \sqrt{1 + \sigma_{computed}^2}

Source: diffusers 0.42.1, `schedulers/scheduling_ddim.py`, `scheduling_pndm.py`,
`scheduling_lms_discrete.py`, `scheduling_ddpm.py`, `scheduling_dpmsolver_multistep.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ldmref.math.arrays import Array
from ldmref.samplers.clipping import Clip
from ldmref.samplers.dpmpp import second_difference
from ldmref.samplers.interfaces import (
    Constraint,
    Denoiser,
    Guided,
    GuidedDenoiser,
    History,
    Interval,
    Noise,
    Step,
    Stepped,
)
from ldmref.samplers.multistep import adams_bashforth_rule
from ldmref.samplers.runge_kutta import combine
from ldmref.samplers.steps import euler_step


def rescale_state(x: Array, computed: float, read: float) -> Array:
    """Return a state that was computed for one sigma as it is read at another sigma."""
    if computed == read:
        return x
    return x * (math.hypot(1.0, read) / math.hypot(1.0, computed))


def step_to(step: Step, targets: Sequence[float]) -> Step:
    """Return `step` with `targets[i]` instead of the next sigma, where the state is then read."""

    def offset_step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        target = targets[interval.i]
        x_next, x0, history = step(denoise, x, interval._replace(sigma_next=target), history, noise)
        return rescale_state(x_next, target, interval.sigma_next), x0, history

    return offset_step


def clip_x0_only(step: Step, clip: Clip) -> Step:
    """Return DDIM's step with x0 clipped and eps of the prediction before clipping."""

    def clipped_step(denoise: Denoiser, *arguments) -> Stepped:
        x_next, x0, history = step(denoise, *arguments)
        clipped = clip(x0)
        return x_next + (clipped - x0), clipped, history

    return clipped_step


def constrain_evaluations(step: Step, constrain: Constraint, first: int) -> Step:
    """Put known values back before each evaluation of `step` except for the first of the run.

    They have the noise of the schedule's next sigma, also if the evaluation is between two sigmas.

    Args:
        step: Step of a singlestep method.
        constrain: Function that puts known values back.
        first: Index at which the run starts.
    """

    def constrained_step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        start = interval._replace(i_next=interval.i, sigma_next=interval.sigma)

        def known(x: Array, sigma: float) -> Array:
            if sigma < interval.sigma:
                return constrain(x, interval)
            return x if interval.i == first else constrain(x, start)

        return step(_denoise_at(denoise, known), x, interval, history, noise)

    return constrained_step


def _denoise_at(denoise: Denoiser, place: Callable[[Array, float], Array]) -> Denoiser:
    """Return the denoiser of `place(x, sigma)`."""
    if not isinstance(denoise, GuidedDenoiser):
        return lambda x, sigma: denoise(place(x, sigma), sigma)
    guided = denoise.guided

    def predict(x: Array, sigma: float, *rest: Any) -> Guided:
        return guided(place(x, sigma), sigma, *rest)

    return GuidedDenoiser(predict, denoise.remembers)


def wrong_second_difference(step: Step) -> Step:
    """Return DPM-Solver++(3M) SDE with diffusers' sign of D2: phi_3 is less by 1."""

    def wrong_step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        x_next, x0, memory = step(denoise, x, interval, history, noise)
        if len(history) == 2 and interval.sigma > interval.sigma_next > 0.0:
            h = math.log(interval.sigma / interval.sigma_next)
            x_next = x_next - second_difference(x0, h, *history)[1]
        return x_next, x0, memory

    return wrong_step


def large_variance(timesteps: Sequence[float]) -> Step:
    r"""Return DDPM with variance beta instead of the posterior's, without noise at timestep 0.

    .. math:: \sigma_{up}^2 = \frac{(\sigma^2 - \sigma'^2)(1 + \sigma'^2)}{1 + \sigma^2}

    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, section 3.2 (sigma_t^2 = beta_t).
    """

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        sigma = interval.sigma
        sigma_next = interval.sigma_next
        x0 = denoise(x, sigma)
        x_next = euler_step(x, x0, sigma, sigma_next**2 / sigma)
        shrink = math.hypot(1.0, sigma_next) / math.hypot(1.0, sigma)
        up = math.sqrt(sigma**2 - sigma_next**2) * shrink
        return (x_next + up * noise() if timesteps[interval.i] > 0 else x_next), x0, ()

    return step


def lms_by_index(sigmas: Sequence[float], order: int = 4) -> Step:
    """Return LMS whose order follows the schedule's index even if fewer slopes exist.

    At the start of img2img, weights of order 4 are used with a single slope. The weights of the
    missing slopes are dropped, and the first step goes too far.
    """

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        i = interval.i
        sigma = interval.sigma
        x0 = denoise(x, sigma)
        eps = (x - x0) * (1.0 / sigma)
        slopes = (eps, *history)[:order]
        before = sigmas[max(0, i - order + 1) : i][::-1]
        weights = adams_bashforth_rule(before, sigma, interval.sigma_next)
        used = weights[: len(slopes) - 1]
        dropped = weights[len(slopes) - 1 :]
        correction = combine(used, [old - eps for old in slopes[1 : len(used) + 1]])
        return euler_step(x, x0, sigma, interval.sigma_next - sum(dropped)) + correction, x0, slopes

    return step


_PLMS = ((1.0,), (1.5, -0.5), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def plms(
    targets: Sequence[float],
    second: Callable[[Interval], tuple[Interval, float] | None],
    prediction_type: str = "eps",
    constrain: Constraint | None = None,
) -> Step:
    """Return PNDM's linear multistep method as diffusers runs it.

    It averages the predictions of the network, which for `v` differs from averaging slopes. The
    first step, and each step without history, has two evaluations: an Euler step, a second
    evaluation at its end, and again an Euler step with the mean of both.

    Args:
        targets: Sigma to which the step from index i leads.
        second: Function of the interval that returns the interval which ends at the second
            evaluation and the sigma at which the repeated step starts, or None for a single
            evaluation. The repeated step also leads to the second evaluation's sigma.
        prediction_type: `eps`, `v`, or `x0`, for which slopes are averaged.
        constrain: Constraint, also applied to the state of the second evaluation.

    Source: Liu et al. 2022, arXiv:2202.09778, algorithm 2 (PLMS); diffusers 0.42.1, `step_plms`.
    """

    def output(x: Array, x0: Array, sigma: float) -> Array:
        eps = (x - x0) * (1.0 / sigma)
        if prediction_type != "v":
            return eps
        return (eps - sigma * x0) * (1.0 / math.hypot(1.0, sigma))

    def move(x: Array, out: Array, sigma: float, target: float) -> Array:
        scale = math.hypot(1.0, sigma)
        if prediction_type == "v":
            x0 = (x * (1.0 / scale) - sigma * out) * (1.0 / scale)
        else:
            x0 = x - sigma * out
        return euler_step(x, x0, sigma, target)

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        sigma = interval.sigma
        x0 = denoise(x, sigma)
        target = targets[interval.i]
        outputs = (output(x, x0, sigma), *history)[:4]
        x_next = move(x, combine(_PLMS[len(outputs) - 1], list(outputs)), sigma, target)
        repeat = None if history else second(interval)
        if repeat is not None:
            reached, start = repeat
            end = reached.sigma_next
            there = rescale_state(x_next, target, end)
            there = there if constrain is None else constrain(there, reached)
            mean = 0.5 * (outputs[0] + output(there, denoise(there, end), end))
            x_next = move(rescale_state(x, sigma, start), mean, start, end)
            target = end
        return rescale_state(x_next, target, interval.sigma_next), x0, outputs

    return step


def ddim_targets(
    table: np.ndarray, sigmas: Sequence[float], timesteps: Sequence[float]
) -> list[float]:
    """Return, for each index, the sigma of t - T // n; the last sigma below timestep 0."""
    stride = len(table) // (len(sigmas) - 1)
    previous = [round(t) - stride for t in timesteps]
    return [float(table[t]) if t >= 0 else sigmas[-1] for t in previous]


def plms_visits(n: int, first_step: int) -> list[int]:
    """Return the indices at which PNDM reads a state; it lists the second timestep twice.

    img2img cuts that list.

    >>> plms_visits(4, 0), plms_visits(4, 1), plms_visits(4, 2)
    ([0, 1, 2, 3, 4], [1, 2, 3, 4], [1, 3, 4])
    """
    calls = plms_calls(n, first_step)
    return [calls[0], *calls[2:], n]


def plms_calls(n: int, first_step: int) -> list[int]:
    """Return the indices of the network's evaluations by PNDM."""
    return [0, *range(1, n)[:1], *range(1, n)][first_step:]
