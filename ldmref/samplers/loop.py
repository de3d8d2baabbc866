"""The sampling loop: pure steps from one noise level to the next.

Coordinates: x = x0 + sigma * eps, so no sampler depends on alpha-bar; the denoiser does the
variance-preserving scaling. On the path of flow matching, x = (1 - sigma) x0 + sigma * eps. A step
is a function

    step(denoise, x, interval, history, noise) -> (x_next, x0, history)

without hidden state: a multistep method returns what it needs later as `history`, and the loop
passes it to the next step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import (
    Constraint,
    Denoiser,
    Guided,
    GuidedDenoiser,
    History,
    Interval,
    Noise,
    State,
    Step,
    Stepped,
)
from ldmref.samplers.parts import take_step
from ldmref.samplers.path import VE, NoisePath, noise_levels


def sample(
    denoise: Denoiser,
    x: Array,
    sigmas: Sequence[float] | np.ndarray,
    step: Step,
    *,
    noise: Noise | None = None,
    constrain: Constraint | None = None,
    visits: Sequence[int] | None = None,
    history: History = (),
    path: NoisePath = VE,
) -> Iterator[State]:
    """Take `x` through the noise levels `sigmas`, and yield a `State` after every step.

    Args:
        denoise: The model, `denoise(x, sigma) -> x0`. A `GuidedDenoiser` also gets the interval of
            each step; if it remembers earlier steps, its memory is part of `State.history` and
            starts anew after a jump.
        x: Data at the first noise level visited, an array of any shape.
        sigmas: Noise levels, (n + 1,): decreasing to sample (the last may be 0), increasing to
            invert.
        step: Sampling method, made by an entry of `SAMPLERS`.
        noise: Source of fresh noise, needed for stochastic steps and for jumps. None: a step
            that asks for noise fails.
        constrain: Function applied to x after every step, `constrain(x, interval)`
            (inpainting). None: x is not changed.
        visits: Indices into `sigmas` in the order in which they are visited; None: 0, 1, ..., n.
            img2img starts at a later index. An index smaller than the one before makes x jump back
            up by the forward process (RePaint), x' = x + sqrt(sigma'^2 - sigma^2) eps on `VE`, and
            multistep methods start anew.
        history: Multistep memory (`State.history`) of an earlier run that is continued.
        path: The path on which `sigmas` are levels; `FLOW` from 1 (noise) to 0 (data). Steps of
            samplers that are not `straight` are made for it by `on_ratio`.

    Returns:
        An iterator of `State`. Each step is computed when its state is requested; x and x0 have the
        shape, dtype and library of the initial x.

    Raises:
        UsageError: `sigmas` is not a list of finite numbers of at least 0, or has levels above 1
            on `FLOW`.
        ValueError: The step needs noise and `noise` is None (raised when the state is requested).

    Source: the jump, Lugmayr et al. 2022, arXiv:2201.09865, algorithm 1, in these coordinates.

    >>> import numpy as np
    >>> from ldmref.samplers import heun
    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    >>> *_, last = sample(denoise, np.array([3.0]), [2.0, 1.0, 0.5, 0.0], heun())
    >>> last.i, last.sigma, last.x.round(2)
    (2, 0.0, array([1.25]))
    """
    levels = noise_levels(sigmas, path)
    if isinstance(denoise, GuidedDenoiser):
        step = guided_step(step)
    fresh = noise or _no_noise

    def take_steps(x: Array, history: History) -> Iterator[State]:
        for interval in run_intervals(levels, visits, path):
            if interval.i_next < interval.i:
                keep, up = path.forward(interval.sigma, interval.sigma_next)
                x = keep * x + up * fresh()
                history = ()
                continue
            x, x0, history = take_step(step, denoise, x, interval, history, fresh)
            if constrain is not None:
                x = constrain(x, interval)
            yield State(interval.i, interval.sigma_next, x, x0, history)

    return take_steps(x, history)


def run_intervals(
    sigmas: Sequence[float], visits: Sequence[int] | None = None, path: NoisePath = VE
) -> Iterator[Interval]:
    """Yield the interval of every step of a run, and of every jump (`i_next` below `i`).

    Args:
        sigmas: Noise levels, (n + 1,).
        visits: Indices into `sigmas` in the order in which they are visited; None: 0, 1, ..., n.
        path: The path of the levels.

    >>> [interval.ahead for interval in run_intervals([3.0, 2.0, 1.0, 0.0])]
    [(1.0, 0.0), (0.0,), ()]
    """
    n = len(sigmas) - 1
    order = [*(range(n + 1) if visits is None else visits)]
    stop = 0  # index into `order` after the last level before a jump
    for k, (i, j) in enumerate(pairwise(order)):
        if stop < k + 2:
            stop = k + 2
            while stop < len(order) and order[stop] > order[stop - 1]:
                stop += 1
        ahead = tuple(sigmas[level] for level in order[k + 2 : stop])
        yield Interval(i, j, n, sigmas[i], sigmas[j], ahead, path=path)


def _no_noise() -> Array:
    raise ValueError("this run needs noise: give sample(..., noise=...)")


def guided_step(step: Step) -> Step:
    """Return `step` for a `GuidedDenoiser`, which gets the interval and remembers earlier steps.

    Every evaluation of a step starts with the same memory, so a method with several stages sees one
    function of x and sigma. The next step gets what the first evaluation leaves, which is the one
    at the step's sigma. If the denoiser remembers, the history is (history of the method, memory of
    the guidance).
    """

    def step_within(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        assert isinstance(denoise, GuidedDenoiser)
        guided = denoise.guided
        own, before = (history or ((), ())) if denoise.remembers else (history, ())
        memories: list[History] = []

        def predict(
            x: Array,
            sigma: float,
            memory: History,
            unconditional: bool,
            at: Interval | None,
            scale: float | None,
        ) -> Guided:
            level = interval
            if at is not None:
                level = interval._replace(between=at.between, target=at.target)
            result = guided(x, sigma, before, unconditional, level, scale)
            memories.append(result.memory)
            return result

        x_next, x0, own = step(GuidedDenoiser(predict), x, interval, own, noise)
        if not denoise.remembers:
            return x_next, x0, own
        return x_next, x0, (own, memories[0] if memories else before)

    return step_within
