"""A call of a pipeline: its plan, its steps and its images."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from ldmref.compat.diffusers.generators import GeneratorNoise
from ldmref.compat.diffusers.output import decode_images
from ldmref.compat.diffusers.prompts import LOGGER, EmbeddedPrompts
from ldmref.compat.diffusers.watch import CallbackObserver, Interrupted
from ldmref.errors import UsageError, short_repr
from ldmref.math.arrays import Array
from ldmref.models.model import LatentDiffusion
from ldmref.modes import plan
from ldmref.modes.generate import explaining_memory, on_backend
from ldmref.modes.initial import InitialState
from ldmref.modes.observers import Observers
from ldmref.modes.run import Plan
from ldmref.modes.trajectory import RunObserver, Trajectory


@dataclass(frozen=True, eq=False)
class PipelineCall:
    """A call of a pipeline.

    Args:
        pipe: The pipeline.
        model: Its model, with the configuration of its scheduler.
        arguments: The arguments by name.
        prompts: The encoded prompts, with a row per image.
        noise: The source of all noise.
    """

    pipe: Any
    model: LatentDiffusion
    arguments: SimpleNamespace
    prompts: EmbeddedPrompts
    noise: GeneratorNoise

    @property
    def parts(self) -> tuple[LatentDiffusion, SimpleNamespace, EmbeddedPrompts, GeneratorNoise]:
        """Model, arguments, prompts and noise."""
        return self.model, self.arguments, self.prompts, self.noise

    def plan(self, **parameters: Any) -> Plan:
        """Return the checked plan; noise and images are added by `sample`."""
        pipe = self.pipe
        cond, uncond = self.prompts
        embeds = {
            "prompt_embeds": cond.states,
            "negative_prompt_embeds": uncond.states,
            "pooled_prompt_embeds": cond.pooled,
            "negative_pooled_prompt_embeds": uncond.pooled,
        }
        return plan(
            pipe.mode,
            self.model.config,
            prompt=None,
            steps=self.arguments.num_inference_steps,
            cfg_scale=pipe.guidance_scale if pipe.do_classifier_free_guidance else 1.0,
            seed=[0] * self.prompts.images,
            rng="torch",
            eta=float(self.arguments.eta) if pipe.scheduler.has_eta else None,
            batch_size=self.prompts.images,
            **{name: value for name, value in embeds.items() if value is not None},
            **parameters,
        )

    def sample(self, made: Plan, initial: InitialState, **tensors: np.ndarray) -> Array:
        """Run the steps of a plan, and return the latents of the end, in diffusers' scale.

        Args:
            made: The plan.
            initial: The initial state, whose noise was sampled already.
            tensors: Further tensors that a callback may read.
        """
        model, arguments = self.model, self.arguments
        scheduler = self.pipe.scheduler
        run = replace(made, start=lambda _: initial).prepare(model)
        job = run.job
        for line in run.warnings:
            LOGGER.warning(line)
        scheduler.set_timesteps(job.steps)
        watch = self._watch(scheduler.evaluations(job.steps, job.first_step), tensors)
        self.pipe._num_timesteps = len(watch.timesteps)
        self.pipe._steps = job.steps - job.first_step
        start = initial.noise if initial.from_noise and job.first_step else None
        noise = PipelineNoise(self.noise, watch, scheduler.noise_dtype, start)
        steps = run.sample_batch(slice(0, len(job.seeds)), None, Observers(noise, watch))
        with suppress(Interrupted), explaining_memory(model, job):
            for _ in steps:
                pass
        noise.sample_until(scheduler.samples(watch.timesteps[: watch.evaluations], arguments.eta))
        return watch.latents

    def _watch(self, timesteps: np.ndarray, tensors: dict[str, np.ndarray]) -> CallbackObserver:
        pipe = self.pipe
        arguments = self.arguments
        return CallbackObserver(
            pipe,
            timesteps,
            pipe.scheduler.explodes,
            arguments.callback_on_step_end,
            callback_inputs(arguments, pipe.tensor_inputs),
            arguments.callback,
            arguments.callback_steps or 1,
            dict(tensors),
            guided=pipe.do_classifier_free_guidance,
            in_use=pipe.guidance,
        )

    def decode(self, latents: Array) -> Any:
        """Return the images of latents, as `output_type` says."""
        return decode_images(self.model, latents, self.arguments.output_type)


class PipelineNoise(RunObserver):
    """Gives a run the noise of a pipeline's generator, and its initial latents.

    Args:
        source: The noise of the generator.
        callbacks: The observer that knows the scale of the latents.
        dtype: The number format in which the scheduler samples.
        start: Latents from which a run below the largest noise level starts, (n, c, h, w). None:
            it starts from its own initial state.
    """

    def __init__(
        self,
        source: GeneratorNoise,
        callbacks: CallbackObserver,
        dtype: str | None,
        start: np.ndarray | None,
    ):
        self.source = source
        self.callbacks = callbacks
        self.dtype = dtype
        self.start = start
        self.shape: tuple[int, ...] = ()
        self.count = 0

    def started(self, trajectory: Trajectory) -> Trajectory:
        """Return the sampling with this noise and these latents."""
        ops = trajectory.model.backend
        self.shape = tuple(trajectory.x.shape)
        if self.start is not None:
            trajectory = start_below(trajectory, self.callbacks, self.start)
        return replace(trajectory, noise=lambda: on_backend(ops, self.sample()))

    def sample(self) -> np.ndarray:
        """Return the noise of a step, (n, c, h, w)."""
        self.count += 1
        return self.source.randn(self.shape, self.dtype)

    def sample_until(self, expected: int) -> None:
        """Advance the generator as far as diffusers' scheduler does, which also samples unused."""
        while self.count < expected:
            self.sample()


def start_below(trajectory: Trajectory, watch: CallbackObserver, latents: np.ndarray) -> Trajectory:
    """Return a trajectory that starts from given latents below the largest noise level.

    diffusers takes them as they are, although they have the size of pure noise.
    """
    schedule = trajectory.schedule
    sigma = float(schedule.sigmas[trajectory.visits[0]])
    factor = schedule.init_noise_sigma if watch.explodes else 1.0 / watch.scale(sigma)
    return replace(trajectory, x=on_backend(trajectory.model.backend, latents * factor))


def callback_inputs(arguments: SimpleNamespace, known: tuple[str, ...]) -> list[str]:
    """Return the names of the tensors that a callback asks for.

    Raises:
        UsageError: The pipeline has no such tensor.
    """
    own = getattr(arguments.callback_on_step_end, "tensor_inputs", None)
    names = list(own or arguments.callback_on_step_end_tensor_inputs or [])
    for name in names:
        if name not in known:
            raise UsageError(
                f"callback_on_step_end_tensor_inputs holds {short_repr(name)}",
                code="E-CALLBACK",
                hint=f"allowed are {', '.join(known)}",
            )
    return names
