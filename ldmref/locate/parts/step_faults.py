"""Known faults of a sampler's steps: other settings with which they might have been taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from ldmref.locate.parts.scheduler_faults import config_faults
from ldmref.samplers import SAMPLERS, Interval, Sampler, SchedulerConfig

IntervalChange = Callable[[Interval], Interval]


def _later(at: Interval) -> Interval:
    return at._replace(sigma_next=at.ahead[0]) if at.ahead else at


INTERVALS: dict[str, IntervalChange] = {  # a level of the step is another one
    "the step leads to the level after the next": _later,
    "the step stays at its level": lambda at: at._replace(sigma_next=at.sigma),
    "the step leads to level 0": lambda at: at._replace(sigma_next=0.0),
    "the step begins at the next level": lambda at: at._replace(sigma=at.sigma_next or at.sigma),
    "the step goes to noise instead of data": lambda at: at._replace(
        sigma_next=2.0 * at.sigma - at.sigma_next
    ),
    "the number of steps is larger by 1": lambda at: at._replace(n=at.n + 1),
}


@dataclass(frozen=True)
class StepSettings:
    """The settings of all steps; a known fault changes one of them.

    `rounding` is the number format to which each x0 is rounded; `change` returns another interval;
    `backwards` goes along the slope in the other direction.
    """

    config: SchedulerConfig
    sampler: Sampler
    compatible: bool
    sign: float = 1.0
    forgets: bool = False
    eta: float | None = None
    prediction_type: str = ""
    rounding: str = "float64"
    change: IntervalChange | None = None
    backwards: bool = False

    def changed(self, interval: Interval) -> Interval:
        """Return the interval of a step as these settings take it."""
        return interval if self.change is None else self.change(interval)


def step_faults(right: StepSettings) -> Iterator[tuple[str, StepSettings]]:
    """Yield the known faults of steps: words and settings."""
    kind = right.prediction_type or right.config.prediction_type
    yield f"the sign of the prediction ({kind}) is reversed", replace(right, sign=-1.0)
    for other in ("eps", "v", "x0"):
        if other != kind:
            text = f"the prediction is read as {other} instead of {kind}"
            yield text, replace(right, prediction_type=other)
            yield (
                f"{text}, with the sign reversed",
                replace(right, prediction_type=other, sign=-1.0),
            )
    for text, config in config_faults(right.config):
        yield text, replace(right, config=config)
    previous = "the previous timestep is the next of the schedule instead of t - T // n"
    if not right.compatible:
        previous = "the previous timestep is t - T // n instead of the next of the schedule"
    yield previous, replace(right, compatible=not right.compatible)
    for limit in (1.0, 0.0):
        if limit != right.config.clip_sample_range:
            words = f"x0 is clipped to +-{limit:g}" if limit else "x0 is not clipped"
            yield words, replace(right, config=replace(right.config, clip_sample_range=limit))
    if right.eta is not None:
        for eta in (0.0, 0.5, 1.0):
            if eta != right.eta:
                yield f"eta {eta:g} instead of {right.eta:g}", replace(right, eta=eta)
    yield "the history of the multistep method is lost", replace(right, forgets=True)
    yield "the sign of the slope is reversed", replace(right, backwards=True)
    for text, change in INTERVALS.items():
        yield text, replace(right, change=change)
    for lower in (True, False):
        if lower != right.config.lower_order_final:
            text = f"lower_order_final {lower}"
            config = replace(right.config, lower_order_final=lower)
            yield text, replace(right, config=config)
    for name, sampler in SAMPLERS.items():
        if sampler.own_guidance:  # a recorded run has no conditional predictions at its levels
            continue
        if sampler is not right.sampler and not sampler.stochastic and not sampler.adaptive:
            text = f"a step of {name} instead of {right.sampler.name}"
            yield text, replace(right, sampler=sampler, eta=None)


def fitted_noise(
    got: np.ndarray, right: np.ndarray, without: np.ndarray | None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield a state whose noise has another size, which is fitted."""
    if without is None or got.shape != right.shape:
        return
    added = right - without
    square = float(np.vdot(added, added))
    if square and np.isfinite(got).all():
        factor = float(np.vdot(added, got - without)) / square
        yield f"the noise of the step times {factor:.5g}", without + factor * added
