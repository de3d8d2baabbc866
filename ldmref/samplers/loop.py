"""The sampling loop: pure steps from one noise level to the next.

Coordinates: x = x0 + sigma * eps, so no sampler depends on alpha-bar; the denoiser does the
variance-preserving scaling. A step is a function

    step(denoise, x, interval, history, noise) -> (x_next, x0, history)

without hidden state: a multistep method returns what it needs later as `history`, and the loop
passes it to the next step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from ldmref.errors import UsageError, short_repr
from ldmref.math.arrays import Array

History: TypeAlias = tuple[Any, ...]  # the memory of a multistep method; () at the start
Stepped: TypeAlias = tuple[Array, Array, History]  # (x_next, x0, history)


class Denoiser(Protocol):
    """The expected clean data x0 given x = x0 + sigma * eps, as an array of x's shape."""

    def __call__(self, x: Array, sigma: float, /) -> Array: ...


class Noise(Protocol):
    """Standard normal noise of x's shape, fresh at every call."""

    def __call__(self) -> Array: ...


class Interval(NamedTuple):
    """The interval of a step: from `sigmas[i]` to `sigmas[i_next]`, of n steps in all.

    `i` counts from 0 and `i_next` is `i + 1` except where a run skips noise levels; `sigma` and
    `sigma_next` are the two noise levels.
    """

    i: int
    i_next: int
    n: int
    sigma: float
    sigma_next: float

    def index_of(self, sigma: float) -> int | None:
        """Return `i` or `i_next` if the step evaluates at an end, None at a level in between.

        >>> interval = Interval(3, 4, 10, 2.0, 1.0)
        >>> interval.index_of(2.0), interval.index_of(1.0), interval.index_of(1.5)
        (3, 4, None)
        """
        if sigma == self.sigma:
            return self.i
        return self.i_next if sigma == self.sigma_next else None

    def reversed(self) -> Interval:
        """Return the interval with its indices counted from the other end of the sigmas."""
        return self._replace(i=self.n - self.i, i_next=self.n - self.i_next)


class Constraint(Protocol):
    """Put known values into x, which a step has taken to `interval.sigma_next` (inpainting)."""

    def __call__(self, x: Array, interval: Interval, /) -> Array: ...


class Guided(NamedTuple):
    """A guided prediction of x0, and what the guidance remembers for the next step.

    `uncond` is the prediction without the prompt, or None if it was not asked for.
    """

    x0: Array
    uncond: Array | None
    memory: History


@dataclass(frozen=True, eq=False)
class GuidedDenoiser:
    """A denoiser that combines several predictions; `denoise(x, sigma)` is `guided(...).x0`.

    `sample` recognises it: it passes the interval of the step, and the memory of the guidance from
    step to step.

    Args:
        predict: `predict(x, sigma, memory, unconditional, interval)`; see `guided`.
        remembers: Whether a prediction depends on those of earlier steps.
    """

    predict: Callable[[Array, float, History, bool, Interval | None], Guided]
    remembers: bool = False

    def __call__(self, x: Array, sigma: float, /) -> Array:
        return self.guided(x, sigma).x0

    def guided(
        self,
        x: Array,
        sigma: float,
        memory: History = (),
        unconditional: bool = False,
        interval: Interval | None = None,
    ) -> Guided:
        """Predict x0, also without the prompt if `unconditional`.

        `interval` is the interval of the step, None outside of `sample`.
        """
        return self.predict(x, sigma, memory, unconditional, interval)


class Step(Protocol):
    """One step of a sampler, from x at `interval.sigma` to x_next at `interval.sigma_next`."""

    def __call__(
        self, denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise, /
    ) -> Stepped: ...


