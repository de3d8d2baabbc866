"""`Control`: a ControlNet and its image in a request."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from ldmref.errors import UsageError, short_repr
from ldmref.io.adapters.controlnet import open_controlnet
from ldmref.io.images.pil import Source, read_image
from ldmref.models.config import ModelConfig
from ldmref.models.control import ControlNet, control_of, require_fit
from ldmref.modes import validation
from ldmref.modes.sizing import resize_image

MAX_CONTROLS = 16
MAX_MODE = 999
# A colon, except for that of a drive on Windows, which follows one letter and precedes a slash.
SEPARATOR = r":(?![\\/])|(?<!^[A-Za-z])(?<!:[A-Za-z]):" if os.name == "nt" else ":"


@dataclass(frozen=True)
class Control:
    """A ControlNet, the image that it reads, its weight, and the steps in which it acts.

    Args:
        net: From `ldmref.load_controlnet`, or a folder or file to load for this call.
        image: Path, open file or Pillow image of the kind on which the net was trained (edges,
            depth, poses, ...). It is scaled and cropped to the size of the generated image. With
            `only_masked` it belongs to the whole image, and the net reads the region's part.
        weight: Factor of the net's outputs, from -10 to 10.
        start: The fraction of the steps at which it begins, 0 <= start < end.
        end: The fraction of the steps at which it ends, start < end <= 1. It acts in step i of n
            (from 0) if start <= i/n and (i + 1)/n <= end, as in diffusers.
        mode: For a ControlNet of several kinds of images (a union), the number of the kind, from 0;
            None for all others.

    >>> from ldmref.modes import Control
    >>> control = Control("canny", "edges.png", weight=0.8, end=0.5)  # the first half of the steps
    >>> control.weight, control.start, control.end
    (0.8, 0.0, 0.5)
    """

    net: ControlNet | str | Path
    image: Source
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    mode: int | None = None


def check_controls(name: str, value: Any) -> tuple[Control, ...]:
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
    weight = validation.check_number("control weight", control.weight, -10.0, 10.0)
    start = validation.check_number("control start", control.start, 0.0, 1.0)
    end = validation.check_number("control end", control.end, 0.0, 1.0)
    if start >= end:
        raise UsageError(
            f"a control must start before it ends, not from {start:g} to {end:g}",
            code="E-CONTROL-START",
        )
    mode = control.mode
    if mode is not None:
        mode = validation.check_integer("control mode", mode, 0, MAX_MODE)
    return replace(control, weight=weight, start=start, end=end, mode=mode)


def parse_control(text: str) -> Control:
    """Read a control with colons between its parts: `canny:edges.png:0.8`.

    After ControlNet and image follow weight, part of the steps, and kind of the image (a number).
    """
    net, *rest = re.split(SEPARATOR, text)
    try:
        image, weight, steps, mode = [*rest, *("1", "0-1", "")[len(rest) - 1 :]]
        start, _, end = steps.partition("-")
        if not net or not image:
            raise ValueError
        kind = int(mode) if mode else None
        return Control(net, image, float(weight), float(start), float(end), kind)
    except ValueError:
        raise UsageError(
            f"cannot read the control {short_repr(text)}",
            code="E-CONTROL",
            hint="--control NET:IMAGE, NET:IMAGE:0.8, NET:IMAGE:0.8:0-0.5 or NET:IMAGE:0.8:0-1:2",
        ) from None


def fit_control(config: ModelConfig, control: Control) -> Control:
    """Return the control with its image read, if its net fits the model.

    Raises:
        UsageError: The net belongs to another family.
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
    return replace(control, image=read_image(control.image))


def _require_mode(net: Any, mode: int | None, name: str) -> None:
    """Check that a ControlNet of several kinds of images, and no other, gets the kind."""
    declared = control_of(net).networks(net)[-1].input_of("mode")
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


def size_control(control: Control, size: tuple[int, int]) -> tuple[Image.Image, str]:
    """Return the image of a control at a size, and a warning if it had another one."""
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
        control: The control of the whole image.
        whole: Size of the whole image.
        box: Left, top, right and bottom of the region.
        size: Size of the result.
    """
    image, warning = size_control(control, whole)
    return replace(control, image=image.crop(box).resize(size, Image.Resampling.LANCZOS)), warning
