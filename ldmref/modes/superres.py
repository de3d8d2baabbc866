"""A larger picture from a small one."""

from __future__ import annotations

from typing import Any, Unpack

from ldmref.errors import ImageError
from ldmref.io.pictures.images import picture_warnings, read_image, to_array
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.draw import Callback, CancelFlag
from ldmref.modes.parameters import Picture, SuperresParameters
from ldmref.modes.plan import Plan, plan
from ldmref.modes.registry import mode
from ldmref.modes.request import resolve
from ldmref.modes.result import Result
from ldmref.modes.start import Start


def plan_superres(config: ModelConfig, values: dict[str, Any]) -> Plan:
    picture, factor = read_image(values["image"]), config.vae.factor
    multiple = config.size_multiple // factor
    if config.concat == "low_resolution" and any(side % multiple for side in picture.size):
        raise ImageError(
            f"cannot enlarge a picture of {picture.width} x {picture.height}: width and height "
            f"must be multiples of {multiple}",
            code="E-SIZE",
            hint="cut or resize it first",
        )
    size = {"width": factor * picture.width, "height": factor * picture.height}
    request = resolve(config, "superres", values | size)
    start = Start(request.latents, channels=to_array([picture]))
    warnings = picture_warnings("the picture", picture)
    return Plan(request, lambda model: start, warnings=tuple(warnings))


@mode(plan_superres)
def superres(
    model: LatentDiffusion,
    image: Picture,
    *,
    callback: Callback | None = None,
    cancel: CancelFlag | None = None,
    **parameters: Unpack[SuperresParameters],
) -> Result:
    """Draw a picture that is `model.config.vae.factor` times as wide and high as `image`.

    The small picture has the size of the latents and is joined to them (Rombach et al. 2022,
    arXiv:2112.10752, section 4.4). The model has `concat` "low_resolution", such as the preset
    `ldm-superres`; the picture is not resized.

    Raises:
        UsageError, ResourceError: an argument is wrong; nothing was computed.
        ImageError: the picture cannot be read, or has a size that the model cannot take.
        Cancelled, NumericError: see `ldmref.errors`.
    """
    return plan("superres", model, image=image, **parameters).run(model, callback, cancel)
