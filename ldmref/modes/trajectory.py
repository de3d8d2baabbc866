"""The trajectory of a batch: its initial state, its noise levels and the steps between them."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from ldmref.math.arrays import Array
from ldmref.models.conditioning import Conditioning
from ldmref.models.model import LatentDiffusion
from ldmref.modes.channels import make_input_channels
from ldmref.modes.control import ActiveControl
from ldmref.modes.denoiser import model_denoiser
from ldmref.modes.generate import CancelFlag, Progress, constrain_known, on_backend, run_sampler
from ldmref.modes.initial import InitialState, sample_initial
from ldmref.modes.job import Job
from ldmref.modes.observer import SILENT, RunObserver, TakenStep
from ldmref.samplers import (
    Guidance,
    GuidedDenoiser,
    Schedule,
    State,
    Step,
    configured_step,
    make_schedule,
    repaint_visits,
    sample,
)
from ldmref.samplers.interfaces import (
    Constraint,
    Denoiser,
    Guided,
    History,
    Interval,
    Noise,
    Stepped,
)
from ldmref.samplers.noise import Streams


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The sampling of a batch, prepared up to its first step.

    Args:
        model: The model that generates.
        schedule: The noise levels, and the timesteps of the network.
        step: The step of the sampler.
        visits: Indices into the noise levels, in the order in which they are visited.
        x: The initial state, (n, c, h, w), an array of the backend.
        noise: Source of fresh noise; each call advances it.
        constrain: Function applied to x after every step (inpainting).
        conditionings: By the name of the prediction; see `model_denoiser`.
        cfg_scale: The guidance scale.
        guidance: How the predictions become one.
        controls: ControlNets, with the levels at which they act.
        channels: Further input channels of the U-Net.
        history: Memory of earlier steps, of a run that is continued.
    """

    model: LatentDiffusion
    schedule: Schedule
    step: Step = field(repr=False)
    visits: Sequence[int]
    x: Array = field(repr=False)
    noise: Noise = field(repr=False)
    constrain: Constraint | None = field(repr=False)
    conditionings: Mapping[str, Conditioning] = field(repr=False)
    cfg_scale: float
    guidance: Guidance
    controls: Sequence[ActiveControl] = ()
    channels: Array | None = field(default=None, repr=False)
    history: History = field(default=(), repr=False)

    @property
    def steps(self) -> int:
        """The number of steps; a jump back up is not one."""
        return sum(j > i for i, j in pairwise(self.visits))

    def denoiser(
        self, model: LatentDiffusion | None = None, observer: RunObserver = SILENT
    ) -> GuidedDenoiser:
        """Return the guided model as `denoise(x, sigma) -> x0`.

        Args:
            model: A copy of the model on a backend that watches its operations. None: the model.
            observer: Sees every evaluation, and may replace prompts and guidance before it.
        """
        used = model or self.model
        if observer is SILENT:
            return self._denoiser(used)
        denoise = self._denoiser(used, observer)

        def predict(
            x: Array, sigma: float, memory: History, unconditional: bool, interval: Interval | None
        ) -> Guided:
            nonlocal denoise
            changed = observer.evaluating(x, sigma)
            if changed is not None:
                denoise = changed._denoiser(used, observer)
            return denoise.guided(x, sigma, memory, unconditional, interval)

        return GuidedDenoiser(predict, denoise.remembers)

    def _denoiser(
        self, model: LatentDiffusion, observer: RunObserver | None = None
    ) -> GuidedDenoiser:
        return model_denoiser(
            model,
            self.schedule.timestep,
            self.conditionings,
            self.cfg_scale,
            self.guidance,
            self.controls,
            self.channels,
            None if observer is None else observer.evaluated,
        )

    def sample(
        self,
        cancel: CancelFlag | None = None,
        first: int = 0,
        count: int = 1,
        observer: RunObserver = SILENT,
    ) -> Generator[Progress, None, np.ndarray]:
        """Take all steps and return the latents, (n, c, h, w) float32.

        Args:
            cancel: Stops the run between two steps.
            first, count: Index of the batch's first image, and number of images of the run.
            observer: Sees the steps and may replace states and noise; not called for a step that
                is repeated to find the origin of NaN.

        Yields:
            A `Progress` after every step.

        Raises:
            Cancelled: `cancel` was set.
            NumericError: The latents hold NaN or infinity.
        """
        sigmas = self.schedule.sigmas.tolist()

        def sample_states(
            model: LatentDiffusion,
            x: Array,
            visits: Sequence[int] = self.visits,
            history: History = self.history,
        ) -> Iterator[State]:
            present = observer if model is self.model else SILENT
            return sample(
                self.denoiser(model, present),
                x,
                sigmas,
                self._observed_step(present),
                noise=lambda: present.drawn(self.noise()),
                visits=visits,
                history=history,
            )

        # a schedule that ends above 0 leaves noise: latents are in variance-preserving scale
        scale = math.hypot(1.0, sigmas[-1])
        return (
            yield from run_sampler(
                self.model, self.x, sample_states, self.steps, scale, cancel, first, count
            )
        )

    def _observed_step(self, observer: RunObserver) -> Step:
        """Return the step with the constraint of the mode, seen by an observer."""

        def take(
            denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
        ) -> Stepped:
            observer.stepping(x, interval)
            sampled, x0, history = self.step(denoise, x, interval, history, noise)
            constrain = self.constrain
            x_next = sampled if constrain is None else constrain(sampled, interval)
            x_next = observer.stepped(TakenStep(interval, x, sampled, x_next, x0))
            return x_next, x0, history

        return take


