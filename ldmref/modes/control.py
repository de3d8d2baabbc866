"""`Control`: a ControlNet and its image in a request."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from PIL import Image

from ldmref.declare import Attachment, Check, Doc, Range, get_fields, schema
from ldmref.errors import UsageError, did_you_mean, short_repr
from ldmref.io.adapters.controlnet import open_controlnet
from ldmref.io.images.pil import Source, read_image
from ldmref.models.config import ModelConfig
from ldmref.models.control import ControlNet, control_of, require_fit
from ldmref.modes import validation
from ldmref.modes.parameters import FILE, accept
from ldmref.modes.sizing import resize_image

MAX_CONTROLS = 16
# A colon, except for that of a drive on Windows, which follows one letter and precedes a slash.
SEPARATOR = r":(?![\\/])|(?<!^[A-Za-z])(?<!:[A-Za-z]):" if os.name == "nt" else ":"


@dataclass(frozen=True)
class Control:
    """A ControlNet, the image that it reads, its weight, and the steps in which it acts.

    Args:
        net: From `ldmref.load_controlnet`, or a folder or file to load for this call.
        image: Path, open file or Pillow image of the kind on which the net was trained (edges,
            depth, poses, ...). It is scaled and cropped to the size of the generated image. With
            `only_masked` it belongs to the whole image, and the net reads the region's part. None,
            in `inpaint`: an inpainting ControlNet, which reads the given image without the masked
            part.
        weight: Factor of the net's outputs, from -10 to 10.
        start: The fraction of the steps at which it begins, 0 <= start < end.
        end: The fraction of the steps at which it ends, start < end <= 1. It acts in step i of n
            (from 0) if start <= i/n and (i + 1)/n <= end, as in diffusers.
        mode: For a ControlNet of several kinds of images (a union), the number of the kind, from 0.
            One of Stable Diffusion 3.5 large reads an image that is scaled as in its training: 0
            for blur, 1 for canny, 2 for depth; None: as its file says. None for all others.

    >>> from ldmref.modes import Control
    >>> control = Control("canny", "edges.png", weight=0.8, end=0.5)  # the first half of the steps
    >>> control.weight, control.start, control.end
    (0.8, 0.0, 0.5)
    """

    net: Annotated[
        ControlNet | str | Path,
        Check(accept, {"type": "string"}),
        Doc("The ControlNet."),
    ]
    image: (
        Annotated[
            Source,
            Check(accept, FILE),
            Attachment("image"),
            Doc(
                "The image that it reads: edges, depths or poses, as it was trained on.",
                "an inpainting ControlNet, which reads the image and the mask of inpaint",
            ),
        ]
        | None
    ) = None
    weight: Annotated[float, Range(-10, 10), Doc("Factor of its outputs.")] = 1.0
    start: Annotated[
        float, Range(0, 1), Doc("The fraction of the steps at which it begins, below the end.")
    ] = 0.0
    end: Annotated[float, Range(0, 1), Doc("The fraction of the steps at which it ends.")] = 1.0
    mode: (
        Annotated[
            int,
            Range(0, 999),
            Doc("The number of the image's kind, for a ControlNet of several kinds.", "one kind"),
        ]
        | None
    ) = None


CONTROLS = {"type": "array", "items": schema(Control), "maxItems": MAX_CONTROLS}


@dataclass(frozen=True)
class MaskedControl(Control):
    """A control whose image is the one to inpaint.

    Args:
        mask: White where the image is masked, of the same size.
    """

    mask: Image.Image | None = None


def check_controls(name: str, value: object) -> tuple[Control, ...]:
    """Return a list of `Control`s as a tuple; their numbers are in range.

    Raises:
        UsageError: The value is something else.
    """
    if not isinstance(value, list | tuple) or not all(isinstance(c, Control) for c in value):
        raise UsageError(
            f"{name} must be a list of Control", code="E-CONTROL", hint="[Control(net, image)]"
        )
    if len(value) > MAX_CONTROLS:
        raise UsageError(f"{len(value)} controls, the limit is {MAX_CONTROLS}", code="E-CONTROL")
    return tuple(_check_numbers(control) for control in value)


def _check_numbers(control: Control) -> Control:
    found: dict[str, Any] = {}
    for name, field in get_fields(Control).items():
        limits = field.get(Range)
        value = getattr(control, name)
        if limits is None or (value is None and field.optional):
            continue
        low, high = limits.low, limits.high
        if field.kind is int:
            found[name] = validation.check_integer(f"control {name}", value, int(low), int(high))
        else:
            found[name] = validation.check_number(f"control {name}", value, low, high)
    start, end = found["start"], found["end"]
    if start >= end:
        raise UsageError(
            f"a control must start before it ends, not from {start:g} to {end:g}",
            code="E-CONTROL-START",
        )
    return replace(control, **found)


def list_controls(value: object) -> list[Mapping[str, Any]]:
    """Return the controls of a JSON document: objects with the keys of a `Control`.

    Their values are not checked, since each interface has its own notation of nets and images.

    Raises:
        UsageError: It is something else, or keys are missing or unknown.
    """
    if not isinstance(value, list):
        raise UsageError(
            f"control must be a list of objects, not {short_repr(value)}",
            code="E-CONTROL",
            hint='such as [{"net": "canny", "image": "edges.png", "weight": 0.8}]',
        )
    fields = get_fields(Control)
    required = [name for name, field in fields.items() if field.required]
    for control in value:
        if not isinstance(control, Mapping) or not control.keys() >= {*required}:
            raise UsageError(
                f"a control must be an object with {' and '.join(required)}, not "
                f"{short_repr(control)}",
                code="E-CONTROL",
            )
        for key in control:
            if key not in fields:
                hint = did_you_mean(str(key), fields)
                raise UsageError(f"unknown key control.{key}", code="E-CONTROL", hint=hint)
    return value


def parse_control(text: str) -> Control:
    """Read a control with colons between its parts: `canny:edges.png:0.8`.

    After ControlNet and image follow weight, part of the steps, and kind of the image (a number).
    The image is empty or left out for an inpainting ControlNet.
    """
    net, *rest = re.split(SEPARATOR, text)
    try:
        image, weight, steps, mode = [*rest, *("", "1", "0-1", "")[len(rest) :]]
        start, _, end = steps.partition("-")
        if not net:
            raise ValueError
        kind = int(mode) if mode else None
        return Control(net, image or None, float(weight), float(start), float(end), kind)
    except ValueError:
        raise UsageError(
            f"cannot read the control {short_repr(text)}",
            code="E-CONTROL",
            hint="--control NET:IMAGE, NET:IMAGE:0.8, NET:IMAGE:0.8:0-0.5 or NET:IMAGE:0.8:0-1:2",
        ) from None


def fit_control(config: ModelConfig, control: Control, mode: str) -> Control:
    """Return the control with its image read, if its net fits the model and the mode.

    Raises:
        UsageError: The net belongs to another family, or needs an image that the mode has not.
        InputError: The net or the image cannot be read.
    """
    if isinstance(control.net, ControlNet):
        name = control.net.name
        net_config = control.net.config
    elif isinstance(control.net, str | os.PathLike):
        file = open_controlnet(control.net, config.denoiser)
        name = file.name
        net_config = file.config
    else:
        raise UsageError(
            f"a control's net must be a ControlNet or a path, not {short_repr(control.net)}",
            code="E-CONTROL",
        )
    require_fit(config, net_config, name)
    _require_mode(net_config, control.mode, name)
    _require_image(net_config, control.image is not None, mode, name)
    return control if control.image is None else replace(control, image=read_image(control.image))


def _require_image(net: object, has_image: bool, mode: str, name: str) -> None:
    """Check that a ControlNet gets an image, or in inpaint reads the image and the mask."""
    declared = control_of(net)
    if declared.reads_mask(net) and (has_image or mode != "inpaint"):
        raise UsageError(
            f"the ControlNet {name!r} reads the image and the mask of inpaint, and no other image",
            code="E-CONTROL",
            hint="run inpaint, with Control(net) (--control NET)",
        )
    if has_image or (mode == "inpaint" and declared.hole(net) is not None):
        return
    raise UsageError(
        f"the ControlNet {name!r} needs an image to read",
        code="E-CONTROL",
        hint="give it: Control(net, image) (--control NET:IMAGE)"
        + ("; only inpaint has one of its own" if declared.hole(net) is not None else ""),
    )


def _require_mode(net: object, mode: int | None, name: str) -> None:
    """Check that a ControlNet of several kinds of images, and no other, gets the kind."""
    control = control_of(net)
    declared = control.networks(net)[-1].input_of("mode")
    kinds = control.kinds(net)
    if kinds and mode is not None:
        _require_kind(kinds, control.kind(net), mode, name)
        return
    if declared is None and mode is not None:
        raise UsageError(
            f"the ControlNet {name!r} knows one kind of images, so it takes no mode",
            code="E-CONTROL",
            hint="leave the mode out",
        )
    if declared is not None and (mode is None or mode >= declared.below):
        raise UsageError(
            f"the ControlNet {name!r} needs the number of its image's kind, from 0 to "
            f"{declared.below - 1}",
            code="E-CONTROL",
            hint="Control(net, image, mode=0) (--control NET:IMAGE:1:0-1:0)",
        )


def _require_kind(kinds: tuple[str, ...], own: int | None, mode: int, name: str) -> None:
    """Check that a mode names a kind of images, and none but that of the net's file."""
    if mode >= len(kinds):
        listed = ", ".join(f"{i} ({kind})" for i, kind in enumerate(kinds))
        message = f"the ControlNet {name!r} has no kind of images {mode}"
        raise UsageError(message, code="E-CONTROL", hint=f"mode= is one of {listed}")
    if own not in (None, mode):
        message = f"the ControlNet {name!r} is for {kinds[own]}, not {kinds[mode]}"
        raise UsageError(message, code="E-CONTROL", hint="leave the mode out")


