"""The trajectory of a batch from its initial state to its last one, and what observes a run.

Traces, run records, branches, golden traces, previews, the progress of the truth line, the search
for the origin of NaN and the callbacks of `ldmref.compat` are observers. A run without one computes
the same: an observer that returns what it is given changes no bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ldmref.math.arrays import Array
from ldmref.models.conditioning import Conditioning
from ldmref.models.model import LatentDiffusion
from ldmref.modes.active_control import ActiveControl
from ldmref.modes.batch_network import BatchNetwork
from ldmref.modes.job import Job
from ldmref.modes.text import TextConditioning
from ldmref.samplers import (
    Guidance,
    GuidedDenoiser,
    Schedule,
    State,
    Step,
    sample,
)
from ldmref.samplers.denoiser import Evaluation
from ldmref.samplers.interfaces import (
    Constraint,
    Denoiser,
    Guided,
    History,
    Interval,
    Noise,
    Stepped,
)


@dataclass(frozen=True, eq=False)
class TakenStep:
    """A step of the sampler, after it was taken.

    Args:
        interval: Its noise levels.
        x: The state before, (n, c, h, w), an array of the backend.
        sampled: The state that the sampler returned, (n, c, h, w).
        x_next: The same after the constraint of the mode (inpainting), (n, c, h, w).
        x0: The prediction of the clean latents at the start of the step, (n, c, h, w).

    >>> import ldmref
    >>> class Largest(ldmref.modes.RunObserver):
    ...     def stepped(self, step):  # a `TakenStep`
    ...         self.interval = step.interval.sigma, step.interval.sigma_next
    ...         return step.x_next
    >>> observer = Largest()
    >>> model = ldmref.random_model("tiny")
    >>> plan = ldmref.modes.plan("txt2img", model, prompt="a cat", sigmas=[2.0, 1.0])
    >>> _ = plan.run(model, observer=observer)
    >>> observer.interval
    (2.0, 1.0)
    """

    interval: Interval
    x: Array = field(repr=False)
    sampled: Array = field(repr=False)
    x_next: Array = field(repr=False)
    x0: Array = field(repr=False)


class PreparedRun(Protocol):
    """What an observer sees of a `Run` before its first step."""

    @property
    def model(self) -> LatentDiffusion: ...
    @property
    def job(self) -> Job: ...
    @property
    def text(self) -> TextConditioning: ...
    @property
    def inputs(self) -> Mapping[str, np.ndarray]: ...

    def params(self, n: int) -> dict[str, Any]:
        """Return the parameters of the first `n` images, with the model, backend and version."""
        ...


class RunObserver:
    """An observer of a run. Every method has a default that changes nothing.

    `plan.prepare(model, observer)` calls `watch` before the first network runs, `watch_guide` with
    the second model of autoguidance, and `prepared` after prompts and images are encoded.
    `run.generate(cancel)` calls, for each batch, `started`; for each step `stepping`; `evaluating`,
    `predicted`, `combined` and `evaluated` for each evaluation of the denoiser, `noise_sampled` for
    each fresh noise, and `stepped`; then `finished` and `decoded`. An observer that needs no
    encoders can be given to `generate` instead. `Observers` combines several.

    >>> import ldmref
    >>> class Sigmas(ldmref.modes.RunObserver):
    ...     def __init__(self):
    ...         self.seen = []
    ...     def evaluated(self, evaluation):
    ...         self.seen.append(round(evaluation.sigma, 2))
    >>> model = ldmref.random_model("tiny")
    >>> plan = ldmref.modes.plan("txt2img", model, prompt="a cat", steps=2, sampler="heun")
    >>> observer = Sigmas()
    >>> _ = plan.run(model, observer=observer)
    >>> observer.seen
    [1.62, 0.04, 0.04, 0.03]
    """

    def watch(self, model: LatentDiffusion) -> LatentDiffusion:
        """Return the model that generates: itself, or a copy whose backend sees each layer.

        Args:
            model: The model of the run.
        """
        return model

    def watch_guide(self, guide: LatentDiffusion) -> LatentDiffusion:
        """Return the weaker model of autoguidance: itself, or a copy as that of `watch`.

        Args:
            guide: The weaker model of the run.
        """
        return guide

    def prepared(self, run: PreparedRun) -> None:
        """See the run, whose prompts, images and ControlNets are encoded."""

    def started(self, trajectory: Trajectory) -> Trajectory:
        """Return the sampling of a batch, whose schedule is known; or another one.

        `dataclasses.replace(trajectory, ...)` replaces its initial state, noise or model.
        """
        return trajectory

    def stepping(self, x: Array, interval: Interval) -> None:
        """See a step begin at the state `x`, (n, c, h, w), in an `interval`.

        Noise that was sampled since the last step took x back up (RePaint).
        """

    def evaluating(self, x: Array, sigma: float) -> Trajectory | None:
        """Return None, or a trajectory with other prompts, guidance or scale from here on.

        Args:
            x: The point at which the denoiser will be evaluated, (n, c, h, w).
            sigma: Its noise level.
        """
        return None

    def predicted(self, predictions: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return what the guidance combines, or what replaces it.

        Args:
            predictions: By name, each (n, c, h, w).
        """
        return predictions

    def combined(self, guided: Array) -> Array:
        """Return `guided`, the result of the guidance, (n, c, h, w), or what replaces it."""
        return guided

    def evaluated(self, evaluation: Evaluation) -> None:
        """See an evaluation of the guided denoiser."""

    def noise_sampled(self, noise: Array) -> Array:
        """Return fresh noise of unit variance, (n, c, h, w), or what replaces it."""
        return noise

    def stepped(self, step: TakenStep) -> Array:
        """Return the state after a step, (n, c, h, w), or what replaces it."""
        return step.x_next

    def finished(self, latents: Array) -> None:
        """See the final latents of a batch, (n, c, h, w), before they are decoded."""

    def decoded(self, images: Sequence[Image.Image]) -> None:
        """See the images of a batch."""