def start_trajectory(
    model: LatentDiffusion,
    job: Job,
    initial: InitialState,
    conditionings: Mapping[str, Conditioning],
    controls: Sequence[ActiveControl],
    batch: slice,
) -> Trajectory:
    """Prepare the sampling of a batch: its noise, its initial state and its steps.

    Args:
        model: The model.
        job: The resolved parameters.
        initial: The initial state of the mode.
        conditionings: By the name of the prediction, for the images of the batch.
        controls: ControlNets.
        batch: The images of the batch among those of the run.
    """
    ops = model.backend
    config = model.config.scheduler
    schedule = make_schedule(config, job.sampler, job.schedule, job.steps, job.sigmas)
    sigmas = schedule.sigmas.tolist()
    streams = Streams(job.seeds[batch], model.latent_shape(*job.size), job.rng)
    noise, image, masked = sample_initial(job, initial, streams, batch)

    constrain = None
    if initial.keep is not None and image is not None:
        constrain = constrain_known(ops, initial.keep, image, noise)
    step, visits = choose_step(model, job, schedule, constrain)

    if image is None or initial.from_noise:
        x = noise * schedule.init_noise_sigma
    else:
        x = image + sigmas[visits[0]] * noise
    channels = None
    if model.config.image_channels:
        channels = make_input_channels(model, job.size, initial.channels, masked)
    levels = sorted(set(visits))
    return Trajectory(
        model,
        schedule,
        step,
        visits,
        on_backend(ops, x),
        lambda: on_backend(ops, streams()),
        constrain,
        conditionings,
        job.cfg_scale,
        job.guidance,
        [control.within(levels) for control in controls],
        channels,
    )


def choose_step(
    model: LatentDiffusion,
    job: Job,
    schedule: Schedule,
    constrain: Constraint | None,
    first_step: int | None = None,
) -> tuple[Step, Sequence[int]]:
    """Return the step of a job's sampler, and the indices into the sigmas that it visits.

    `first_step` is the number of steps that are skipped; None: the job's.
    """
    first = job.first_step if first_step is None else first_step
    step, visits = configured_step(
        model.config.scheduler,
        job.sampler,
        schedule,
        eta=job.eta,
        first_step=first,
        constrain=constrain,
        bug_compatible=job.rng == "torch" and job.resample is None,
    )
    if job.resample is not None:
        visits = repaint_visits(len(visits) - 1, *job.resample, first=first)
    return step, visits