class State(NamedTuple):
    """The state after step `i`: x at noise level `sigma`, and the prediction x0 of the step."""

    i: int
    sigma: float
    x: Array
    x0: Array
    history: History

    def __repr__(self) -> str:
        return f"<State after step {self.i}: sigma {self.sigma:.6g}, x {tuple(self.x.shape)}>"


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
) -> Iterator[State]:
    r"""Take `x` through the noise levels `sigmas`, and yield a `State` after every step.

    Args:
        denoise: The model, `denoise(x, sigma) -> x0`. A `GuidedDenoiser` also gets the interval of
            each step; if it remembers earlier steps, its memory is part of `State.history` and
            starts anew after a jump.
        x: Data at the first noise level visited, an array of any shape.
        sigmas: Noise levels, (n + 1,): decreasing to sample (the last may be 0), increasing to
            invert.
        step: Sampling method, made by an entry of `SAMPLERS`.
        noise: Source of fresh noise, needed for stochastic steps and for jumps.
        constrain: Function applied to x after every step, `constrain(x, interval)` (inpainting).
        visits: Indices into `sigmas` in the order in which they are visited; None: 0, 1, ..., n.
            img2img starts at a later index. An index smaller than the one before makes x jump back
            up by the forward process (RePaint), x' = x + sqrt(sigma'^2 - sigma^2) eps, and
            multistep methods start anew.
        history: Multistep memory (`State.history`) of an earlier run that is continued.

    Returns:
        An iterator of `State`. Each step is computed when its state is requested; x and x0 have the
        shape, dtype and library of the initial x.

    Raises:
        UsageError: `sigmas` is not a list of finite numbers of at least 0.
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
    levels = noise_levels(sigmas)
    if isinstance(denoise, GuidedDenoiser):
        step = guided_step(step)
    return _steps(denoise, x, levels, step, noise or _no_noise, constrain, visits, history)


def _steps(
    denoise: Denoiser,
    x: Array,
    sigmas: list[float],
    step: Step,
    noise: Noise,
    constrain: Constraint | None,
    visits: Sequence[int] | None,
    history: History,
) -> Iterator[State]:
    n = len(sigmas) - 1
    for i, j in pairwise(range(n + 1) if visits is None else visits):
        if j < i:
            x = x + math.sqrt(sigmas[j] ** 2 - sigmas[i] ** 2) * noise()
            history = ()
            continue
        interval = Interval(i, j, n, sigmas[i], sigmas[j])
        x, x0, history = step(denoise, x, interval, history, noise)
        if constrain is not None:
            x = constrain(x, interval)
        yield State(i, sigmas[j], x, x0, history)


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
            x: Array, sigma: float, memory: History, unconditional: bool, _: Interval | None
        ) -> Guided:
            result = guided(x, sigma, before, unconditional, interval)
            memories.append(result.memory)
            return result

        x_next, x0, own = step(GuidedDenoiser(predict), x, interval, own, noise)
        if not denoise.remembers:
            return x_next, x0, own
        return x_next, x0, (own, memories[0] if memories else before)

    return step_within


def noise_levels(sigmas: Sequence[float] | np.ndarray) -> list[float]:
    """Return numbers, or a one-dimensional array of them, as a list of Python floats.

    Raises:
        UsageError: `sigmas` is not a list of finite numbers of at least 0.
    """
    try:
        if isinstance(sigmas, str | bytes):
            raise TypeError("text")
        levels = [_number(sigma) for sigma in sigmas]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise UsageError(
            f"sigmas must be a list of numbers, not {short_repr(sigmas)}", code="E-SIGMAS"
        ) from None
    for sigma in levels:
        if not 0.0 <= sigma < math.inf:
            raise UsageError(
                f"sigmas must be finite numbers of at least 0, not {short_repr(sigma)}",
                code="E-SIGMAS",
            )
    return levels


def _number(value: Any) -> float:
    """Return a number, or an array of one number, as a float; refuse text and truth values."""
    if isinstance(value, str | bytes | bool):
        raise TypeError("not a number")
    return float(value)


def _no_noise() -> Array:
    raise ValueError("this run needs noise: give sample(..., noise=...)")
