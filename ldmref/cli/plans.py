"""The table of modes: what each takes of the flags, and how it becomes a plan.

A plan is made from the model's configuration alone: arguments and source pictures are checked
before any weight is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ldmref import modes
from ldmref.cli.latents import check_latents_target, read_latents, write_latents
from ldmref.cli.sources import STDIN, picture_source
from ldmref.io.pictures.images import read_image, read_mask
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.event import CancelFlag
from ldmref.modes.interpolate import planned as interpolation
from ldmref.modes.invert import planned as inversion
from ldmref.modes.masked import picture_and_size
from ldmref.modes.picture import mask_of, sized_picture
from ldmref.modes.request import Request, resolve
from ldmref.modes.seg2img import planned as segmentation
from ldmref.modes.superres import planned as enlargement

_STEPS = ("steps", "schedule", "batch_size", "tile")
_WORDS = ("negative_prompt", "cfg_scale", "clip_skip", "long_prompts", "prompt_weights")
_SEEDED = (*_STEPS, "seed", "sampler", "eta", "rng")
_SIZE = ("width", "height")
_ALL = (*_SEEDED, *_WORDS, *_SIZE, "count", "control")
TAKES: dict[str, tuple[str, ...]] = {  # flags that are arguments of the mode, by their own names
    "txt2img": _ALL,
    "img2img": (*_ALL, "strength"),
    "inpaint": (*_ALL, "strength", "mask_blur", "fill", "only_masked", "padding", "resample"),
    "invert": (*_STEPS, *_WORDS, *_SIZE),
    "interpolate": (*_SEEDED, *_WORDS, *_SIZE, "control"),
    "superres": (*_SEEDED, "count"),
    "seg2img": (*_SEEDED, "count"),
}
SOURCES: dict[str, dict[str, str]] = {  # what else a replay needs, and the flag that gives it
    "img2img": {"image": "-i IMAGE"},
    "inpaint": {"image": "-i IMAGE", "mask": "--mask MASK"},
    "invert": {"image": "-i IMAGE"},
    "superres": {"image": "-i IMAGE"},
    "seg2img": {"image": "-i MAP"},
}
WITHOUT_PROMPT = ("superres", "seg2img")


class Watch(Protocol):
    """What a plan tells while it draws."""

    def step(self, event: modes.Event) -> None: ...

    def step_up(self, event: modes.Event) -> None: ...


Told = dict[str, Any]
Draw = Callable[[LatentDiffusion, Watch, CancelFlag], modes.Result]


@dataclass(frozen=True)
class Plan:
    """A checked request; `label` names its files, `facts` go into the parameters besides."""

    request: Request
    draw: Draw
    label: str
    facts: dict[str, Any] = field(default_factory=dict)


def plan(mode: str, config: ModelConfig, prompt: str, asked: Told, flags: Told) -> Plan:
    """What a mode will do with these arguments and flags.

    Raises:
        LdmrefError: an argument or a source is wrong; nothing was computed.
    """
    return _PLANS[mode](config, prompt, asked, flags)


def _txt2img(config: ModelConfig, prompt: str, asked: Told, flags: Told) -> Plan:
    request = resolve(config, "txt2img", prompt, **asked)
    draw = _drawing(modes.txt2img, config, request, asked, flags, prompt)
    return Plan(request, draw, prompt)


def _img2img(config: ModelConfig, prompt: str, asked: Told, flags: Told) -> Plan:
    image = read_image(picture_source(flags["image"]))
    picture = sized_picture(config, image, asked["width"], asked["height"], flags["resize"]).picture
    size: Told = dict(zip(_SIZE, picture.size, strict=True))
    request = resolve(config, "img2img", prompt, **asked | size)
    told = asked | {"image": image, "resize": flags["resize"]}
    return Plan(request, _drawing(modes.img2img, config, request, told, flags, prompt), prompt)


def _inpaint(config: ModelConfig, prompt: str, asked: Told, flags: Told) -> Plan:
    size, only_masked = (asked["width"], asked["height"]), asked.get("only_masked") is True
    source = picture_source(flags["image"])
    picture, sides = picture_and_size(config, source, only_masked, *size)
    drawn: Told = dict(zip(_SIZE, sides, strict=True))
    request = resolve(config, "inpaint", prompt, **asked | drawn)
    mask = read_mask(flags["mask"])
    inverted = flags["mask_invert"] is True
    if inverted:
        mask = mask.point(lambda value: 255 - value)
    mask_of(mask, picture, 0.0)
    told = asked | {"image": picture, "mask": mask}
    draw = _drawing(modes.inpaint, config, request, told, flags, prompt)
    return Plan(request, draw, prompt, {"mask_invert": True} if inverted else {})


def _superres(config: ModelConfig, prompt: str, asked: Told, flags: Told) -> Plan:
    request, picture = enlargement(config, picture_source(flags["image"]), **asked)
    draw = _drawing(modes.superres, config, request, asked | {"image": picture}, flags)
    return Plan(request, draw, _label("superres", flags))


def _seg2img(config: ModelConfig, prompt: str, asked: Told, flags: Told) -> Plan:
    request, labels = segmentation(config, picture_source(flags["image"]), **asked)
    draw = _drawing(modes.seg2img, config, request, asked | {"segmentation": labels}, flags)
    return Plan(request, draw, _label("seg2img", flags))


def _interpolate(config: ModelConfig, prompt: str, asked: Told, flags: Told) -> Plan:
    last = prompt if flags["to"] is None else flags["to"]
    places = flags["frames"] if flags["positions"] is None else flags["positions"]
    told = {key: value for key, value in asked.items() if key != "seed"}
    path = flags["path"]
    request, ends, where = interpolation(config, prompt, last, places, path, asked["seed"], **told)

    def draw(model: LatentDiffusion, watch: Watch, cancel: CancelFlag) -> modes.Result:
        return modes.interpolate(
            model, prompt, last, where.tolist(), path=path, seed=ends, **told,
            callback=watch.step, cancel=cancel,
        )  # fmt: skip

    return Plan(request, draw, prompt if last == prompt else f"{prompt} to {last}")


def _invert(config: ModelConfig, prompt: str, asked: Told, flags: Told) -> Plan:
    edits = list(flags["edits"]) or [prompt]
    told = {key: asked[key] for key in TAKES["invert"]}
    later = {key: told.pop(key) for key in ("cfg_scale", "batch_size", "tile")}
    told |= {"resize": flags["resize"], "iterations": flags["iterations"]}
    image = read_image(picture_source(flags["image"]))
    up, _, _ = inversion(config, prompt, image, cfg_scale=1.0, **told)
    words = {key: asked[key] for key in ("negative_prompt", "long_prompts", "prompt_weights",
                                         "clip_skip", "schedule")}  # fmt: skip
    later |= {"seed": [0] * len(edits)}  # which nothing is drawn from
    request = resolve(
        config, "invert", edits, steps=up.steps, sampler="ddim", eta=0.0, width=up.width,
        height=up.height, **words, **later,
    )  # fmt: skip
    later["cfg_scale"] = request.cfg_scale
    if flags["noise"]:
        check_latents_target(flags["noise"], flags["overwrite"])

    def draw(model: LatentDiffusion, watch: Watch, cancel: CancelFlag) -> modes.Result:
        found = modes.invert(model, prompt, image, **told, callback=watch.step_up, cancel=cancel)
        if flags["noise"]:
            write_latents(flags["noise"], found.latents, flags["overwrite"])
        latents = np.repeat(found.latents, len(edits), axis=0)
        settings = found.settings | later
        hooks = {"callback": watch.step, "cancel": cancel}
        result = modes.txt2img(model, edits, latents=latents, **settings, **hooks)
        return replace(result, warnings=[*dict.fromkeys(found.warnings + result.warnings)])

    inverted = {"prompt": prompt, "cfg_scale": up.cfg_scale, "iterations": flags["iterations"]}
    how = sized_picture(config, image, asked["width"], asked["height"], flags["resize"]).resize
    facts = {"mode": "invert", "resize": how, "inverted": inverted}
    return Plan(request, draw, edits[0], facts)


_PLANS: dict[str, Callable[[ModelConfig, str, Told, Told], Plan]] = {
    "txt2img": _txt2img,
    "img2img": _img2img,
    "inpaint": _inpaint,
    "invert": _invert,
    "interpolate": _interpolate,
    "superres": _superres,
    "seg2img": _seg2img,
}


def _drawing(
    mode: Callable[..., modes.Result], config: ModelConfig, request: Request, told: Told,
    flags: Told, *prompt: str,
) -> Draw:  # fmt: skip
    """The call of a mode with the seeds that the request found, and the noise of a file."""
    told = told | {"seed": list(request.seeds), "count": len(request.seeds)}
    if flags["latents"]:
        told["latents"] = read_latents(flags["latents"], config, request)

    def draw(model: LatentDiffusion, watch: Watch, cancel: CancelFlag) -> modes.Result:
        return mode(model, *prompt, **told, callback=watch.step, cancel=cancel)

    return draw


def _label(mode: str, flags: Told) -> str:
    return mode if flags["image"] == STDIN else f"{Path(flags['image']).stem} {mode}"
