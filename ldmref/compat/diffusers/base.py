"""`Pipeline`: what all pipelines share: loading, moving, the scheduler, and the run of a call.

Also the options of `from_pretrained`, the calls that change memory and speed but never the image,
and the helpers around images, `pipe.image_processor` and `pipe.mask_processor`.

Source of the helpers: diffusers 0.42.1, `image_processor.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from PIL import Image, ImageFilter

from ldmref.compat.diffusers.arguments import ENCODE, XL_ENCODE, bind, signature_of
from ldmref.compat.diffusers.arrays import to_caller, to_host, to_torch
from ldmref.compat.diffusers.call import PipelineCall
from ldmref.compat.diffusers.components import (
    Component,
    Weights,
    make_components,
    targets_of,
)
from ldmref.compat.diffusers.descriptions import describe_call
from ldmref.compat.diffusers.generators import GeneratorNoise
from ldmref.compat.diffusers.images import (
    Crop,
    paste_crop,
    paste_kept,
    prepare_images,
    prepare_masks,
)
from ldmref.compat.diffusers.output import StableDiffusionPipelineOutput, convert_images
from ldmref.compat.diffusers.prompts import encode_prompts
from ldmref.compat.diffusers.schedulers import (
    FILE,
    SCHEDULERS,
    Scheduler,
    native_scheduler,
    read_config,
)
from ldmref.errors import UsageError, did_you_mean, short_repr

HELPERS = ("image_processor", "mask_processor", "vae_scale_factor")  # set once, from the model

# Options of from_pretrained that choose something that ldmref does not have, or does by itself.
LOADING_OPTIONS = """
    safety_checker requires_safety_checker feature_extractor image_encoder use_safetensors
    local_files_only low_cpu_mem_usage add_watermarker force_zeros_for_empty_prompt
""".split()

# Without effect: ldmref decodes images one by one, and its backends choose their attention.
WITHOUT_EFFECT = """
    enable_attention_slicing disable_attention_slicing enable_vae_slicing disable_vae_slicing
    enable_vae_tiling disable_vae_tiling enable_xformers_memory_efficient_attention
    disable_xformers_memory_efficient_attention set_use_memory_efficient_attention_xformers
    fuse_qkv_projections unfuse_qkv_projections upcast_vae reset_device_map
    maybe_free_model_hooks remove_all_hooks
