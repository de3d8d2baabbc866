"""Known faults of a sampler's steps: other settings with which they might have been taken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ldmref.locate.pipeline.schedule import config_faults
from ldmref.samplers import SAMPLERS, Sampler, SchedulerConfig


@dataclass(frozen=True)
class StepSettings:
    """The settings of all steps; a known fault changes one of them.

    `rounding` is the number format to which each x0 is rounded.
    """

    config: SchedulerConfig
    sampler: Sampler
    compatible: bool
    sign: float = 1.0
    forgets: bool = False
    eta: float | None = None
    prediction_type: str = ""
    rounding: str = "float64"


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
    for lower in (True, False):
        if lower != right.config.lower_order_final:
            text = f"lower_order_final {lower}"
            config = replace(right.config, lower_order_final=lower)
            yield text, replace(right, config=config)
    for name, sampler in SAMPLERS.items():
        if sampler.guides:  # a recorded run has no conditional predictions at its levels
            continue
        if sampler is not right.sampler and not sampler.stochastic and not sampler.adaptive:
            text = f"a step of {name} instead of {right.sampler.name}"
            yield text, replace(right, sampler=sampler, eta=None)
