"""A call of a pipeline: its plan, its steps, its callback and its images.

`callback_on_step_end` sees the latents after every evaluation of the network and may change them. A
step of ldmref may hold two evaluations: the state between is the one at which the second evaluation
starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from ldmref.compat.diffusers.arrays import to_caller, to_host
from ldmref.compat.diffusers.generators import GeneratorNoise
from ldmref.compat.diffusers.output import decode_images
from ldmref.compat.diffusers.prompts import LOGGER, EmbeddedPrompts
from ldmref.errors import UsageError, short_repr
from ldmref.math.arrays import Array
from ldmref.models.conditioning import Conditioning
from ldmref.models.model import LatentDiffusion
from ldmref.modes import plan
from ldmref.modes.generate import on_backend
from ldmref.modes.guidance_parameter import PLAIN
from ldmref.modes.initial import InitialState
from ldmref.modes.observers import Observers
from ldmref.modes.run import Plan
from ldmref.modes.trajectory import RunObserver, TakenStep, Trajectory
from ldmref.samplers import Guidance, get_guidance

CODE = "E-CALLBACK"
# Tensors that a callback may ask for by name and replace.
TEXTS = {"prompt_embeds": "context", "add_text_embeds": "pooled", "add_time_ids": "sizes"}
REPLACED = ("latents", "negative_prompt_embeds", *TEXTS)


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

    def plan(self, **parameters: object) -> Plan:
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
        with suppress(Interrupted), run.explaining_memory():
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


class Interrupted(Exception):
    """Raised when the callback sets `pipe._interrupt`; the run returns the current latents."""


@dataclass(eq=False)
class CallbackObserver(RunObserver):
    """Passes the current tensors to a callback, under diffusers' names, and takes what it changes.

    Args:
        pipe: The pipeline, whose `_guidance_scale` and `_interrupt` a callback may set.
        timesteps: The timesteps of the evaluations.
        explodes: Whether latents have the scale x0 + sigma eps.
        callback: `callback_on_step_end`; None: only the last latents are kept.
        names: `callback_on_step_end_tensor_inputs`.
        simple, every: The older `callback(step, timestep, latents)`, called every so many steps.
        tensors: Further tensors by name, which callbacks may only read.
        guided: Whether there is guidance.
        in_use: The guidance scale and the rescaling factor.

    Attributes:
        latents: The latents after the last evaluation, in diffusers' scale, on the backend.
        evaluations: The number of evaluations so far.
        between: Whether the step has evaluated the network before.
        parts: The embeddings, by the name of the prediction.
        changed: Whether the callback has replaced embeddings or guidance since the last evaluation.
        trajectory: The sampling as it was planned.
    """

    pipe: Any
    timesteps: np.ndarray
    explodes: bool
    callback: Callable[..., Any] | None = None
    names: Sequence[str] = ("latents",)
    simple: Callable[..., Any] | None = None
    every: int = 1
    tensors: dict[str, Any] = field(default_factory=dict)
    guided: bool = False
    in_use: tuple[float, float] = (0.0, 0.0)
    latents: Any = None
    evaluations: int = 0
    between: bool = False
    parts: dict[str, Conditioning] = field(default_factory=dict)
    changed: bool = False
    trajectory: Trajectory = field(init=False, repr=False)

    def started(self, trajectory: Trajectory) -> Trajectory:
        """Keep the embeddings, which the callback may read and replace."""
        self.trajectory = trajectory
        self.parts = dict(trajectory.conditionings)
        self.changed = True
        return trajectory

    def evaluating(self, x: Array, sigma: float) -> Trajectory | None:
        """Call the callback between two evaluations of a step; return what it has changed."""
        if self.between:
            self.finish(self.trajectory.model, x, sigma)
        self.between = True
        if not self.changed:
            return None
        self.changed = False
        scale, rescale = self.in_use = self.pipe.guidance
        guidance: Guidance = PLAIN
        if self.guided and rescale:
            guidance = get_guidance({"name": "rescale", "phi": rescale})
        return replace(
            self.trajectory,
            conditionings=dict(self.parts),
            cfg_scale=float(scale) if self.guided else 1.0,
            guidance=guidance,
        )

    def stepped(self, step: TakenStep) -> Array:
        """Call the callback after a step; return the state or what replaces it."""
        self.between = False
        return self.finish(self.trajectory.model, step.x_next, step.interval.sigma_next)

    def scale(self, sigma: float) -> float:
        """Return the factor from x = x0 + sigma eps to the latents of diffusers."""
        return 1.0 if self.explodes else 1.0 / math.hypot(1.0, sigma)

    def finish(self, model: LatentDiffusion, x: Array, sigma: float) -> Array:
        """Call the callback after an evaluation that has led to x; return x or its new value.

        Raises:
            UsageError: The callback returned something that cannot be used.
            Interrupted: The callback has set `pipe._interrupt`.
        """
        i = self.evaluations
        self.evaluations += 1
        scale = self.scale(sigma)
        self.latents = x if scale == 1.0 else x * scale
        if i < len(self.timesteps):  # an error is traced by a step that is repeated
            x = self._call(model, i, x, scale)
        if self.pipe._interrupt:
            raise Interrupted
        return x

    def _call(self, model: LatentDiffusion, i: int, x: Array, scale: float) -> Array:
        t = to_timestep(model, self.timesteps[i])
        if self.callback is not None:
            x = self._call_on_step_end(model, i, t, x, scale)
        if self.simple is not None and self._ends_step(i) and i % self.every == 0:
            step = i // self.pipe.scheduler.order
            self.simple(step, t, to_caller(model, self.latents))
        return x

    def _ends_step(self, i: int) -> bool:
        n = len(self.timesteps)
        order = self.pipe.scheduler.order
        warmup = n - self.pipe._steps * order
        return i == n - 1 or (i + 1 > warmup and (i + 1) % order == 0)

    def _call_on_step_end(
        self, model: LatentDiffusion, i: int, t: object, x: Array, scale: float
    ) -> Array:
        ops = model.backend
        before = np.asarray(ops.to_numpy(self.latents), np.float32)
        values = self._values(model)
        shown = {name: values[name] for name in self.names}
        texts = {name: to_host(name, shown[name]) for name in self.names if name in TEXTS}
        returned = self.callback(self.pipe, i, t, dict(shown)) if self.callback else None
        if not isinstance(returned, Mapping):
            raise UsageError(
                f"callback_on_step_end returned {short_repr(returned)}",
                code=CODE,
                hint="end it with: return callback_kwargs",
            )
        after = to_host("latents", returned.get("latents", before))
        if after.shape != before.shape:
            message = f"the callback returned latents of shape {after.shape}, not {before.shape}"
            raise UsageError(message, code=CODE)
        self._replace_texts(model, returned, texts)
        for name in returned.keys() - set(REPLACED):
            if name in values and returned[name] is not values[name]:
                raise UsageError(f"a callback cannot replace {name}", code=CODE)
        if np.array_equal(after, before):
            return x
        if self.between:
            raise UsageError(
                f"{self.pipe.scheduler.kind} evaluates the network twice in a step, and latents "
                "cannot be replaced between the two",
                code=CODE,
                hint="replace them after the second evaluation, or take another scheduler",
            )
        self.latents = on_backend(ops, after)
        return self.latents if scale == 1.0 else self.latents / scale

    def _values(self, model: LatentDiffusion) -> dict[str, Any]:
        """Return the tensors by name; with guidance, negative prompts come first."""
        ops = model.backend
        cond = self.parts["cond"]
        uncond = self.parts["uncond"]
        both: list[Any] = [uncond, cond] if self.guided else [cond]
        texts = np.concatenate([np.asarray(ops.to_numpy(part.context)) for part in both])
        values = {
            "latents": to_caller(model, self.latents),
            "prompt_embeds": to_caller(model, texts),
            "negative_prompt_embeds": to_caller(model, uncond.context),
            **self.tensors,
        }
        if cond.pooled is not None:
            pooled = np.concatenate([np.asarray(ops.to_numpy(part.pooled)) for part in both])
            sizes = np.concatenate([np.asarray(ops.to_numpy(part.sizes)) for part in both])
            values["add_text_embeds"] = to_caller(model, pooled)
            values["add_time_ids"] = to_caller(model, sizes)
        return values

    def _replace_texts(
        self, model: LatentDiffusion, returned: Mapping[str, Any], before: Mapping[str, np.ndarray]
    ) -> None:
        """Use the embeddings and the guidance scale that the callback leaves."""
        guided = self.pipe.do_classifier_free_guidance
        changed = self.pipe.guidance != self.in_use
        rows = len(self.latents)
        for name, key in TEXTS.items():
            if name not in returned or name not in before:
                continue
            after = to_host(name, returned[name])
            if not changed and np.array_equal(after, before[name]):
                continue
            wanted = rows * (2 if guided else 1)
            if after.shape != (wanted, *before[name].shape[1:]):
                raise UsageError(
                    f"the callback returned {name} of {len(after)} rows for {wanted}",
                    code=CODE,
                    hint="with guidance, the rows of the negative prompts come first",
                )
            changed = True
            own = model.backend.asarray
            self.parts["cond"] = self.parts["cond"]._replace(**{key: own(after[-rows:])})
            self.parts["uncond"] = self.parts["uncond"]._replace(**{key: own(after[:rows])})
        if changed:
            self.guided = guided
            self.changed = True


def to_timestep(model: LatentDiffusion, t: object) -> Any:
    """Return a timestep as a scalar: of torch if torch is in use, otherwise of NumPy."""
    found = to_caller(model, np.asarray([t], np.float32))
    if not hasattr(found, "detach"):
        return t
    return found[0].long() if isinstance(t, np.integer) else found[0].float()
