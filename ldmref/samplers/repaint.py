"""RePaint: on the way down, jump back up by the forward process and come down again.

What a constraint puts into a state and what the sampler made around it do not know of each other;
walking the same levels several times lets them agree.

Source: Lugmayr et al. 2022, arXiv:2201.09865, algorithm 1 and appendix B (jumps).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from ldmref.math.arrays import Array
from ldmref.samplers.loop import Denoise, Noise, Step, StepFunction


def resampling(steps: int, jump_length: int, times: int) -> list[int]:
    """The places on a grid of `steps` + 1 levels that RePaint visits, from 0 to `steps`.

    Every `jump_length` steps, counted from the last level that has noise, it jumps that many levels
    back up, `times` - 1 times. A place that is larger than the one before is a step of the sampler,
    one that is smaller a jump.

    Args:
        steps: of the sampler.
        jump_length: j, from 1; where it is `steps` or more there are no jumps.
        times: r, how often each stretch is walked, from 1 (no jumps).

    >>> resampling(4, 2, 2)
    [0, 1, 2, 3, 1, 2, 3, 4]
    >>> resampling(3, 1, 2)
    [0, 1, 0, 1, 2, 1, 2, 3]
    """
    left = {steps - 1 - j: times - 1 for j in range(0, steps - jump_length, jump_length)}
    places = [0]
    while places[-1] < steps:
        here = places[-1]
        if left.get(here):
            left[here] -= 1
            places.append(here - jump_length)
        else:
            places.append(here + 1)
    return places


def resample(
    denoise: Denoise,
    x: Array,
    sigmas: Sequence[float],
    step: StepFunction,
    places: Sequence[int],
    *,
    noise: Noise,
    constrain: Callable[[Array, float], Array] | None = None,
) -> Iterator[Step]:
    r"""Walk `x` along `places` of the levels; `samplers.sample` where they are 0, 1, 2, ...

    A jump from sigma up to sigma' is the forward process between them,

    .. math:: x' = x + \sqrt{\sigma'^2 - \sigma^2}\,\epsilon,

    and a multistep method starts anew behind it.

    Args:
        denoise, x, sigmas, step, constrain: as for `sample`.
        places: from `resampling`.
        noise: `noise() -> standard normal array` of x's shape.

    Yields:
        a `Step` per step of the sampler, none per jump.
    """
    levels, history, count = [float(s) for s in sigmas], (), 0
    for here, there in pairwise(places):
        if there < here:
            x = x + math.sqrt(levels[there] ** 2 - levels[here] ** 2) * noise()
            history = ()
            continue
        x, x0, history = step(denoise, x, levels[here], levels[there], history, noise)
        if constrain is not None:
            x = constrain(x, levels[there])
        yield Step(count, levels[there], x, x0, history)
        count += 1
