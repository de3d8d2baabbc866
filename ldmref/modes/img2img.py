"""Image and text to image."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.channels import encode_image
from ldmref.modes.initial import InitialState
from ldmref.modes.levels import begins_with_noise
from ldmref.modes.registry import Watched, mode
from ldmref.modes.requests import Img2Img
from ldmref.modes.resolve import resolve
from ldmref.modes.result import Result
from ldmref.modes.run import Plan
from ldmref.modes.sizing import size_image
from ldmref.samplers.noise import follows_diffusers


def plan_img2img(config: ModelConfig, request: Img2Img) -> Plan:
    """Check a request; the initial state is the image with noise."""
    image, resize, warnings = size_image(
        config, request.image, request.width, request.height, request.resize
    )
    request = replace(request, image=image, width=image.width, height=image.height, resize=resize)
    job = resolve(config, "img2img", request, strength=request.strength)
    # diffusers also starts from the noised image at strength 1
    from_noise = begins_with_noise(config, job) and not follows_diffusers(job.rng)

    def start(model: LatentDiffusion) -> InitialState:
        finish = (lambda _: image.copy()) if job.strength == 0 else None
        known = encode_image(model, image)
        return InitialState(job.latents, known, from_noise, finish=finish)

    return Plan(request, job, start, warnings=tuple(warnings))


@dataclass(frozen=True, eq=False, repr=False)
class Img2ImgArguments(Watched, Img2Img):
    """The arguments of `img2img` after the model."""


@mode(plan_img2img, Img2ImgArguments)
def img2img(model: LatentDiffusion, request: Img2Img, watched: Watched) -> Result:
    """Change an image towards a prompt.

    The image is encoded, noised to the sigma at index n - int(n strength) of the schedule, and
    denoised from there (Meng et al. 2021, arXiv:2108.01073). A flow map takes all n steps, whose
    timesteps are multiplied by the strength. With `sigmas` that begin below the model's largest
    level, a run begins with the image at any strength. The image is encoded to the mean of its
    posterior, or with `rng="torch"` to a sample of it. As in diffusers, the image then still shows
    through at strength 1.

    Without width and height, the image keeps its size: each side is rounded down to a multiple of
    the autoencoder's factor, and the image is stretched to that, as in diffusers. Images smaller
    than the factor, or with more than 16 times the area on which the model was trained, get the
    model's own size. So do images of very different sizes with models that know one size, such as
    the embedded model. `warnings` mention every change of the size.

    Returns:
        A `Result`: the images (RGB), their latents (n, c, h, w) float32 and seeds, the resolved
        parameters, and warnings.

    Raises:
        UsageError, ResourceError, ImageError: An argument or the image is wrong; nothing was
            computed.
        Cancelled, NumericError: See `ldmref.errors`.

    Example:
        >>> import ldmref
        >>> from PIL import Image
        >>> photo = Image.new("RGB", (16, 16), "teal")
        >>> model = ldmref.random_model("tiny")
        >>> img2img(model, "a red heart", photo, strength=0.5, steps=2, seed=7)
        <Result of img2img: 1 image of 16 x 16, seed 7>
    """
    return plan_img2img(model.config, request).run(model, watched.callback, watched.cancel)
