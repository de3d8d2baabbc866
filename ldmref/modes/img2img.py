"""Image and text to image."""

from __future__ import annotations

from typing import Any, Unpack

from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.channels import encode_image
from ldmref.modes.draw import Callback, CancelFlag
from ldmref.modes.parameters import ImageInput, Img2ImgParameters, Prompt, Strength
from ldmref.modes.plan import Plan, plan
from ldmref.modes.registry import mode
from ldmref.modes.request import resolve
from ldmref.modes.result import Result
from ldmref.modes.sizing import sized_image
from ldmref.modes.start import Start


def plan_img2img(config: ModelConfig, values: dict[str, Any]) -> Plan:
    size = values["width"], values["height"]
    image, resize, warnings = sized_image(config, values["image"], *size, values["resize"])
    sized = {"width": image.width, "height": image.height, "resize": resize}
    request = resolve(config, "img2img", values | sized)
    # diffusers starts from the noised image at strength 1, too
    from_noise = request.first_step == 0 and request.rng != "torch"

    def start(model: LatentDiffusion) -> Start:
        finish = (lambda generated: image.copy()) if request.strength == 0 else None
        known = encode_image(model, image)
        return Start(request.latents, known, from_noise, finish=finish)

    return Plan(request, start, warnings=tuple(warnings))


@mode(plan_img2img)
def img2img(
    model: LatentDiffusion,
    prompt: Prompt,
    image: ImageInput,
    strength: Strength = 0.75,
    *,
    callback: Callback | None = None,
    cancel: CancelFlag | None = None,
    **parameters: Unpack[Img2ImgParameters],
) -> Result:
    """Redraw an image towards a prompt.

    The image is encoded, noised to the sigma at index n - int(n strength) of the schedule, and
    denoised from there (Meng et al. 2021, arXiv:2108.01073). It is encoded to the mean of its
    posterior; with `rng="torch"` to a sample of it, as in diffusers, and at strength 1 it then
    still shows through.

    Without width and height it keeps its size, each side rounded down to a multiple of the
    autoencoder's factor, and is stretched to it, as in diffusers; images smaller than that, or of
    more than 16 times the area on which the model was trained, get the model's own size, and with
    models that know one size, such as the embedded one, images of any size far from it.
    `warnings` mention all.

    Raises:
        UsageError, ResourceError, ImageError: an argument or the image is wrong; nothing was
            computed.
        Cancelled, NumericError: see `ldmref.errors`.
    """
    checked = plan("img2img", model, prompt=prompt, image=image, strength=strength, **parameters)
    return checked.run(model, callback, cancel)
