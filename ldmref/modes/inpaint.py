"""Repaint the white part of a mask, and keep the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from PIL import Image

from ldmref.errors import UsageError
from ldmref.io.images.pil import image_warnings, read_image, read_mask
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes import masks
from ldmref.modes.channels import encode_array, encode_image, mask_channels, masked_pixel
from ldmref.modes.control import crop_control, fills_mask, give_masked_image
from ldmref.modes.initial import InitialState, MaskedImage, Posterior
from ldmref.modes.job import Job
from ldmref.modes.levels import begins_with_noise
from ldmref.modes.registry import Watched, mode
from ldmref.modes.requests import Inpaint
from ldmref.modes.resolve import resolve
from ldmref.modes.result import Result
from ldmref.modes.run import Plan
from ldmref.modes.sizing import require_exact
from ldmref.samplers.noise import follows_diffusers


def plan_inpaint(config: ModelConfig, request: Inpaint) -> Plan:
    """Check a request; the latents of the kept part are put back after every step."""
    whole = read_image(request.image)
    only_masked, warnings = decide_only_masked(config, whole.size, request.only_masked)
    size = choose_size(config, whole, only_masked, request.width, request.height)
    request = replace(request, width=size[0], height=size[1], only_masked=only_masked)
    job = resolve(config, "inpaint", request, strength=request.strength, resample=request.resample)
    mask_image = read_mask(request.mask)
    request = replace(request, image=whole, mask=mask_image)
    mask = masks.size_mask(mask_image, whole, request.mask_blur, request.mask_invert)
    warnings += image_warnings("the image", whole)
    warnings += masks.mask_warnings(mask_image, whole)
    image = whole
    small_mask = mask
    box = None
    if only_masked:
        box = masks.find_region(mask, request.padding, size)
        if box == (0, 0, *size) and whole.size == size:
            warnings.append("only_masked changes nothing: its region is the whole image")
        image, small_mask = masks.crop_region(whole, mask, box, size)
        regions = [crop_control(control, whole.size, box, size) for control in job.control]
        job = replace(job, control=tuple(control for control, _ in regions))
        if job.control_input is not None:
            region = job.control_input.crop(whole.size, box, size)
            job = replace(job, control_input=region)
        warnings += [warning for _, warning in regions if warning]
    filling = any(fills_mask(control, config.denoiser) for control in job.control)
    masked = [give_masked_image(control, image, small_mask) for control in job.control]
    job = replace(job, control=tuple(masked))
    if small_mask.getextrema()[1] == 0:
        warnings.append("the mask is all black: nothing to repaint")
    elif config.concat != "folded_mask" and masks.vanishes(
        small_mask, config.vae.factor, job.rng, reads_mask(config)
    ):
        warnings.append(
            f"the white part falls between the latent cells of {config.vae.factor} "
            "pixels, and is not repainted"
        )
    if request.fill != "original" and begins_with_noise(config, job):
        warnings.append(
            f"fill={request.fill} changes nothing at strength 1, which starts from noise"
        )

    def finish(image: Image.Image) -> Image.Image:
        painted = mask if job.strength else mask.point(lambda value: 0)
        if box is None:
            return masks.paste(image, whole, painted)
        return masks.paste_region(image, whole, painted, box)

    def start(model: LatentDiffusion) -> InitialState:
        initial = make_initial(model, job, image, small_mask, request.fill, finish, filling)
        return replace(initial, show=masks.PreviewPaste(whole, mask, box))

    recorded = {} if only_masked else {"padding": None}
    return Plan(request, job, start, recorded, tuple(warnings))


def make_initial(
    model: LatentDiffusion,
    job: Job,
    image: Image.Image,
    mask: Image.Image,
    fill: str,
    finish: Callable[[Image.Image], Image.Image],
    filling: bool = False,
) -> InitialState:
    """Return latents, kept cells and input channels of an image and its mask, at the job's size.

    With `filling`, a ControlNet reads the mask, and nothing is put back after a step. Started from
    pure noise, such a run does not use the latents of the image.
    """
    config = model.config
    from_noise = begins_with_noise(config, job)
    if filling and from_noise and not reads_mask(config):
        return InitialState(job.latents, finish=finish)
    factor = config.vae.factor
    known = encode_image(model, image)
    channels = None
    kept = None
    noise_fill = None
    keep = masks.find_kept_cells(mask, factor, nearest=follows_diffusers(job.rng))
    if reads_mask(config):  # the denoiser sees what to keep, and needs no constraint
        hidden = masks.cut_hole(image, mask, masked_pixel(config))
        folded = config.concat == "folded_mask"  # Flux.1's
        channels = MaskedImage(mask_channels(config, mask), encode_array(model, hidden), folded)
    elif mask.getextrema()[0] == 0 and not filling:
        kept = keep
    if fill == "noise":
        noise_fill = 1.0 - keep
    elif fill != "original":
        content: Posterior | None = None
        if fill == "fill":
            content = encode_image(model, masks.fill_surroundings(image, mask))
        known = masks.fill_latents(known, 1.0 - keep, content)
    return InitialState(job.latents, known, from_noise, noise_fill, kept, channels, finish=finish)


def reads_mask(config: ModelConfig) -> bool:
    """Return whether the denoiser reads the mask and the masked image."""
    return bool(config.image_channels) and config.concat != "control"


def decide_only_masked(
    config: ModelConfig, size: tuple[int, int], asked: bool | None
) -> tuple[bool, list[str]]:
    """Return whether to generate only the region around the mask, and a warning if not asked to.

    Models of one size generate mere texture for an image of a very different size.
    """
    if asked is not None:
        return asked, []
    defaults = config.defaults
    if not defaults.one_size or defaults.is_near(*size):
        return False, []
    trained = f"{defaults.width} x {defaults.height}"
    return True, [
        f"the image is {size[0]} x {size[1]}, and this model generates {trained}: only the region "
        "around the mask is generated, at that size; only_masked=False generates the whole"
    ]


def choose_size(
    config: ModelConfig,
    image: Image.Image,
    only_masked: bool,
    width: int | None,
    height: int | None,
) -> tuple[int, int]:
    """Return the size at which the networks generate.

    Raises:
        ImageError: The image has a size that the model cannot take.
        UsageError: A size is given, but the whole image is generated.
    """
    if only_masked:
        return width or config.defaults.width, height or config.defaults.height
    require_exact(config, image)
    if (width or image.width, height or image.height) != image.size:
        raise UsageError(
            "inpaint generates at the image's own size",
            code="E-SIZE",
            hint="leave width and height out, or use only_masked",
        )
    return image.size


@dataclass(frozen=True, eq=False, repr=False)
class InpaintArguments(Watched, Inpaint):
    """The arguments of `inpaint` after the model."""


@mode(plan_inpaint, InpaintArguments)
def inpaint(model: LatentDiffusion, request: Inpaint, watched: Watched) -> Result:
    """Repaint the white part of a mask; black pixels are returned bit for bit.

    After every step, the latents outside the mask are replaced by the known ones at the new noise
    level, with one fixed noise (Lugmayr et al. 2022, arXiv:2201.09865, eq. 8; with `resample` also
    its algorithm 1). The known latents are the mean of the image's posterior, or, with
    `rng="torch"`, a sample of it, as in diffusers. A latent cell is outside the mask if none of its
    pixels is white. With `rng="torch"` its first pixel decides, as in diffusers, which leaves white
    pixels along the edge of the mask as they were.

    The luminance of the mask is cut at one half, and a transparent pixel is kept
    (`ldmref.io.read_mask`). A mask of another size is stretched to the image's, with a warning.

    Both sides of the image must be multiples of the autoencoder's factor. With `only_masked` the
    image may have any size; this is the default for models of one size if the image has a very
    different one. At strength 1 the white part starts from pure noise, below that from the image.

    Returns:
        A `Result`: the images (RGB), their latents (n, c, h, w) float32 and seeds, the resolved
        parameters, and warnings.

    Raises:
        UsageError, ResourceError: An argument is wrong; nothing was computed.
        ImageError: Image or mask cannot be read, or the image has a size that the model cannot
            take. The image is not resized, since that would change the kept pixels.
        Cancelled, NumericError: See `ldmref.errors`.

    Example:
        >>> import ldmref
        >>> import numpy as np
        >>> from PIL import Image
        >>> photo = Image.new("RGB", (16, 16), "teal")
        >>> mask = np.zeros((16, 16), bool)
        >>> mask[4:12, 4:12] = True
        >>> model = ldmref.random_model("tiny")
        >>> result = inpaint(model, "a red heart", photo, mask, steps=2, seed=7)
        >>> result[0].getpixel((0, 0)) == photo.getpixel((0, 0))
        True
    """
    return plan_inpaint(model.config, request).run(model, watched.callback, watched.cancel)
