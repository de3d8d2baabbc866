"""From the body of A1111's txt2img or img2img to parameters of a mode.

Fields and their meaning: AUTOMATIC1111/stable-diffusion-webui 1.10, modules/api/models.py and
modules/processing.py. Steps, sampler, guidance and scheduler default to the model's settings
instead of A1111's, and `scheduler` "automatic" means the model's noise levels.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from ldmref.apps.a1111.levels import DISCARDING, levels_for
from ldmref.apps.a1111.names import RNGS
from ldmref.apps.a1111.prompts import read_clip_skip, reads_chunks, split_networks
from ldmref.apps.foreign import FILLS, RESIZES, ForeignValue, read_foreign
from ldmref.apps.server.a1111.controlnet import SCRIPT, ReadImage, Units, split_scripts
from ldmref.apps.server.a1111.fields import Fields
from ldmref.apps.server.a1111.names import Method, read_method
from ldmref.apps.server.a1111.second_pass import read_second_pass
from ldmref.apps.server.clients import choose_size
from ldmref.errors import UsageError, short_repr
from ldmref.io.images.pil import read_image as read_rgb
from ldmref.io.images.pil import read_mask
from ldmref.models.config import ModelConfig
from ldmref.modes.sizing import resize_image
from ldmref.modes.validation import MAX_COUNT, check_integer
from ldmref.samplers import SAMPLERS
from ldmref.samplers.path import FLOW

MASK_BLUR = 4.0  # A1111's default
STRENGTH = 0.75
MAX_SEED = 2**64
SAME = ("karras", "exponential")  # schedules here with A1111's levels, except for DISCARDING


@dataclass(frozen=True)
class Translated:
    """A request of A1111 in the terms of `modes.plan`.

    Args:
        mode: txt2img, img2img or inpaint.
        batches: Parameters of each of the `n_iter` batches, which differ by their seed.
        echo: The fields that had a meaning, without images, for the answer.
        ignored: Non-default fields that ldmref ignores.
        notes: What differs from the request, one line each.
        send_images: Whether the client wants to have the images.
    """

    mode: str
    batches: list[dict[str, Any]]
    echo: dict[str, Any]
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    send_images: bool = True


def translate(
    body: Mapping[str, Any],
    config: ModelConfig,
    read_image: ReadImage | None = None,
    units: Units | None = None,
) -> Translated:
    """Return the parameters that the body of a request means.

    Args:
        body: The JSON object.
        config: Configuration of the model that generates.
        read_image: Decoder of `init_images` and `mask` in img2img; None for txt2img.
        units: Reader of ControlNet units. None: the server has no ControlNets.

    Raises:
        UsageError: A value is wrong, or a sampler, scheduler or script does not exist.
        ImageError: An image cannot be decoded.
    """
    fields = Fields(body)
    notes: list[str] = []
    values = read_prompts(fields, config, notes)
    values |= read_sampling(fields, config, read_image is not None, notes)
    mode: str = "txt2img"
    if read_image is None:
        asked = (fields.integer("width"), fields.integer("height"))
        size = choose_size(config, asked)
        notes += [size.note] if size.note else []
        values |= {"width": size.width, "height": size.height}
        values |= read_second_pass(fields, config, values, notes)
    else:
        mode, images = read_given(fields, config, read_image, notes)
        values |= images
    values |= read_scripts(fields, config, values, units)
    batches = make_batches(fields, values)
    send_images = fields.flag("send_images", True)
    return Translated(mode, batches, fields.echo(), fields.ignored(), notes, send_images)


def read_prompts(fields: Fields, config: ModelConfig, notes: list[str]) -> dict[str, Any]:
    """Return prompts and how they are read: with weights, and long ones in chunks."""
    values: dict[str, Any] = {"prompt_weights": "a1111"}
    for name in ("prompt", "negative_prompt"):
        text = fields.text(name)
        values[name], tags = split_networks(text)
        notes += [f"left out of the prompt: {tag[:80]}" for tag in tags]
    if reads_chunks(config):
        values["long_prompts"] = "chunk"
    skip = fields.override("CLIP_stop_at_last_layers", fields.integer("clip_skip"))
    if skip is not None:
        values["clip_skip"] = read_clip_skip(config, skip, notes)
    return values


def read_sampling(
    fields: Fields, config: ModelConfig, noised: bool, notes: list[str]
) -> dict[str, Any]:
    """Return steps, guidance, sampler, noise levels and noise; None is the model's setting."""
    name = fields.text("sampler_name")
    older_name = fields.text("sampler_index")
    method = read_method(name or older_name, fields.text("scheduler"))
    if config.scheduler.path is FLOW and (method.schedule or method.levels):
        asked = method.schedule or method.levels
        notes.append(f"scheduler {asked!r} is not one of flow matching: the model's is used")
        method = Method(method.sampler)
    sampler = method.sampler or config.scheduler.sampler
    values: dict[str, Any] = {
        "steps": fields.integer("steps"),
        "cfg_scale": fields.number("cfg_scale"),
        "sampler": method.sampler,
        "schedule": method.schedule,
    }
    eta = fields.number("eta")
    if sampler in SAMPLERS and SAMPLERS[sampler].eta is not None:
        values["eta"] = eta
    if noised:
        strength = fields.number("denoising_strength")
        values["strength"] = STRENGTH if strength is None else strength
    source = fields.override("randn_source")
    if source is not None:
        if not isinstance(source, str) or source not in RNGS:
            raise UsageError(f"randn_source must be GPU, CPU or NV, not {short_repr(source)}")
        values["rng"] = RNGS[source]
    if method.levels:
        values |= find_levels(config, method, values, notes)
    if noised and "sigmas" not in values:
        asked = {"strength": ForeignValue("denoising_strength", values["strength"])}
        values |= read_foreign(config, values | asked)
    return {name: value for name, value in values.items() if value is not None}


