"""The sampling loop: pure steps from one noise level to the next.

Coordinates: x = x0 + sigma * eps, so no sampler knows of alpha-bar; the variance-preserving scaling
is inside the denoiser. A step is a function

    step(denoise, x, sigma, sigma_next, history, noise) -> (x_next, x0, history)

without hidden state: what a multistep method remembers is `history`, passed along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from ldmref.math.arrays import Array

Denoise = Callable[[Array, float], Array]
Noise = Callable[[], Array]
StepFunction = Callable[..., tuple[Array, Array, tuple]]


class Step(NamedTuple):
    """The state after step `i`."""

    i: int
    sigma: float
    x: Array
    x0: Array
    history: tuple


def sample(
    denoise: Denoise,
    x: Array,
    sigmas: Sequence[float],
    step: StepFunction,
    *,
    noise: Noise | None = None,
    constrain: Callable[[Array, float], Array] | None = None,
    history: tuple = (),
) -> Iterator[Step]:
    """Walk `x` down the decreasing `sigmas`, one `Step` per interval.

    Args:
        denoise: `denoise(x, sigma) -> x0`, the expected clean data given x.
        x: data at level sigmas[0], any shape.
        sigmas: decreasing noise levels, Python floats; the last may be 0.
        step: made by an entry of `SAMPLERS`.
        noise: `noise() -> standard normal array` of x's shape, for stochastic steps.
        constrain: `constrain(x, sigma) -> x` after every step (inpainting).
        history: multistep memory of an earlier walk that is taken up again.
    """
    levels = [float(s) for s in sigmas]
    for i, (sigma, sigma_next) in enumerate(pairwise(levels)):
        x, x0, history = step(denoise, x, sigma, sigma_next, history, noise)
        if constrain is not None:
            x = constrain(x, sigma_next)
        yield Step(i, sigma_next, x, x0, history)
