"""`Pipeline`: what all pipelines share: loading, moving, the scheduler, and the run of a call."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import numpy as np

from ldmref.compat.diffusers.arguments import bind, signature_of
from ldmref.compat.diffusers.components import Component, Weights, make_components
from ldmref.compat.diffusers.generators import NoiseSource
from ldmref.compat.diffusers.memory import MemoryCalls
from ldmref.compat.diffusers.output import StableDiffusionPipelineOutput, decode_images
from ldmref.compat.diffusers.prompts import EmbeddedPrompts, encode_prompts
from ldmref.compat.diffusers.schedulers import FILE, SCHEDULERS, Scheduler, native_scheduler, read_config
from ldmref.compat.diffusers.watch import Interrupted, Watch, watch_trajectory
from ldmref.errors import UsageError, did_you_mean, short_repr
from ldmref.math.arrays import Array
from ldmref.models.model import LatentDiffusion
from ldmref.modes import plan
from ldmref.modes.cost import explain_memory
from ldmref.modes.initial import InitialState
from ldmref.modes.run import Plan

# Options of from_pretrained that choose something that ldmref does not have, or does by itself.
LOADING_OPTIONS = {
    "safety_checker", "requires_safety_checker", "feature_extractor", "image_encoder",
    "use_safetensors", "local_files_only", "low_cpu_mem_usage", "add_watermarker",
    "force_zeros_for_empty_prompt",
}  # fmt: skip


class Pipeline(MemoryCalls):
    """A pipeline of diffusers on a model of ldmref.

    Build one with `from_pretrained(folder)`, or from the parts of another one:
    `StableDiffusionImg2ImgPipeline(**pipe.components)`.

    Attributes:
        scheduler: The scheduler, which may be replaced.
        vae, unet, text_encoder, tokenizer: Stand-ins of the parts, with their configurations.
    """

    parameters: ClassVar[dict[str, Any]] = {}
    mode: ClassVar[str] = ""
    xl: ClassVar[bool] = False
    tensor_inputs: ClassVar[tuple[str, ...]] = ("latents", "prompt_embeds", "negative_prompt_embeds")

    def __init_subclass__(cls) -> None:
        cls.__call__.__signature__ = signature_of(cls.parameters)  # type: ignore[attr-defined]

    def __init__(self, scheduler: Scheduler | None = None, **components: Any):
        parts = [part for part in components.values() if isinstance(part, Component)]
        if not parts or len({id(part.weights) for part in parts}) > 1:
            raise UsageError(
                f"{type(self).__name__} needs the components of one pipeline",
                code="E-COMPONENT",
                hint="from_pretrained(folder), or the parts of a pipeline: **pipe.components",
            )
        self._weights = parts[0].weights
        name = type(self).__name__
        if bool(self._weights.config.unet.addition_embed_type) != self.xl:
            other = name.replace("XL", "") if self.xl else name.replace("Diffusion", "DiffusionXL")
            message = f"{name} cannot run the model {self._weights.config.name!r}"
            raise UsageError(message, code="E-PIPELINE", hint=f"use {other}")
        self._components = make_components(self._weights)
        for part, component in self._components.items():
            object.__setattr__(self, part, component)
        self.scheduler = scheduler or _folder_scheduler(self._weights)
        self.scheduler.correct(name)
        self.vae_scale_factor = self._weights.config.vae.factor
        self._guidance_scale = float(self.parameters["guidance_scale"])
        self._guidance_rescale = 0.0
        self._clip_skip: int | None = None
        self._interrupt = False
        self._num_timesteps = 0
        self._steps = 0

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        torch_dtype: Any = None,
        dtype: Any = None,
        variant: str | None = None,
        scheduler: Scheduler | None = None,
        **options: Any,
    ) -> Self:
        """Open a folder of diffusers, or another model that `ldmref.load` knows.

        Args:
            folder: The folder; the name of a model in the local cache of Hugging Face; or `emoji`,
                the embedded model. Nothing is downloaded.
            torch_dtype, dtype: A dtype of torch, which selects the torch backend, or a name.
            variant: The variant of the weights, such as `fp16`.
            scheduler: A scheduler instead of the folder's.
            options: `safety_checker=None`, `use_safetensors` and others that change no image.

        Raises:
            UsageError: An option that is not supported.
            InputError: There is no such model, or it is damaged.
        """
        for name, value in options.items():
            if name not in LOADING_OPTIONS and value is not None:
                message = f"from_pretrained of ldmref.compat.diffusers does not support {name}"
                hint = did_you_mean(name, {*LOADING_OPTIONS, "torch_dtype", "variant", "scheduler"})
                raise UsageError(message, code="E-UNSUPPORTED", hint=hint)
        if scheduler is not None and not isinstance(scheduler, Scheduler):
            raise _wrong_scheduler(scheduler)
        weights = Weights(folder, variant)
        weights.move(torch_dtype if dtype is None else dtype)
        return cls(scheduler, **make_components(weights))

    @classmethod
    def from_pipe(cls, pipeline: Pipeline, **changes: Any) -> Self:
        """Return a pipeline of this class with the model and the scheduler of another one."""
        return cls(**{**pipeline.components, **changes})

    @property
    def components(self) -> dict[str, Any]:
        """The parts of the pipeline by name, for another pipeline."""
        without = dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder"))
        return {**self._components, "scheduler": self.scheduler, **without}

    def to(self, *targets: Any, **named: Any) -> Self:
        """Move to a device, a dtype, or both, and return the pipeline.

        A device or dtype of torch, and every device except for "cpu", select the torch backend.
        """
        self._weights.move(*targets, *named.values())
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "scheduler" and not isinstance(value, Scheduler):
            raise _wrong_scheduler(value)
        if name in self.__dict__.get("_components", ()):
            raise UsageError(
                f"pipe.{name} cannot be replaced",
                code="E-UNSUPPORTED",
                hint="ldmref.load opens other autoencoders (vae=) and LoRAs (lora=)",
            )
        super().__setattr__(name, value)

    # -- the state of a call, which callbacks read and set -----------------------------------------

    @property
    def _guidance(self) -> tuple[float, float]:
        return self._guidance_scale, self._guidance_rescale

    @property
    def guidance_scale(self) -> float:
        """The guidance scale of the call; a callback sets `_guidance_scale`."""
        return self._guidance_scale

    @property
    def guidance_rescale(self) -> float:
        """The argument `guidance_rescale` of the call."""
        return self._guidance_rescale

    @property
    def clip_skip(self) -> int | None:
        """The argument `clip_skip` of the call."""
        return self._clip_skip

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the guidance scale is above 1."""
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """The evaluations of the network in the call."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether the rest of the steps is skipped; a callback sets `_interrupt`."""
        return self._interrupt

    @property
    def device(self) -> Any:
        """The device of the model."""
        return self._components["unet"].device

    @property
    def dtype(self) -> Any:
        """The dtype of the model."""
        return self._components["unet"].dtype

    # -- a call ------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **values: Any) -> Any:
        """Generate images; the arguments and their defaults are those of diffusers.

        Raises:
            UsageError, ImageError: An argument is wrong or not supported; the message names it.
        """
        arguments = bind(type(self).__name__, self.parameters, args, values)
        model = self._configured_model()
        self._guidance_scale = float(arguments.guidance_scale)
        self._guidance_rescale = float(getattr(arguments, "guidance_rescale", 0.0))
        self._clip_skip = arguments.clip_skip
        self._interrupt = False
        self._steps = arguments.num_inference_steps
        prompts = encode_prompts(model, arguments, self.do_classifier_free_guidance)
        noise = NoiseSource(arguments.generator, prompts.images, model)
        images = self._generate(model, arguments, prompts, noise)
        if not arguments.return_dict:
            return images, None
        return StableDiffusionPipelineOutput(images)

    def _generate(
        self,
        model: LatentDiffusion,
        arguments: SimpleNamespace,
        prompts: EmbeddedPrompts,
        noise: NoiseSource,
    ) -> Any:
        raise NotImplementedError

    def _configured_model(self) -> LatentDiffusion:
        """Return the model with the configuration of the scheduler."""
        model = self._weights.model
        config = replace(model.config, scheduler=self.scheduler.native)
        configured = model.with_params({}, model.backend)
        configured.config = config
        return configured

    def _plan(
        self,
        model: LatentDiffusion,
        arguments: SimpleNamespace,
        prompts: EmbeddedPrompts,
        **parameters: Any,
    ) -> Plan:
        """Return the checked plan of a call; noise and images are added later."""
        eta = float(arguments.eta) if self.scheduler.has_eta else None
        embeds: dict[str, Any] = {
            "prompt_embeds": prompts.cond.states,
            "negative_prompt_embeds": prompts.uncond.states,
            "pooled_prompt_embeds": prompts.cond.pooled,
            "negative_pooled_prompt_embeds": prompts.uncond.pooled,
        }
        made = plan(
            self.mode,
            model.config,
            prompt=None,
            steps=arguments.num_inference_steps,
            cfg_scale=self._guidance_scale if self.do_classifier_free_guidance else 1.0,
            seed=[0] * prompts.images,
            rng="torch",
            eta=eta,
            batch_size=prompts.images,
            **{name: value for name, value in embeds.items() if value is not None},
            **parameters,
        )
        assert isinstance(made, Plan)
        return made

    def _sample(
        self,
        model: LatentDiffusion,
        arguments: SimpleNamespace,
        made: Plan,
        initial: InitialState,
        noise: NoiseSource,
        **tensors: np.ndarray,
    ) -> Array:
        """Run the steps of a plan from an initial state, and return the latents of the end."""
        run = replace(made, start=lambda _: initial).prepare(model)
        job = run.job
        trajectory = run.trajectory(slice(0, len(job.seeds)))
        names = arguments.callback_on_step_end_tensor_inputs
        callback = arguments.callback_on_step_end
        names = list(getattr(callback, "tensor_inputs", None) or names or [])
        unknown = [name for name in names if name not in self.tensor_inputs]
        if unknown:
            raise UsageError(
                f"callback_on_step_end_tensor_inputs holds {short_repr(unknown[0])}",
                code="E-CALLBACK",
                hint=f"allowed are {', '.join(self.tensor_inputs)}",
            )
        scheduler = self.scheduler
        scheduler.set_timesteps(job.steps)
        watch = Watch(
            self,
            scheduler.evaluations(job.steps, job.first_step),
            scheduler.explodes,
            callback,
            names,
            arguments.callback,
            arguments.callback_steps or 1,
            dict(tensors),
            guided=self.do_classifier_free_guidance,
            in_use=self._guidance,
        )
        self._num_timesteps = len(watch.timesteps)
        self._steps = job.steps - job.first_step
        shape = (len(job.seeds), *model.latent_shape(*job.size))
        watched = watch_trajectory(trajectory, watch, lambda: noise.randn(shape))
        try:
            for _ in explain_memory(watched.sample(), model, job):
                pass
        except Interrupted:
            pass
        return watch.latents

    def _finish(self, model: LatentDiffusion, arguments: SimpleNamespace, latents: Array) -> Any:
        return decode_images(model, latents, arguments.output_type)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._weights.config.name!r}, {self.scheduler.kind}>"


def _folder_scheduler(weights: Weights) -> Scheduler:
    """Return the scheduler that a folder names; that of other models is their own."""
    path = Path(weights.path, "scheduler", FILE)
    if not path.is_file():
        return native_scheduler(weights.config.scheduler)
    config = read_config(path)
    index = Path(weights.path, "model_index.json")
    named = read_config(index).get("scheduler", [None, None])[-1] if index.is_file() else None
    kind = named or config.get("_class_name")
    if kind not in SCHEDULERS:
        raise UsageError(
            f"the scheduler of this folder is {short_repr(kind)}, which ldmref does not have",
            code="E-SCHEDULER",
            hint="from_pretrained(folder, scheduler=DDIMScheduler(...)) takes another one",
        )
    return SCHEDULERS[kind].from_config(config)


def _wrong_scheduler(value: Any) -> UsageError:
    return UsageError(
        f"a scheduler of ldmref.compat.diffusers is needed, not {short_repr(value)}",
        code="E-SCHEDULER",
        hint="import EulerDiscreteScheduler and others from ldmref.compat.diffusers",
    )
