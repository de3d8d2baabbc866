"""A larger image from a small one."""

from __future__ import annotations

from typing import Any, Unpack

from ldmref.errors import ImageError
from ldmref.io.images.pil import image_warnings, read_image, to_array
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.draw import Callback, CancelFlag
from ldmref.modes.parameters import ImageInput, SuperresParameters
from ldmref.modes.plan import Plan, plan
from ldmref.modes.registry import mode
from ldmref.modes.request import resolve
from ldmref.modes.result import Result
from ldmref.modes.start import Start


def plan_superres(config: ModelConfig, values: dict[str, Any]) -> Plan:
    image = read_image(values["image"])
    factor = config.vae.factor
    multiple = config.size_multiple // factor
    if config.concat == "low_resolution" and any(side % multiple for side in image.size):
        raise ImageError(
            f"cannot enlarge an image of {image.width} x {image.height}: width and height "
            f"must be multiples of {multiple}",
            code="E-SIZE",
            hint="cut or resize it first",
        )
    size = {"width": factor * image.width, "height": factor * image.height}
    request = resolve(config, "superres", values | size)
    start = Start(request.latents, channels=to_array([image]))
    warnings = image_warnings("the image", image)
    return Plan(request, lambda model: start, warnings=tuple(warnings))


@mode(plan_superres)
def superres(
    model: LatentDiffusion,
    image: ImageInput,
    *,
    callback: Callback | None = None,
    cancel: CancelFlag | None = None,
    **parameters: Unpack[SuperresParameters],
) -> Result:
    """Draw an image that is `model.config.vae.factor` times as wide and high as `image`.

    The small image has the size of the latents and is joined to them (Rombach et al. 2022,
    arXiv:2112.10752, section 4.4). The model has `concat` "low_resolution", such as the preset
    `ldm-superres`; the image is not resized.

    Raises:
        UsageError, ResourceError: an argument is wrong; nothing was computed.
        ImageError: the image cannot be read, or has a size that the model cannot take.
        Cancelled, NumericError: see `ldmref.errors`.
    """
    return plan("superres", model, image=image, **parameters).run(model, callback, cancel)
