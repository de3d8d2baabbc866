"""The pipelines by diffusers' names.

Those of SDXL differ from the others in their arguments.

Source: diffusers 0.42.1, `pipelines/stable_diffusion/pipeline_stable_diffusion*.py` and
`pipelines/stable_diffusion_xl/pipeline_stable_diffusion_xl*.py`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from ldmref.compat.diffusers import arguments as table
from ldmref.compat.diffusers.arrays import to_host
from ldmref.compat.diffusers.base import Pipeline
from ldmref.compat.diffusers.call import PipelineCall
from ldmref.compat.diffusers.generators import GeneratorNoise
from ldmref.compat.diffusers.images import (
    find_crop,
    paste_crop,
    prepare_images,
    prepare_masks,
    shrink_masks,
)
from ldmref.errors import ImageError, UsageError
from ldmref.models.model import LatentDiffusion
from ldmref.modes.channels import encode_array
from ldmref.modes.initial import InitialState, MaskedImage, Posterior

MASK_TENSORS = ("mask", "masked_image_latents")

XL_TENSORS = ("latents", "prompt_embeds", "add_text_embeds", "add_time_ids")


class StableDiffusionPipeline(Pipeline):
    """Generate images from prompts, as diffusers' pipeline of this name.

    Build one with `from_pretrained(folder)`; calling it generates images.

    Args:
        scheduler: A scheduler. None: the one of the model's folder.
        components: The parts of another pipeline: `**pipe.components`.

    Raises:
        UsageError: The components are not those of one pipeline, or belong to another kind of
            model.

    >>> from ldmref.compat.diffusers import Generator, StableDiffusionPipeline
    >>> pipe = StableDiffusionPipeline.from_pretrained("emoji")
    >>> generator = Generator().manual_seed(7)
    >>> images = pipe("a red heart", num_inference_steps=2, generator=generator).images
    >>> images[0].size
    (128, 128)
    """

    parameters = table.TXT2IMG
    mode = "txt2img"

    def run(self, call: PipelineCall) -> Any:
        model, arguments, prompts, noise = call.parts
        height, width = self._size(model, arguments)
        latents = arguments.latents
        latents = None if latents is None else to_host("latents", latents)
        made = call.plan(height=height, width=width, latents=latents)
        if latents is None:
            latents = noise.randn((prompts.images, *model.latent_shape(width, height)))
        initial = InitialState(noise=latents)
        return call.decode(call.sample(made, initial))

    def _size(self, model: LatentDiffusion, arguments: SimpleNamespace) -> tuple[int, int]:
        """Return height and width; without one of them, diffusers uses neither."""
        defaults = model.config.defaults
        if not arguments.height or not arguments.width:
            return defaults.height, defaults.width
        return arguments.height, arguments.width


class StableDiffusionImg2ImgPipeline(Pipeline):
    """Change an image, as diffusers' pipeline of this name.

    Build one with `from_pretrained(folder)`; calling it generates images.

    Args:
        scheduler: A scheduler. None: the one of the model's folder.
        components: The parts of another pipeline: `**pipe.components`.

    Raises:
        UsageError: The components are not those of one pipeline, or belong to another kind of
            model.

    >>> from PIL import Image
    >>> from ldmref.compat.diffusers import Generator, StableDiffusionImg2ImgPipeline
    >>> pipe = StableDiffusionImg2ImgPipeline.from_pretrained("emoji")
    >>> generator = Generator().manual_seed(7)
    >>> images = pipe("a red heart", Image.new("RGB", (128, 128)), generator=generator).images
    >>> images[0].size
    (128, 128)
    """

    parameters = table.IMG2IMG
    mode = "img2img"

    def run(self, call: PipelineCall) -> Any:
        model, arguments, prompts, noise = call.parts
        require_strength(arguments)
        n = prompts.images
        vae = model.config.vae
        pixels = prepare_images(arguments.image, vae.factor, vae.latent_channels)
        encoded = pixels.shape[1] == vae.latent_channels
        factor = vae.factor if encoded else 1
        height, width = (side * factor for side in pixels.shape[2:])
        blank = Image.new("RGB", (width, height))
        made = call.plan(image=blank, strength=arguments.strength)
        if noise.is_list and not encoded:
            pixels = tile("image", pixels, n)
        latents = pixels if encoded else sample_latents(model, pixels, noise)
        latents = tile("image", latents, n)
        sampled = noise.randn(latents.shape)
        initial = InitialState(sampled, exactly(latents), from_noise=False)
        return call.decode(call.sample(made, initial))


class StableDiffusionInpaintPipeline(Pipeline):
    """Repaint the white part of a mask, as diffusers' pipeline of this name.

    Build one with `from_pretrained(folder)`; calling it generates images.

    Args:
        scheduler: A scheduler. None: the one of the model's folder.
        components: The parts of another pipeline: `**pipe.components`.

    Raises:
        UsageError: The components are not those of one pipeline, or belong to another kind of
            model.

    >>> from PIL import Image
    >>> image, mask = Image.new("RGB", (128, 128)), Image.new("L", (128, 128), 255)
    >>> from ldmref.compat.diffusers import Generator, StableDiffusionInpaintPipeline
    >>> pipe = StableDiffusionInpaintPipeline.from_pretrained("emoji")
    >>> generator = Generator().manual_seed(7)
    >>> images = pipe("a red heart", image, mask, num_inference_steps=2, generator=generator).images
    >>> images[0].size
    (128, 128)
    """

    parameters = table.INPAINT
    mode = "inpaint"
    tensor_inputs = (*Pipeline.tensor_inputs, *MASK_TENSORS)

    def run(self, call: PipelineCall) -> Any:
        model, arguments, _, _ = call.parts
        require_strength(arguments)
        defaults = model.config.defaults
        height = arguments.height or defaults.height
        width = arguments.width or defaults.width
        blank = Image.new("RGB", (width, height))
        white = Image.new("L", (width, height), 255)
        made = call.plan(
            image=blank,
            mask=white,
            strength=arguments.strength,
            only_masked=False,
        )
        crop = None
        if arguments.padding_mask_crop is not None:
            require_pillow(arguments)
            crop = find_crop(arguments.mask_image, width, height, arguments.padding_mask_crop)
        vae = model.config.vae
        size = height, width
        pixels = prepare_images(arguments.image, vae.factor, vae.latent_channels, size, crop)
        if pixels.shape[1] != 3:
            raise ImageError("image must be an image, not latents", code="E-IMAGE")
        masks = prepare_masks(arguments.mask_image, vae.factor, size, crop)
        initial, masked = make_initial(call, pixels, masks)
        repeat = 2 if self.do_classifier_free_guidance else 1
        shown = (masked.mask, masked.image.mean)
        tensors = {
            name: np.concatenate([array] * repeat)
            for name, array in zip(MASK_TENSORS, shown, strict=True)
        }
        latents = call.sample(made, initial, **tensors)
        images = call.decode(latents)
        if crop is None:
            return images
        return [paste_crop(i, arguments.image, arguments.mask_image, crop) for i in images]


def make_initial(
    call: PipelineCall, pixels: np.ndarray, masks: np.ndarray
) -> tuple[InitialState, MaskedImage]:
    """Return the initial state of inpainting, and the mask with the latents of the masked image.

    All noise is sampled in diffusers' order.
    """
    model, arguments, prompts, noise = call.parts
    n = prompts.images
    has_channels = bool(model.config.image_channels)
    whole = arguments.strength == 1.0
    c, h, w = model.latent_shape(pixels.shape[3], pixels.shape[2])
    known = None
    if not has_channels or (arguments.latents is None and not whole):
        known = tile("image", sample_latents(model, pixels, noise), n)
    if arguments.latents is None:
        start = noise.randn((n, c, h, w))
    else:
        start = to_host("latents", arguments.latents)
        if start.shape != (n, c, h, w):
            message = f"latents have shape {start.shape}, this call needs {(n, c, h, w)}"
            raise UsageError(message, code="E-LATENTS")
    hidden = sample_latents(model, pixels * (masks < 0.5), noise)
    small = tile("mask_image", shrink_masks(masks, h, w), n)
    from_noise = whole or arguments.latents is not None
    masked = MaskedImage(small, exactly(tile("image", hidden, n)))
    image = None if known is None else exactly(known)
    keep = None if has_channels else 1.0 - small
    channels = masked if has_channels else None
    return InitialState(start, image, from_noise, keep=keep, channels=channels), masked


def sample_latents(model: LatentDiffusion, pixels: np.ndarray, noise: GeneratorNoise) -> np.ndarray:
    """Return a sample of the posterior of each image, (n, c, h, w)."""
    found = encode_array(model, pixels)
    return found.mean + found.std * noise.randn(found.mean.shape)


def exactly(latents: np.ndarray) -> Posterior:
    """Return the distribution of latents that are known."""
    return Posterior(latents, np.zeros_like(latents))


def tile(name: str, rows: np.ndarray, n: int) -> np.ndarray:
    """Repeat a whole batch until it has n rows.

    Raises:
        ImageError: n is not a multiple of the rows.
    """
    if len(rows) > n or n % len(rows):
        raise ImageError(f"{len(rows)} images in {name} for {n} results", code="E-IMAGE")
    return np.concatenate([rows] * (n // len(rows)))


def require_strength(arguments: SimpleNamespace) -> None:
    """Refuse a strength outside of its range, or one that leaves no step."""
    if not 0 <= arguments.strength <= 1:
        message = f"strength must be from 0 to 1, not {arguments.strength}"
        raise UsageError(message, code="E-STRENGTH")
    steps = arguments.num_inference_steps
    if isinstance(steps, int) and steps > 0 and int(steps * arguments.strength) < 1:
        message = f"strength {arguments.strength} of {steps} steps is less than one step"
        raise UsageError(message, code="E-STRENGTH", hint=f"give at least {1 / steps:.3g}")


def require_pillow(arguments: SimpleNamespace) -> None:
    """Refuse arrays with `padding_mask_crop`, which crops Pillow images."""
    for name in ("image", "mask_image"):
        if not isinstance(getattr(arguments, name), Image.Image):
            message = f"with padding_mask_crop, {name} must be a Pillow image"
            raise ImageError(message, code="E-IMAGE")
    if arguments.output_type != "pil":
        message = (
            f"with padding_mask_crop, output_type must be 'pil', not {arguments.output_type!r}"
        )
        raise UsageError(message, code="E-USAGE")


class StableDiffusionXLPipeline(StableDiffusionPipeline):
    """Generate images from prompts with SDXL, as diffusers' pipeline of this name.

    Build one with `from_pretrained(folder)`; calling it generates images.

    Args:
        scheduler: A scheduler. None: the one of the model's folder.
        components: The parts of another pipeline: `**pipe.components`.

    Raises:
        UsageError: The components are not those of one pipeline, or belong to another kind of
            model.

    >>> from ldmref.compat.diffusers import StableDiffusionXLPipeline
    >>> pipe = StableDiffusionXLPipeline.from_pretrained("sdxl")  # doctest: +SKIP
    >>> pipe("a house").images[0].size  # doctest: +SKIP
    (1024, 1024)
    """

    parameters = table.XL_TXT2IMG
    xl = True
    tensor_inputs = XL_TENSORS

    def _size(self, model: LatentDiffusion, arguments: SimpleNamespace) -> tuple[int, int]:
        """Return height and width."""
        defaults = model.config.defaults
        return arguments.height or defaults.height, arguments.width or defaults.width


class StableDiffusionXLImg2ImgPipeline(StableDiffusionImg2ImgPipeline):
    """Change an image with SDXL, as diffusers' pipeline of this name.

    Build one with `from_pretrained(folder)`; calling it generates images.

    Args:
        scheduler: A scheduler. None: the one of the model's folder.
        components: The parts of another pipeline: `**pipe.components`.

    Raises:
        UsageError: The components are not those of one pipeline, or belong to another kind of
            model.

    >>> from ldmref.compat.diffusers import StableDiffusionXLImg2ImgPipeline
    >>> pipe = StableDiffusionXLImg2ImgPipeline.from_pretrained("sdxl")  # doctest: +SKIP
    >>> pipe("a house", image=image).images[0].size  # doctest: +SKIP
    (1024, 1024)
    """

    parameters = table.XL_IMG2IMG
    xl = True
    tensor_inputs = XL_TENSORS


class StableDiffusionXLInpaintPipeline(StableDiffusionInpaintPipeline):
    """Repaint the white part of a mask with SDXL, as diffusers' pipeline of this name.

    Build one with `from_pretrained(folder)`; calling it generates images.

    Args:
        scheduler: A scheduler. None: the one of the model's folder.
        components: The parts of another pipeline: `**pipe.components`.

    Raises:
        UsageError: The components are not those of one pipeline, or belong to another kind of
            model.

    >>> from ldmref.compat.diffusers import StableDiffusionXLInpaintPipeline
    >>> pipe = StableDiffusionXLInpaintPipeline.from_pretrained("sdxl")  # doctest: +SKIP
    >>> pipe("a house", image=image, mask_image=mask).images[0].size  # doctest: +SKIP
    (1024, 1024)
    """

    parameters = table.XL_INPAINT
    xl = True
    tensor_inputs = (*XL_TENSORS, *MASK_TENSORS)
