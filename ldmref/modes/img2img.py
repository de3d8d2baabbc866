"""Picture and text to picture."""

from __future__ import annotations

from typing import Any, Unpack

from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.channels import encode_picture
from ldmref.modes.draw import Callback, CancelFlag
from ldmref.modes.parameters import Img2ImgParameters, Picture, Prompt, Strength
from ldmref.modes.plan import Plan, plan
from ldmref.modes.registry import mode
from ldmref.modes.request import resolve
from ldmref.modes.result import Result
from ldmref.modes.sizing import sized_picture
from ldmref.modes.start import Start


def plan_img2img(config: ModelConfig, values: dict[str, Any]) -> Plan:
    size = values["width"], values["height"]
    picture, resize, warnings = sized_picture(config, values["image"], *size, values["resize"])
    sized = {"width": picture.width, "height": picture.height, "resize": resize}
    request = resolve(config, "img2img", values | sized)
    # diffusers starts from the noised picture at strength 1, too
    from_noise = request.first_step == 0 and request.rng != "torch"

    def start(model: LatentDiffusion) -> Start:
        finish = (lambda image: picture.copy()) if request.strength == 0 else None
        image = encode_picture(model, picture)
        return Start(request.latents, image, from_noise, finish=finish)

    return Plan(request, start, warnings=tuple(warnings))


@mode(plan_img2img)
def img2img(
    model: LatentDiffusion,
    prompt: Prompt,
    image: Picture,
    strength: Strength = 0.75,
    *,
    callback: Callback | None = None,
    cancel: CancelFlag | None = None,
    **parameters: Unpack[Img2ImgParameters],
) -> Result:
    """Redraw a picture towards a prompt.

    The picture is encoded, noised to the sigma at index n - int(n strength) of the schedule, and
    denoised from there (Meng et al. 2021, arXiv:2108.01073). It is encoded to the mean of its
    posterior; with `rng="torch"` to a sample of it, as in diffusers, and at strength 1 it then
    still shows through.

    Without width and height it keeps its size, each side rounded down to a multiple of the
    autoencoder's factor, and is stretched to it, as in diffusers; pictures smaller than that, or of
    more than 16 times the area on which the model was trained, get the model's own size, and with
    models that know one size, such as the embedded one, pictures of any size far from it.
    `warnings` mention all.

    Raises:
        UsageError, ResourceError, ImageError: an argument or the picture is wrong; nothing was
            computed.
        Cancelled, NumericError: see `ldmref.errors`.
    """
    checked = plan("img2img", model, prompt=prompt, image=image, strength=strength, **parameters)
    return checked.run(model, callback, cancel)
