"""The interfaces of the sampling loop: denoisers, steps, noise and constraints.

Coordinates: x = x0 + sigma * eps, or alpha * x0 + sigma * eps on another path (`path.py`), so no
sampler depends on alpha-bar; the denoiser does the variance-preserving scaling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from ldmref.math.arrays import Array
from ldmref.samplers.path import VE, NoisePath

History: TypeAlias = tuple[Any, ...]
"""The memory of a multistep method or of a guidance; () at the start."""

Stepped: TypeAlias = tuple[Array, Array, History]
"""The result of a step: (x_next, x0, history)."""


class Denoiser(Protocol):
    """The interface of a model: the expected clean data x0 given x = x0 + sigma * eps.

    Any function of x and sigma is one; `ldmref.denoiser` makes one from a model.

    >>> def denoise(x, sigma):  # the exact denoiser of standard normal data
    ...     return x / (1.0 + sigma**2)
    """

    def __call__(self, x: Array, sigma: float, /) -> Array:
        """Return the prediction of x0 at `x`, (n, ...), and noise level `sigma`, shape of `x`."""
        ...


class Noise(Protocol):
    """The interface of a source of noise: standard normal noise of x's shape, fresh at every call.

    `Streams` is one that depends on seeds only.

    >>> import numpy as np
    >>> generator = np.random.default_rng(0)
    >>> def noise():  # for x of shape (1, 4, 8, 8)
    ...     return generator.standard_normal((1, 4, 8, 8), np.float32)
    """

    def __call__(self) -> Array:
        """Return the next standard normal noise, an array (n, ...) in the shape of x."""
        ...


class Interval(NamedTuple):
    """The interval of a step: from `sigmas[i]` to `sigmas[i_next]`, of n steps in all.

    Args:
        i: Index of the noise level at which the step starts, from 0.
        i_next: Index of the noise level at which it ends, `i + 1` except where a run skips levels.
        n: Number of steps of the whole schedule.
        sigma: The noise level at the start.
        sigma_next: The noise level at the end.
        ahead: The noise levels after `sigma_next` that the run still visits, in order, up to a
            jump back up; () in the last step.
        between: Whether an evaluation is at a level of the step's own, between the schedule's; see
            `between`.
        path: The path on which the levels are.
        target: The level to which the step goes along the slope of an evaluation, if it is not
            `sigma_next`; see `toward`. None: it is.

    >>> from ldmref.samplers import Interval
    >>> Interval(i=3, i_next=4, n=10, sigma=2.0, sigma_next=1.0).sigma_next
    1.0
    """

    i: int
    i_next: int
    n: int
    sigma: float
    sigma_next: float
    ahead: tuple[float, ...] = ()
    between: bool = False
    path: NoisePath = VE
    target: float | None = None

    @property
    def end(self) -> float:
        """The level to which the step goes along the slope, which a flow map reads."""
        return self.sigma_next if self.target is None else self.target

    def index_of(self, sigma: float) -> int | None:
        """Return `i` or `i_next` if the step evaluates at an end, None at a level in between.

        Args:
            sigma: Noise level at which the step evaluates the denoiser.

        >>> from ldmref.samplers import Interval
        >>> interval = Interval(3, 4, 10, 2.0, 1.0)
        >>> interval.index_of(2.0), interval.index_of(1.0), interval.index_of(1.5)
        (3, 4, None)
        >>> interval._replace(between=True).index_of(1.0)  # 1 by rounding only
        """
        if self.between:
            return None
        if sigma == self.sigma:
            return self.i
        return self.i_next if sigma == self.sigma_next else None

    def reversed(self) -> Interval:
        """Return the interval with its indices counted from the other end of the sigmas."""
        return self._replace(i=self.n - self.i, i_next=self.n - self.i_next)


class Constraint(Protocol):
    """The interface of a constraint, which puts known values into x after each step (inpainting).

    >>> import numpy as np
    >>> from ldmref.samplers import ancestral, sample
    >>> def constrain(x, interval):  # the first value is known to be 0.5
    ...     return np.asarray([0.5, x[1]])
    >>> def denoise(x, sigma):
    ...     return x / (1.0 + sigma**2)
    >>> *_, last = sample(denoise, np.ones(2), [1.0, 0.5, 0.0], ancestral(), constrain=constrain)
    >>> last.x.round(2)
    array([0.5, 0.6])
    """

    def __call__(self, x: Array, interval: Interval, /) -> Array:
        """Return `x`, (n, ...), with the known values at `interval.sigma_next`, shape of `x`."""
        ...


class Guided(NamedTuple):
    """A guided prediction, as `GuidedDenoiser.guided` returns it.

    Args:
        x0: The guided prediction of x0, (n, ...).
        uncond: The prediction without the prompt, shape of `x0`; None if it was not asked for.
        memory: The memory of the guidance for the next step; () for most.
        scale: The guidance scale of the request, also where a step asked for another one.

    >>> from ldmref.samplers import Guided
    >>> Guided(0.5, None, ()).x0
    0.5
    """

    x0: Array
    uncond: Array | None
    memory: History
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class GuidedDenoiser:
    """A denoiser that combines several predictions; `denoise(x, sigma)` is `guided(...).x0`.

    `sample` recognises it: it passes the interval of the step, and the memory of the guidance from
    step to step. `ldmref.denoiser` and `guided_denoiser` return one.

    Args:
        predict: `predict(x, sigma, memory, unconditional, interval, scale)`; see `guided`.
        remembers: Whether a prediction depends on those of earlier steps.

    >>> from ldmref.samplers import Guided, GuidedDenoiser
    >>> def predict(x, sigma, memory, unconditional, interval, scale):
    ...     return Guided(x / (1.0 + sigma**2), None, ())
    >>> GuidedDenoiser(predict)(2.0, 1.0)
    1.0
    """

    predict: Callable[[Array, float, History, bool, Interval | None, float | None], Guided]
    remembers: bool = False

    def __call__(self, x: Array, sigma: float, /) -> Array:
        """Return the guided x0 at `x`, (n, ...), and noise level `sigma`, shape of `x`."""
        return self.guided(x, sigma).x0

    def guided(
        self,
        x: Array,
        sigma: float,
        memory: History = (),
        unconditional: bool = False,
        interval: Interval | None = None,
        scale: float | None = None,
    ) -> Guided:
        """Return the prediction of x0, also without the prompt if asked for.

        Args:
            x: State, (n, ...).
            sigma: Its noise level.
            memory: Memory of the guidance that the step before returned; () in the first step.
            unconditional: Whether the prediction without the prompt is needed.
            interval: Interval of the step. None: outside of `sample`.
            scale: Guidance scale of this prediction, for a step that guides itself: 1 gives the
                prediction with the prompt. None: that of the request.
        """
        return self.predict(x, sigma, memory, unconditional, interval, scale)


def between(denoise: Denoiser, interval: Interval) -> Denoiser:
    """Return `denoise` for a step's own noise levels, between those of the schedule.

    The timestep of such a level is interpolated. A comparison with the ends of the step would not
    do: at eta = 1 the middle level of DPM2 ancestral is sigma' up to a rounding error.

    Args:
        denoise: The denoiser that the step got.
        interval: The interval of the step.

    >>> from ldmref.samplers import Guided, GuidedDenoiser, Interval
    >>> def predict(x, sigma, memory, unconditional, interval, scale):
    ...     return Guided(interval.index_of(sigma), None, ())
    >>> between(GuidedDenoiser(predict), Interval(3, 4, 10, 2.0, 1.0))(0.0, 1.0)
    """
    return within(denoise, interval._replace(between=True))


def toward(denoise: Denoiser, interval: Interval, target: float) -> Denoiser:
    """Return `denoise` for a step that goes along its slope to a level other than the next one.

    A flow map reads this level. Samplers that add noise jump below the next one.

    Args:
        denoise: The denoiser that the step got.
        interval: The interval of the step.
        target: The level to which the step goes before it adds noise.

    >>> from ldmref.samplers import Guided, GuidedDenoiser, Interval
    >>> def predict(x, sigma, memory, unconditional, interval, scale):
    ...     return Guided(interval.end, None, ())
    >>> toward(GuidedDenoiser(predict), Interval(3, 4, 10, 2.0, 1.0), 0.5)(0.0, 2.0)
    0.5
    """
    if target == interval.sigma_next:
        return denoise
    return within(denoise, interval._replace(target=target))


def within(denoise: Denoiser, interval: Interval) -> Denoiser:
    """Return `denoise` with an interval, if it gets one."""
    if not isinstance(denoise, GuidedDenoiser):
        return denoise
    guided = denoise.guided

    def predict(
        x: Array,
        sigma: float,
        memory: History,
        unconditional: bool,
        _: Interval | None,
        scale: float | None,
    ) -> Guided:
        return guided(x, sigma, memory, unconditional, interval, scale)

    return GuidedDenoiser(predict, denoise.remembers)


class Step(Protocol):
    """The interface of a sampling method: one step from `interval.sigma` to `interval.sigma_next`.

    >>> from ldmref.samplers import euler_step
    >>> def step(denoise, x, interval, history, noise):  # Euler's method
    ...     x0 = denoise(x, interval.sigma)
    ...     return euler_step(x, x0, interval.sigma, interval.sigma_next), x0, ()
    """

    def __call__(
        self, denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise, /
    ) -> Stepped:
        """Return (x_next, x0, history).

        Args:
            denoise: The model, `denoise(x, sigma) -> x0`.
            x: State at `interval.sigma`, (n, ...).
            interval: The interval of the step.
            history: The value that the step returned last; () at the start and after jumps.
            noise: `noise()` returns fresh standard normal noise of the shape of `x`.
        """
        ...


class State(NamedTuple):
    """The state after a step, as `sample` yields it.

    Args:
        i: Index of the step, from 0.
        sigma: Noise level of x, the end of the step.
        x: The state alpha x0 + sigma eps, in the shape of the initial x; alpha is 1 except on
            `FLOW`.
        x0: The prediction of the clean data at the start of the step, shape of `x`.
        history: Multistep memory, for `sample(..., history=...)`.

    >>> import numpy as np
    >>> from ldmref.samplers import ancestral, sample
    >>> next(sample(lambda x, sigma: 0 * x, np.ones((1, 2)), [2.0, 1.0], ancestral()))
    <State after step 0: sigma 1, x (1, 2)>
    """

    i: int
    sigma: float
    x: Array
    x0: Array
    history: History

    def __repr__(self) -> str:
        return f"<State after step {self.i}: sigma {self.sigma:.6g}, x {tuple(self.x.shape)}>"