SILENT = RunObserver()  # observes nothing


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The sampling of a batch, prepared up to its first step.

    Args:
        model: The model that generates.
        schedule: The noise levels, and the timesteps of the network.
        step: The step of the sampler.
        visits: Indices into the noise levels, in the order in which they are visited.
        x: The initial state, (n, c, h, w), an array of the backend.
        noise: Source of fresh noise; each call advances it. None: an inversion adds none.
        constrain: Function applied to x after every step (inpainting).
        conditionings: By the name of the prediction; see `BatchNetwork`.
        cfg_scale: The guidance scale.
        guidance: How the predictions become one.
        controls: ControlNets, with the levels at which they act.
        channels: Further input channels of the U-Net.
        history: Memory of earlier steps, of a run that is continued.
        guide: The weaker model of autoguidance, with its own part of `conditionings`.
    """

    model: LatentDiffusion
    schedule: Schedule
    step: Step = field(repr=False)
    visits: Sequence[int]
    x: Array = field(repr=False)
    noise: Noise | None = field(repr=False)
    constrain: Constraint | None = field(repr=False)
    conditionings: Mapping[str, Conditioning] = field(repr=False)
    cfg_scale: float
    guidance: Guidance
    controls: Sequence[ActiveControl] = ()
    channels: Array | None = field(default=None, repr=False)
    history: History = field(default=(), repr=False)
    guide: LatentDiffusion | None = None

    @property
    def levels(self) -> list[float]:
        """The noise levels, into which `visits` are indices."""
        return self.schedule.sigmas.tolist()

    def timestep(self, sigma: float, interval: Interval | None = None) -> float:
        """Return the timestep that the network gets at a level within a step."""
        return self.schedule.timestep(sigma, interval)

    @property
    def scale(self) -> float:
        """The divisor of the last state: latents are in variance-preserving scale.

        A schedule that ends above 0 leaves noise.
        """
        return self.schedule.path.spread(self.levels[-1])

    @property
    def settings(self) -> Mapping[str, Any]:
        """What a trace says of its steps beside the sampler and the path; {}: nothing."""
        return {}

    @property
    def steps(self) -> int:
        """The number of steps; a jump back up is not one."""
        return sum(j > i for i, j in pairwise(self.visits))

    def denoiser(self, observer: RunObserver = SILENT) -> GuidedDenoiser:
        """Return the guided model as `denoise(x, sigma) -> x0`.

        Args:
            observer: Sees every evaluation, and may replace prompts and guidance before it.
        """
        if observer is SILENT:
            return self._denoiser()
        denoise = self._denoiser(observer)

        def predict(x: Array, sigma: float, *rest: Any) -> Guided:
            nonlocal denoise
            changed = observer.evaluating(x, sigma)
            if changed is not None:
                denoise = changed._denoiser(observer)
            return denoise.guided(x, sigma, *rest)

        return GuidedDenoiser(predict, denoise.remembers)

    def _denoiser(self, observer: RunObserver = SILENT) -> GuidedDenoiser:
        network = BatchNetwork(
            self.model,
            self.timestep,
            self.conditionings,
            self.cfg_scale,
            self.controls,
            self.channels,
            self.guide,
        )
        watching = None if observer is SILENT else observer
        return network.guided(self.guidance, self.schedule.path, watching)

    def states(self, observer: RunObserver = SILENT) -> Iterator[State]:
        """Iterate over the sampler's states, one after each step.

        Args:
            observer: Sees the steps and may replace states and noise.
        """
        if observer is SILENT:
            parts = self._denoiser(), self.step, self.noise, self.constrain
        else:
            parts = self._observed_parts(observer)
        denoise, step, noise, constrain = parts
        return sample(
            denoise,
            self.x,
            self.levels,
            step,
            noise=noise,
            constrain=constrain,
            visits=self.visits,
            history=self.history,
            path=self.schedule.path,
        )

    def _observed_parts(
        self, observer: RunObserver
    ) -> tuple[GuidedDenoiser, Step, Noise | None, Constraint | None]:
        """Return what `sample` takes, seen by an observer; the step includes the constraint."""
        step, noise, constrain = self.step, self.noise, self.constrain

        def take(
            denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
        ) -> Stepped:
            observer.stepping(x, interval)
            sampled, x0, history = step(denoise, x, interval, history, noise)
            x_next = sampled if constrain is None else constrain(sampled, interval)
            x_next = observer.stepped(TakenStep(interval, x, sampled, x_next, x0))
            return x_next, x0, history

        fresh = None if noise is None else lambda: observer.noise_sampled(noise())
        return self.denoiser(observer), take, fresh, None