""".split()
# These also bring the pipeline to a GPU, where torch has one.
OFFLOADING = ("enable_model_cpu_offload", "enable_sequential_cpu_offload")


class MemoryCalls:
    """The calls that change memory and speed: they are accepted, and the image stays the same."""

    def __getattr__(self, name: str) -> Any:
        if name in WITHOUT_EFFECT:
            return lambda *_, **__: None
        if name in OFFLOADING:
            return self._offload
        raise AttributeError(
            f"{type(self).__name__} of ldmref.compat.diffusers has no {name!r}; "
            "docs/compat.md lists its methods"
        )

    def _offload(self, gpu_id: int | None = None, device: object = "cuda") -> None:
        """Bring the pipeline to a GPU if torch can use one."""
        try:
            import torch
        except ImportError:
            return
        if torch.cuda.is_available():
            self.to(device if gpu_id is None else f"cuda:{gpu_id}")

    def set_progress_bar_config(self, **_: object) -> None:
        """Accept the call: pipelines print no progress."""

    def to(self, *targets: object, **named: object) -> Any:
        """Move the pipeline to `targets`, or `named` ones, and return it; see `Pipeline.to`."""
        raise NotImplementedError


class Pipeline(MemoryCalls):
    """A pipeline of diffusers on a model of ldmref.

    Build one with `from_pretrained(folder)`, or from the parts of another one:
    `StableDiffusionImg2ImgPipeline(**pipe.components)`.

    Attributes:
        scheduler: The scheduler, which may be replaced.
        image_processor, mask_processor: Helpers with `preprocess`, `postprocess` and `blur`.
        vae, unet, text_encoder, tokenizer: The parts, with their configurations.
    """

    parameters: ClassVar[dict[str, Any]] = {}
    mode: ClassVar[str] = ""
    xl: ClassVar[bool] = False
    tensor_inputs: ClassVar[tuple[str, ...]] = (
        "latents",
        "prompt_embeds",
        "negative_prompt_embeds",
    )

    def __init_subclass__(cls) -> None:
        """Give the call of the class its own signature, for `help` and completion."""

        def call(self: Pipeline, *args: object, **values: object) -> Any:
            return self.generate(args, values)

        call.__name__ = "__call__"
        call.__doc__ = describe_call(cls.parameters)
        call.__signature__ = signature_of(cls.parameters)  # type: ignore[attr-defined]
        cls.__call__ = call

    def __init__(self, scheduler: Scheduler | None = None, **components: object):
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
        self.scheduler = scheduler or folder_scheduler(self._weights)
        self.scheduler.correct(name)
        self.vae_scale_factor = self._weights.config.vae.factor
        self.image_processor = ImageProcessor(self._weights)
        self.mask_processor = ImageProcessor(self._weights, masks=True)
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
        torch_dtype: object = None,
        dtype: object = None,
        variant: str | None = None,
        scheduler: Scheduler | None = None,
        **options: object,
    ) -> Self:
        """Open a folder of diffusers, or another model that `ldmref.load` knows.

        Args:
            folder: The folder; the name of a model in the local cache of Hugging Face; or `emoji`,
                the embedded model. Nothing is downloaded.
            torch_dtype: A dtype of torch, which selects the torch backend, or a name. None:
                `dtype`.
            dtype: As `torch_dtype`, which it replaces. None: float32.
            variant: The variant of the weights, such as `fp16`. None: the files without one.
            scheduler: A scheduler instead of the folder's. None: the folder's.
            options: `safety_checker=None`, `use_safetensors` and others that change no image.

        Returns:
            The pipeline.

        Raises:
            UsageError: An option that is not supported.
            InputError: There is no such model, or it is damaged.
        """
        check_options(options)
        if scheduler is not None and not isinstance(scheduler, Scheduler):
            raise wrong_scheduler(scheduler)
        weights = Weights(folder, variant)
        weights.move(torch_dtype if dtype is None else dtype)
        return cls(scheduler, **make_components(weights))

    @classmethod
    def from_pipe(cls, pipeline: Pipeline, **changes: object) -> Self:
        """Return a pipeline of this class with the model and the scheduler of another one.

        Args:
            pipeline: The other pipeline; both share the weights.
            changes: Components that replace those of the other pipeline, such as `scheduler`.
        """
        return cls(**{**pipeline.components, **changes})

    @property
    def components(self) -> dict[str, Any]:
        """The parts of the pipeline by name, for another pipeline."""
        without = dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder"))
        return {**self._components, "scheduler": self.scheduler, **without}

    def to(self, *targets: object, **named: object) -> Self:
        """Move to a device, a dtype, or both, and return the pipeline.

        A device or dtype of torch, and every device except for "cpu", select the torch backend.

        Args:
            targets: A device, a dtype, or both.
            named: `device` and `dtype` by name.
        """
        self._weights.move(*targets, *targets_of(named))
        return self

    def __setattr__(self, name: str, value: object) -> None:
        if name == "scheduler" and not isinstance(value, Scheduler):
            raise wrong_scheduler(value)
        if name in self.__dict__.get("_components", ()):
            raise UsageError(
                f"pipe.{name} cannot be replaced",
                code="E-UNSUPPORTED",
                hint="ldmref.load opens other autoencoders (vae=) and LoRAs (lora=)",
            )
        if name in HELPERS and name in self.__dict__:
            raise UsageError(
                f"pipe.{name} cannot be replaced: the pipeline would not use it",
                code="E-UNSUPPORTED",
                hint='call preprocess on the images that you pass, postprocess on output_type="np"',
            )
        super().__setattr__(name, value)

    # -- the state of a call, which callbacks read and set -----------------------------------------

    @property
    def guidance(self) -> tuple[float, float]:
        """The guidance scale and `guidance_rescale` of the call."""
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

    def __call__(self, *args: object, **values: object) -> Any:
        """Generate images and return them; subclasses have `args` and `values` of diffusers."""
        return self.generate(args, values)

    def generate(self, args: tuple[Any, ...], values: dict[str, Any]) -> Any:
        """Generate images and return them as `__call__` does.

        Args:
            args: The positional arguments of the call.
            values: The arguments by name.

        Raises:
            UsageError, ImageError: An argument is wrong or not supported; the message names it.
        """
        arguments = bind(type(self).__name__, self.parameters, args, values)
        model = self._weights.with_scheduler(self.scheduler.native)
        self._guidance_scale = float(arguments.guidance_scale)
        self._guidance_rescale = float(getattr(arguments, "guidance_rescale", 0.0))
        self._clip_skip = arguments.clip_skip
        self._interrupt = False
        self._steps = arguments.num_inference_steps
        prompts = encode_prompts(model, arguments, self.do_classifier_free_guidance)
        noise = GeneratorNoise(arguments.generator, prompts.images, model)
        images = self.run(PipelineCall(self, model, arguments, prompts, noise))
        if not arguments.return_dict:
            return images, None
        return StableDiffusionPipelineOutput(images)

    def encode_prompt(self, *args: object, **values: object) -> tuple[Any, ...]:
        """Return hidden states for `prompt_embeds` and `negative_prompt_embeds`, each (n, l, d).

        The arguments are those of diffusers: prompt, device (which is not used),
        num_images_per_prompt, do_classifier_free_guidance, negative_prompt, clip_skip, ... SDXL has
        prompt_2 after prompt, and returns the pooled outputs (n, d) in addition.

        Args:
            args: The positional arguments.
            values: The arguments by name.

        Raises:
            UsageError: An argument is wrong or not supported.
        """
        parameters = XL_ENCODE if self.xl else ENCODE
        arguments = bind("encode_prompt", parameters, args, values)
        model = self._weights.with_scheduler(self.scheduler.native)
        guided = bool(arguments.do_classifier_free_guidance)
        cond, uncond = encode_prompts(model, arguments, guided)
        negative = uncond if guided else (None, None)
        parts = range(2 if self.xl else 1)  # hidden states, pooled outputs
        rows = [side[part] for part in parts for side in (cond, negative)]
        return tuple(None if row is None else to_caller(model, row) for row in rows)

    def run(self, call: PipelineCall) -> Any:
        """Return the images of a `call`; each kind of pipeline has its own initial state.

        Raises:
            UsageError, ImageError: An argument is wrong.
        """
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._weights.config.name!r}, {self.scheduler.kind}>"


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that choose something, except for those that change no image.

    Raises:
        UsageError: The message names the option.
    """
    for name, value in options.items():
        if name not in LOADING_OPTIONS and value is not None:
            message = f"from_pretrained of ldmref.compat.diffusers does not support {name}"
            hint = did_you_mean(name, {*LOADING_OPTIONS, "torch_dtype", "variant", "scheduler"})
            raise UsageError(message, code="E-UNSUPPORTED", hint=hint)


