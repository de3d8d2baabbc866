r"""Steps that only diffusers takes: its habits in a form that the common loop can walk.

Its DDIM and PNDM step to t - T // n, whatever timestep comes next, and read the state there; and
some of its schedulers do not know where in the grid img2img began. In the coordinates
x = x0 + sigma eps, a variance-preserving state that was left at one level and is read at another is

.. math:: x_{read} = x \sqrt{1 + \sigma_{read}^2} / \sqrt{1 + \sigma_{left}^2}

Source: diffusers 0.42.1, `schedulers/scheduling_ddim.py`, `scheduling_pndm.py`,
`scheduling_lms_discrete.py`, `scheduling_ddpm.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ldmref.math.arrays import Array
from ldmref.samplers.loop import Denoise, Noise, StepFunction
from ldmref.samplers.multistep import adams_bashforth_rule
from ldmref.samplers.runge_kutta import combine
from ldmref.samplers.steps import straight


def reread(x: Array, left: float, read: float) -> Array:
    """A state that was left at one level, read as if it were at another."""
    return x if left == read else x * (math.hypot(1.0, read) / math.hypot(1.0, left))


def misplaced(step: StepFunction, targets: Mapping[float, float]) -> StepFunction:
    """`step` to `targets[sigma]` in place of the next level, where its result is then read."""

    def misplaced_step(denoise: Denoise, x: Array, sigma: float, sigma_next: float, *rest):
        target = targets.get(sigma, sigma_next)
        x_next, x0, history = step(denoise, x, sigma, target, *rest)
        return reread(x_next, target, sigma_next), x0, history

    return misplaced_step


def clipped_beside_the_noise(step: StepFunction, clip: Callable[[Array], Array]) -> StepFunction:
    """`step` with x0 clipped, but with the noise of the prediction as it was: DDIM's clipping."""

    def clipped_step(denoise: Denoise, *rest):
        x_next, x0, history = step(denoise, *rest)
        inside = clip(x0)
        return x_next + (inside - x0), inside, history

    return clipped_step


def large_variance(timestep: Callable[[float], float]) -> StepFunction:
    r"""DDPM with the variance beta of the step in place of the posterior's; none from timestep 0.

    .. math:: \sigma_{up}^2 = \frac{(\sigma^2 - \sigma'^2)(1 + \sigma'^2)}{1 + \sigma^2}

    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, section 3.2 (sigma_t^2 = beta_t).
    """

    def step(denoise: Denoise, x: Array, sigma: float, sigma_next: float, history, noise: Noise):
        x0 = denoise(x, sigma)
        x_next = straight(x, x0, sigma, sigma_next**2 / sigma)
        shrink = math.hypot(1.0, sigma_next) / math.hypot(1.0, sigma)
        up = math.sqrt(sigma**2 - sigma_next**2) * shrink
        return (x_next + up * noise() if timestep(sigma) > 0 else x_next), x0, ()

    return step


def lms_in_place(levels: Sequence[float], order: int = 4) -> StepFunction:
    """LMS with the order that belongs to the place in the whole grid, however few slopes there are.

    Where img2img begins, weights of order 4 meet a single slope; those of the slopes that are not
    there are lost, and the first step goes too far.

    Args:
        levels: of the whole grid.
    """
    index = {sigma: i for i, sigma in reversed(list(enumerate(levels[:-1])))}

    def step(denoise: Denoise, x: Array, sigma: float, sigma_next: float, history, noise: Noise):
        x0 = denoise(x, sigma)
        eps, i = (x - x0) * (1.0 / sigma), index[sigma]
        past = (eps, *history)[:order]
        before = levels[max(0, i - order + 1) : i][::-1]
        weights = adams_bashforth_rule(before, sigma, sigma_next)
        there, lost = weights[: len(past) - 1], weights[len(past) - 1 :]
        bend = combine(there, [old - eps for old in past[1 : len(there) + 1]])
        return straight(x, x0, sigma, sigma_next - sum(lost)) + bend, x0, past

    return step


class PlmsPlan(NamedTuple):
    """Where PLMS goes: `levels` at which states are read, (m + 1,), decreasing; `targets`, level ->
    where the step from there leads; `second`, level -> (where the second call of a start looks,
    where its step begins, where it leads): none where a start is a single call."""

    levels: Sequence[float]
    targets: Mapping[float, float]
    second: Mapping[float, tuple[float, float, float]]


_PLMS = ((1.0,), (1.5, -0.5), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def plms(
    plan: PlmsPlan,
    prediction_type: str = "eps",
    constrain: Callable[[Array, float], Array] | None = None,
) -> StepFunction:
    """PNDM's linear multistep method as diffusers calls it.

    What is averaged is what the network predicts: for `v` another mean than that of the slopes. The
    first step, and each one without history, is of two calls: a straight line, a second look from
    its end, and again the straight line with the mean of both.

    Args:
        plan: where the steps lead; only its own levels are walked.
        prediction_type: `eps`, `v`, or `x0`, for which slopes are averaged.
        constrain: applied to the state of the second look, as to every other.

    Source: Liu et al. 2022, arXiv:2202.09778, algorithm 2 (PLMS); diffusers 0.42.1, `step_plms`.
    """

    def output(x: Array, x0: Array, sigma: float) -> Array:
        eps = (x - x0) * (1.0 / sigma)
        return (
            (eps - sigma * x0) * (1.0 / math.hypot(1.0, sigma)) if prediction_type == "v" else eps
        )

    def move(x: Array, out: Array, sigma: float, target: float) -> Array:
        scale = math.hypot(1.0, sigma)
        if prediction_type == "v":
            x0 = (x * (1.0 / scale) - sigma * out) * (1.0 / scale)
        else:
            x0 = x - sigma * out
        return straight(x, x0, sigma, target)

    def step(denoise: Denoise, x: Array, sigma: float, sigma_next: float, history, noise: Noise):
        x0, left = denoise(x, sigma), plan.targets[sigma]
        past = (output(x, x0, sigma), *history)[:4]
        x_next = move(x, combine(_PLMS[len(past) - 1], list(past)), sigma, left)
        if not history and sigma in plan.second:
            look, begin, end = plan.second[sigma]
            there = reread(x_next, left, look)
            there = there if constrain is None else constrain(there, look)
            mean = 0.5 * (past[0] + output(there, denoise(there, look), look))
            x_next, left = move(reread(x, sigma, begin), mean, begin, end), end
        return reread(x_next, left, sigma_next), x0, past

    return step
