"""Repaint the white part of a mask, keep the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Unpack

from PIL import Image

from ldmref.errors import UsageError
from ldmref.io.images.pil import image_warnings, read_image, read_mask
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes import masks
from ldmref.modes.channels import encode_array, encode_image, masked_value
from ldmref.modes.control import control_region
from ldmref.modes.draw import Callback, CancelFlag
from ldmref.modes.parameters import (
    ImageInput,
    InpaintParameters,
    Mask,
    MaskBlur,
    Prompt,
    Strength,
)
from ldmref.modes.plan import Plan, plan
from ldmref.modes.registry import mode
from ldmref.modes.request import Request, resolve
from ldmref.modes.result import Result
from ldmref.modes.sizing import require_exact
from ldmref.modes.start import MaskedImage, Posterior, Start


def plan_inpaint(config: ModelConfig, values: dict[str, Any]) -> Plan:
    original = read_image(values["image"])
    only_masked, warnings = masked_region_alone(config, original.size, values["only_masked"])
    size = size_to_draw(config, original, only_masked, values["width"], values["height"])
    sized = {"width": size[0], "height": size[1], "only_masked": only_masked}
    sized |= {} if only_masked else {"padding": None}
    request = resolve(config, "inpaint", values | sized)
    mask_image = read_mask(values["mask"])
    mask = masks.sized_mask(mask_image, original, values["mask_blur"], values["mask_invert"])
    warnings += image_warnings("the image", original)
    warnings += image_warnings("the mask", mask_image)
    image = original
    small_mask = mask
    box = None
    if only_masked:
        box = masks.region_of(mask, values["padding"], size)
        image, small_mask = masks.crop_region(original, mask, box, size)
        regions = [control_region(c, original.size, box, size) for c in request.control]
        request = replace(request, control=tuple(control for control, _ in regions))
        warnings += [warning for _, warning in regions if warning]
    if small_mask.getextrema()[1] == 0:
        warnings.append("the mask is all black: nothing to repaint")
    elif masks.vanishes(small_mask, config.vae.factor, request.rng, bool(config.image_channels)):
        warnings.append(
            f"the white part falls between the latent cells of {config.vae.factor} "
            "pixels, and is not repainted"
        )
    if values["fill"] != "original" and request.first_step == 0:
        fill = values["fill"]
        warnings.append(f"fill={fill} changes nothing at strength 1, which starts from noise")

    def finish(image: Image.Image) -> Image.Image:
        painted = mask if request.strength else mask.point(lambda value: 0)
        if box is None:
            return masks.paste(image, original, painted)
        return masks.paste_region(image, original, painted, box)

    def start(model: LatentDiffusion) -> Start:
        return inpaint_start(model, request, image, small_mask, values["fill"], finish)

    return Plan(request, start, warnings=tuple(warnings))


def inpaint_start(
    model: LatentDiffusion,
    request: Request,
    image: Image.Image,
    mask: Image.Image,
    fill: str,
    finish: Any,
) -> Start:
    """Latents, kept cells and input channels of an image and its mask, both at the drawn size."""
    config = model.config
    factor = model.config.vae.factor
    known = encode_image(model, image)
    channels = None
    kept = None
    noise_fill = None
    keep = masks.kept_latents(mask, factor, nearest=request.rng == "torch")
    if config.image_channels:  # the U-Net sees what to keep, and needs no constraint
        hidden = masks.masked_image(image, mask, masked_value(config))
        channels = MaskedImage(masks.latent_mask(mask, factor), encode_array(model, hidden))
    elif mask.getextrema()[0] == 0:
        kept = keep
    if fill == "noise":
        noise_fill = 1.0 - keep
    elif fill != "original":
        content: Posterior | None = None
        if fill == "fill":
            content = encode_image(model, masks.fill_surroundings(image, mask))
        known = masks.fill_latents(known, 1.0 - keep, content)
    return Start(
        request.latents, known, request.first_step == 0, noise_fill, kept, channels, finish=finish
    )


def masked_region_alone(
    config: ModelConfig, size: tuple[int, int], asked: bool | None
) -> tuple[bool, list[str]]:
    """Whether the region around the mask is generated alone, and a warning if it is so unasked.

    Models of one size make nothing but texture of an image that is far from it.
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


def size_to_draw(
    config: ModelConfig,
    image: Image.Image,
    only_masked: bool,
    width: int | None,
    height: int | None,
) -> tuple[int, int]:
    """The size at which the networks generate.

    Raises:
        ImageError: the image has a size that the model cannot take.
        UsageError: a size is given, but the full image is generated.
    """
    if only_masked:
        return width or config.defaults.width, height or config.defaults.height
    require_exact(config, image)
    if (width or image.width, height or image.height) != image.size:
        raise UsageError(
            "inpaint draws at the image's own size",
            code="E-SIZE",
            hint="leave width and height away, or repaint with only_masked",
        )
    return image.size


@mode(plan_inpaint)
def inpaint(
    model: LatentDiffusion,
    prompt: Prompt,
    image: ImageInput,
    mask: Mask,
    strength: Strength = 1.0,
    mask_blur: MaskBlur = 0,
    *,
    callback: Callback | None = None,
    cancel: CancelFlag | None = None,
    **parameters: Unpack[InpaintParameters],
) -> Result:
    """Redraw the white part of `mask`; black pixels come back bit for bit.

    After every step the latents outside the mask are replaced by the known ones at the new noise
    level, with one fixed noise (Lugmayr et al. 2022, arXiv:2201.09865, eq. 8; with `resample` also
    its algorithm 1).
    They are the mean of the image's posterior, or, with `rng="torch"`, a sample, as in diffusers.
    A latent cell is outside if none of its pixels is white, or, with `rng="torch"`, if its first
    pixel is black, as in diffusers, which leaves white pixels along the mask's edge as they were.

    The image has a size that the model can take, both sides multiples of the autoencoder's
    factor; with `only_masked`, which models of one size do unless told otherwise if the image is
    far from it, any size. Strength 1 starts the white part from pure noise, less from
    the image.

    Raises:
        UsageError, ResourceError: an argument is wrong; nothing was computed.
        ImageError: image or mask cannot be read, have different sizes, or a size that the model
            cannot take (it is not resized: the kept pixels would not be yours).
        Cancelled, NumericError: see `ldmref.errors`.
    """
    checked = plan(
        "inpaint",
        model,
        prompt=prompt,
        image=image,
        mask=mask,
        strength=strength,
        mask_blur=mask_blur,
        **parameters,
    )
    return checked.run(model, callback, cancel)