def find_levels(
    config: ModelConfig, method: Method, values: Mapping[str, Any], notes: list[str]
) -> dict[str, Any]:
    """Return A1111's noise levels of a scheduler, by the name of ours that has the same ones."""
    sampler = method.sampler or config.scheduler.sampler
    strength = values.get("strength")
    levels = levels_for(config, sampler, method.levels, values["steps"], strength)
    if levels is None:
        notes.append(f"scheduler {method.levels!r} does not go with {sampler}: the model's is used")
        return {}
    if method.levels in SAME and sampler not in DISCARDING and strength is None:
        return {"schedule": method.levels}
    return levels.parameters(strength is not None)


def read_given(
    fields: Fields, config: ModelConfig, read_image: ReadImage, notes: list[str]
) -> tuple[str, dict[str, Any]]:
    """Return the mode, and its images at the size to generate."""
    sources = fields.images("init_images")
    if len(sources) != 1:
        raise UsageError(
            f"img2img needs one init image, not {len(sources)}",
            code="E-IMAGE",
            hint="send one request for each image",
        )
    image = read_rgb(read_image("init_images", sources[0]))
    how = RESIZES[check_integer("resize_mode", fields.integer("resize_mode") or 0, 0, 3)]
    size = choose_size(config, (fields.integer("width"), fields.integer("height")), image)
    sides = {"width": size.width, "height": size.height}
    encoded = fields.text("mask")
    inpainting = read_inpainting(fields)
    if not (encoded and inpainting["only_masked"]):
        notes += [size.note] if size.note else []
    if not encoded:
        return "img2img", {"image": image, "resize": how} | sides
    mask = read_mask(read_image("mask", encoded))
    if mask.size != image.size:
        notes.append(
            f"the mask is {mask.width} x {mask.height}, the image {image.width} x {image.height}: "
            f"the mask is resized by the method {how}"
        )
    if inpainting["only_masked"]:
        notes.append(
            f"the region around the mask is generated at {size.width}x{size.height}, and pasted "
            f"into the image, which keeps its {image.width}x{image.height}"
        )
        mask = fit_mask(mask, image.size, how)
        return "inpaint", inpainting | {"image": image, "mask": mask} | sides
    if image.size != size[:2]:
        image = resize_image(image, size[:2], how)
    mask = fit_mask(mask, image.size, how)
    return "inpaint", inpainting | {"image": image, "mask": mask}


def fit_mask(mask: Image.Image, size: tuple[int, int], how: str) -> Image.Image:
    """Return a mask at a size, by the method of the image: A1111 resizes each of them alone."""
    return mask if mask.size == size else resize_image(mask, size, how)


def read_inpainting(fields: Fields) -> dict[str, Any]:
    """Return the parameters of a mask; A1111's padding of 0 is the default, unlike ours."""
    blur = fields.number("mask_blur")
    fill = check_integer("inpainting_fill", fields.integer("inpainting_fill") or 0, 0, 3)
    return {
        "mask_blur": MASK_BLUR if blur is None else blur,
        "fill": FILLS[fill],
        "only_masked": fields.flag("inpaint_full_res", True),
        "padding": fields.integer("inpaint_full_res_padding") or 0,
        "mask_invert": fields.flag("inpainting_mask_invert"),
    }


def read_scripts(
    fields: Fields, config: ModelConfig, values: Mapping[str, Any], units: Units | None
) -> dict[str, Any]:
    """Return the ControlNets of the one script that is known; others get A1111's error message.

    Raises:
        UsageError: The request names another script, or a unit is wrong.
    """
    if name := fields.text("script_name"):
        raise UsageError(f"Script {short_repr(name)} not found", code="E-USAGE")
    script, others = split_scripts(fields.mapping("alwayson_scripts"))
    if script is not None and units is None:
        others = [SCRIPT]
    if others:
        raise UsageError(f"always on script {short_repr(others[0])} not found")
    if script is None or units is None:
        return {}
    image = values.get("image")
    size = (values.get("width"), values.get("height"))
    if "mask" in values and image is not None:  # also of a region: the unit's is the whole image's
        size = image.size
    defaults = config.defaults
    controls = units.read(
        script, config, values, (size[0] or defaults.width, size[1] or defaults.height)
    )
    return {"control": controls} if controls else {}


def make_batches(fields: Fields, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the parameters of each batch; image i of all has seed + i, as in A1111."""
    size = check_integer("batch_size", _or(fields.integer("batch_size"), 1), 1, MAX_COUNT)
    n = check_integer("n_iter", _or(fields.integer("n_iter"), 1), 1, MAX_COUNT)
    check_integer("batch_size x n_iter", size * n, 1, MAX_COUNT)
    seed = _or(fields.integer("seed"), -1)
    if seed == -1:
        seed = secrets.randbits(32)
    check_integer("seed", seed, 0, MAX_SEED - 1)
    seeds = [(seed + i * size) % MAX_SEED for i in range(n)]
    return [{**values, "seed": first, "count": size} for first in seeds]


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
