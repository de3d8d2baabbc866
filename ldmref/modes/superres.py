"""A larger image from a small one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ldmref.errors import ImageError
from ldmref.io.images.pil import image_warnings, read_image, to_array
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.initial import InitialState
from ldmref.modes.registry import Watched, mode
from ldmref.modes.requests import Superres
from ldmref.modes.resolve import resolve
from ldmref.modes.result import Result
from ldmref.modes.run import Plan


def plan_superres(config: ModelConfig, request: Superres) -> Plan:
    """Check a request; the small image is joined to the latents."""
    image = read_image(request.image)
    request = replace(request, image=image)
    factor = config.vae.factor
    multiple = config.size_multiple // factor
    if config.concat == "low_resolution" and any(side % multiple for side in image.size):
        raise ImageError(
            f"cannot enlarge an image of {image.width} x {image.height}: width and height "
            f"must be multiples of {multiple}",
            code="E-SIZE",
            hint="cut or resize it first",
        )
    width = factor * image.width
    height = factor * image.height
    job = resolve(config, "superres", request, width=width, height=height)
    initial = InitialState(job.latents, channels=to_array([image]))
    warnings = image_warnings("the image", image)
    return Plan(request, job, lambda model: initial, warnings=tuple(warnings))


@dataclass(frozen=True, eq=False, repr=False)
class SuperresArguments(Watched, Superres):
    """The arguments of `superres` after the model."""


@mode(plan_superres, SuperresArguments)
def superres(model: LatentDiffusion, request: Superres, watched: Watched) -> Result:
    """Enlarge an image by `model.config.vae.factor`, in width and in height.

    The small image has the size of the latents and is joined to them (Rombach et al. 2022,
    arXiv:2112.10752, section 4.4). The model has `concat` "low_resolution", such as the preset
    `ldm-superres`; the image is not resized.

    Returns:
        A `Result`: the images (RGB), their latents (n, c, h, w) float32 and seeds, the resolved
        parameters, and warnings.

    Raises:
        UsageError, ResourceError: An argument is wrong; nothing was computed.
        ImageError: The image cannot be read, or has a size that the model cannot take.
        Cancelled, NumericError: See `ldmref.errors`.

    Example:
        >>> import numpy as np
        >>> from ldmref.models import PRESETS
        >>> from ldmref.modes import plan
        >>> small = np.zeros((64, 64, 3), np.uint8)
        >>> params = plan("superres", PRESETS["ldm-superres"], image=small).params
        >>> params["width"], params["height"]
        (256, 256)
        >>> superres(model, "small.png", seed=7)[0].save("large.png")  # doctest: +SKIP
    """
    return plan_superres(model.config, request).run(model, watched.callback, watched.cancel)