def size_control(control: Control, size: tuple[int, int]) -> tuple[Image.Image, str]:
    """Return the image of a control at a size, and a warning if it had another one."""
    assert control.image is not None
    image = read_image(control.image)
    if image.size == size:
        return image, ""
    sizes = f"{image.width} x {image.height}; cropped and scaled to {size[0]} x {size[1]}"
    return resize_image(image, size, "crop"), f"the control image is {sizes}"


def crop_control(
    control: Control, whole: tuple[int, int], box: tuple[int, int, int, int], size: tuple[int, int]
) -> tuple[Control, str]:
    """Return the control of a region, and a warning if its image had another size than the whole.

    Args:
        control: The control of the whole image, of which one without an image has no region.
        whole: Size of the whole image.
        box: Left, top, right and bottom of the region.
        size: Size of the result.
    """
    if control.image is None:
        return control, ""
    image, warning = size_control(control, whole)
    return replace(control, image=image.crop(box).resize(size, Image.Resampling.LANCZOS)), warning


def give_masked_image(control: Control, image: Image.Image, mask: Image.Image) -> Control:
    """Return the control, with an image and its mask if it has no image of its own."""
    if control.image is not None:
        return control
    values: dict[str, Any] = {**vars(control), "image": image, "mask": mask}
    return MaskedControl(**values)


def fills_mask(control: Control, denoiser: Any) -> bool:
    """Return whether the ControlNet of a control reads the mask itself, and fills it in.

    Args:
        control: The control, which fits the model.
        denoiser: The configuration of the model's denoiser, for a single file.
    """
    net = control.net
    net = net.config if isinstance(net, ControlNet) else open_controlnet(net, denoiser).config
    return control_of(net).reads_mask(net)
