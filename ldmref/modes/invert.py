"""From an image to its noise, to generate it again with another prompt."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.channels import encode_image
from ldmref.modes.initial import InitialState
from ldmref.modes.inversion import Inversion, InversionPlan
from ldmref.modes.registry import Watched, mode
from ldmref.modes.requests import Invert
from ldmref.modes.resolve import resolve
from ldmref.modes.sizing import size_image


def plan_invert(config: ModelConfig, request: Invert) -> InversionPlan:
    """Check a request; the job is that of the image from its noise."""
    image, resize, warnings = size_image(
        config, request.image, request.width, request.height, request.resize
    )
    cfg_scale = 1.0 if request.cfg_scale is None else request.cfg_scale
    size = {"width": image.width, "height": image.height, "resize": resize}
    request = replace(request, image=image, cfg_scale=cfg_scale, **size)
    job = resolve(config, "invert", request, sampler="ddim", eta=0.0, seed=0)
    calls = (job.steps - job.first_step) * (1 + request.iterations)

    def start(model: LatentDiffusion) -> InitialState:
        return InitialState(image=encode_image(model, image))

    return InversionPlan(request, job, start, warnings=tuple(warnings), calls=calls, image=image)


@dataclass(frozen=True, eq=False, repr=False)
class InvertArguments(Watched, Invert):
    """The arguments of `invert` after the model."""


@mode(plan_invert, InvertArguments)
def invert(model: LatentDiffusion, request: Invert, watched: Watched) -> Inversion:
    """Find the noise from which DDIM generates an image; the prompt describes the image.

    `txt2img` from this noise with the same prompt returns the image, except for the losses of the
    autoencoder and the error of the inversion. With another prompt it returns the image as that
    prompt describes it, as far as the noise holds the layout (Hertz et al. 2022, arXiv:2208.01626,
    section 4, without its attention maps). The empty prompt also works, but edits less well.

    `cfg_scale` is 1 by default, since inversion is most exact without guidance (Mokady et al. 2022,
    arXiv:2211.09794, section 3). Edit with more: `settings | {"cfg_scale": 3.0}`.

    Returns:
        An `Inversion`: the noise, (1, c, h, w) float32, and the settings with which `txt2img`
        generates the image from it.

    Raises:
        UsageError, ResourceError, ImageError: An argument or the image is wrong; nothing was
            computed.
        Cancelled, NumericError: See `ldmref.errors`.

    Example:
        >>> import ldmref
        >>> from PIL import Image
        >>> photo = Image.new("RGB", (16, 16), "teal")
        >>> model = ldmref.random_model("tiny")
        >>> inversion = invert(model, "a teal square", photo, steps=2)
        >>> inversion.latents.shape
        (1, 4, 8, 8)
        >>> edited = ldmref.modes.txt2img(
        ...     model, "a red heart", latents=inversion.latents, **inversion.settings
        ... )
    """
    return plan_invert(model.config, request).run(model, watched.callback, watched.cancel)
