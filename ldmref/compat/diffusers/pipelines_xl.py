"""The pipelines of SDXL by diffusers' names; they differ from the others in their arguments."""

from __future__ import annotations

from types import SimpleNamespace

from ldmref.compat.diffusers import arguments as table
from ldmref.compat.diffusers.pipelines import (
    MASK_TENSORS,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from ldmref.models.model import LatentDiffusion

XL_TENSORS = ("latents", "prompt_embeds", "add_text_embeds", "add_time_ids")


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
