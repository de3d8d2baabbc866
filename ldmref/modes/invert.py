"""From an image to the noise that gives it, to generate it again with another prompt."""

from __future__ import annotations

from typing import Any, Unpack

from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.draw import Callback, CancelFlag
from ldmref.modes.inversion import Inversion, InversionPlan
from ldmref.modes.parameters import ImageInput, InvertParameters, SinglePrompt
from ldmref.modes.plan import plan
from ldmref.modes.registry import mode
from ldmref.modes.request import resolve
from ldmref.modes.sizing import sized_image


def plan_invert(config: ModelConfig, values: dict[str, Any]) -> InversionPlan:
    size = values["width"], values["height"]
    image, resize, warnings = sized_image(config, values["image"], *size, values["resize"])
    cfg_scale = 1.0 if values["cfg_scale"] is None else values["cfg_scale"]
    decided = {
        "width": image.width,
        "height": image.height,
        "resize": resize,
        "cfg_scale": cfg_scale,
        "sampler": "ddim",
        "eta": 0.0,
        "seed": 0,
    }
    request = resolve(config, "invert", values | decided)
    return InversionPlan(request, image, tuple(warnings))


@mode(plan_invert)
def invert(
    model: LatentDiffusion,
    prompt: SinglePrompt,
    image: ImageInput,
    *,
    callback: Callback | None = None,
    cancel: CancelFlag | None = None,
    **parameters: Unpack[InvertParameters],
) -> Inversion:
    """Run DDIM upwards from an image to its noise; the prompt says what it shows.

    `txt2img` from these latents with the same prompt gives the image back, but for what the
    autoencoder loses and an error of the inversion; with another prompt it gives the image as it
    would be with those words, as far as the noise holds the layout (Hertz et al. 2022,
    arXiv:2208.01626, section 4, without its attention maps). The empty prompt works, and edits less
    well.

    `cfg_scale` is 1 by default: no guidance inverts well (Mokady et al. 2022, arXiv:2211.09794,
    section 3). Edit with more: `settings | {"cfg_scale": 3.0}`.

    Raises:
        UsageError, ResourceError, ImageError: an argument or the image is wrong; nothing was
            computed.
        Cancelled, NumericError: see `ldmref.errors`.
    """
    checked = plan("invert", model, prompt=prompt, image=image, **parameters)
    return checked.run(model, callback, cancel)