def folder_scheduler(weights: Weights) -> Scheduler:
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


def wrong_scheduler(value: object) -> UsageError:
    """Return the error of a scheduler that is not one of ours."""
    return UsageError(
        f"a scheduler of ldmref.compat.diffusers is needed, not {short_repr(value)}",
        code="E-SCHEDULER",
        hint="import EulerDiscreteScheduler and others from ldmref.compat.diffusers",
    )


class ImageProcessor:
    """Images to and from arrays, for the model of a pipeline.

    Args:
        weights: The model.
        masks: Whether `preprocess` prepares masks instead of images.
    """

    def __init__(self, weights: Weights, masks: bool = False):
        self._vae = weights.config.vae
        self._masks = masks

    def preprocess(self, image: object, height: int | None = None, width: int | None = None) -> Any:
        """Return images in [-1, 1], or masks of 0 and 1, as a tensor (n, channels, H, W)."""
        size = height, width
        if self._masks:
            return to_torch(prepare_masks(image, self._vae.factor, size))
        return to_torch(prepare_images(image, self._vae.factor, self._vae.latent_channels, size))

    def postprocess(self, image: object, output_type: str = "pil", **_: object) -> Any:
        """Return decoded images, from -1 to 1, as `pil`, `np`, `pt` or `latent` (unchanged)."""
        if output_type == "latent":
            return image
        pixels = to_host("image", image) * np.float32(0.5) + np.float32(0.5)
        return convert_images(np.clip(pixels, 0.0, 1.0), output_type)

    @staticmethod
    def blur(image: Image.Image, blur_factor: int = 4) -> Image.Image:
        """Return an image or a mask, blurred by a Gaussian of that radius in pixels."""
        return image.filter(ImageFilter.GaussianBlur(blur_factor))

    @staticmethod
    def apply_overlay(
        mask: Image.Image,
        init_image: Image.Image,
        image: Image.Image,
        crop_coords: tuple[int, int, int, int] | None = None,
    ) -> Image.Image:
        """Return `init_image` with `image` where the mask is white."""
        if crop_coords is None:
            return paste_kept(image, init_image, mask)
        return paste_crop(image, init_image, mask, Crop(crop_coords))
