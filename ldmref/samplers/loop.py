"""The sampling loop: pure steps from one noise level to the next.

Coordinates: x = x0 + sigma * eps, so no sampler knows of alpha-bar; the variance-preserving scaling
is inside the denoiser. A step is a function

    step(denoise, x, at, history, noise) -> (x_next, x0, history)

without hidden state: `at` is the interval, and what a multistep method remembers is `history`,
passed along.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from ldmref.errors import UsageError, short_repr
from ldmref.math.arrays import Array

History: TypeAlias = tuple[Any, ...]  # what a method remembers, in its own form; () at the start
Stepped: TypeAlias = tuple[Array, Array, History]  # (x_next, x0, history)


class Denoiser(Protocol):
    """The expected clean data x0 given x = x0 + sigma * eps."""

    def __call__(self, x: Array, sigma: float, /) -> Array: ...


class Guided(NamedTuple):
    """A guided prediction of x0, and what the guidance remembers for the next step.

    `uncond` is the prediction without the prompt, or None where it was not asked for.
    """

    x0: Array
    uncond: Array | None
    memory: History


@runtime_checkable
class GuidedDenoiser(Protocol):
    """A denoiser that makes x0 of several predictions; `denoise(x, sigma)` is `guided(...).x0`."""

    @property
    def remembers(self) -> bool:
        """Whether a prediction depends on those of earlier steps."""
        ...

    def __call__(self, x: Array, sigma: float, /) -> Array: ...

    def guided(
        self, x: Array, sigma: float, memory: History = (), unconditional: bool = False
    ) -> Guided:
        """Predict x0, also without the prompt if `unconditional`."""
        ...


class Noise(Protocol):
    """Standard normal noise of x's shape, fresh at every call."""

    def __call__(self) -> Array: ...


class Constraint(Protocol):
    """Projects x at noise level sigma onto what is known (inpainting)."""

    def __call__(self, x: Array, sigma: float, /) -> Array: ...


class Interval(NamedTuple):
    """Step `i` (from 0) of `n`, from `sigma` to `sigma_next`."""

    i: int
    n: int
    sigma: float
    sigma_next: float


class Step(Protocol):
    """One step of a sampler."""

    def __call__(
        self, denoise: Denoiser, x: Array, at: Interval, history: History, noise: Noise, /
    ) -> Stepped: ...


class State(NamedTuple):
    """The state after step `i`: x at noise level `sigma`, and the prediction x0 that led there."""

    i: int
    sigma: float
    x: Array
    x0: Array
    history: History


def sample(
    denoise: Denoiser,
    x: Array,
    sigmas: Sequence[float],
    step: Step,
    *,
    noise: Noise | None = None,
    constrain: Constraint | None = None,
    visits: Sequence[int] | None = None,
    history: History = (),
) -> Iterator[State]:
    r"""Take `x` through the `sigmas`, one `State` per step.

    Args:
        denoise: `denoise(x, sigma) -> x0`.
        x: data at the first noise level visited, any shape.
        sigmas: noise levels, (n + 1,); decreasing to sample (the last may be 0), increasing to
            invert.
        step: made by an entry of `SAMPLERS`.
        noise: for stochastic steps and for jumps.
        constrain: applied to x after every step (inpainting).
        visits: indices into `sigmas` in the order in which they are visited; None: 0, 1, ..., n.
            img2img starts at a later index. Where an index is smaller than the one before, x
            jumps back up by the forward process (RePaint),
            x' = x + sqrt(sigma'^2 - sigma^2) eps, and multistep methods start anew.
        history: multistep memory of an earlier run that is continued.

    Returns:
        An iterator of `State`; a step is taken when the next one is asked for.

    Raises:
        UsageError: `sigmas` are not finite numbers of at least 0.

    A guidance that remembers earlier steps (`GuidedDenoiser.remembers`) has its memory passed along
    in `State.history`, and begins anew after a jump.

    Source: the jump, Lugmayr et al. 2022, arXiv:2201.09865, algorithm 1, in these coordinates.
    """
    if isinstance(denoise, GuidedDenoiser) and denoise.remembers:
        step = with_memory(step)
    return _steps(
        denoise, x, noise_levels(sigmas), step, noise or _no_noise, constrain, visits, history
    )


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
        x, x0, history = step(denoise, x, Interval(i, n, sigmas[i], sigmas[j]), history, noise)
        if constrain is not None:
            x = constrain(x, sigmas[j])
        yield State(i, sigmas[j], x, x0, history)


class _WithinStep:
    """A guided denoiser within one step: each evaluation begins with the same memory.

    `memory` is then what the first evaluation leaves, which is the one at the step's sigma.
    """

    remembers = False

    def __init__(self, denoise: GuidedDenoiser, memory: History):
        self._denoise = denoise
        self._before = memory
        self.memory: History | None = None

    def __call__(self, x: Array, sigma: float, /) -> Array:
        return self.guided(x, sigma).x0

    def guided(
        self, x: Array, sigma: float, memory: History = (), unconditional: bool = False
    ) -> Guided:
        result = self._denoise.guided(x, sigma, self._before, unconditional)
        if self.memory is None:
            self.memory = result.memory
        return result


def with_memory(step: Step) -> Step:
    """Make `step` pass along what the guidance remembers, next to its own history.

    All evaluations of a step begin with the memory of the step before: a method with several
    stages sees one function of x and sigma.
    """

    def step_with_memory(
        denoise: Denoiser, x: Array, at: Interval, history: History, noise: Noise
    ) -> Stepped:
        assert isinstance(denoise, GuidedDenoiser)
        own, memory = history or ((), ())
        within = _WithinStep(denoise, memory)
        x_next, x0, own = step(within, x, at, own, noise)
        return x_next, x0, (own, memory if within.memory is None else within.memory)

    return step_with_memory


def noise_levels(sigmas: Sequence[float]) -> list[float]:
    """Numbers, or a one-dimensional array of them, as Python floats.

    Raises:
        UsageError: they are not finite numbers of at least 0.
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
    """A number, or an array of one, as a float; text and truth values are neither."""
    if isinstance(value, str | bytes | bool):
        raise TypeError("not a number")
    return float(value)


def _no_noise() -> Array:
    raise ValueError("this run draws noise: give sample(..., noise=...)")
