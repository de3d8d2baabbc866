"""ControlNets: `Control` in a request, `ActiveControl` on the model's backend."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ldmref.errors import UsageError, short_repr
from ldmref.io.adapters.controlnet import open_controlnet
from ldmref.io.images.pil import Source, read_image, to_array
from ldmref.loading_networks import load_controlnet
from ldmref.math.arrays import Array
from ldmref.models.conditioning import Conditioning
from ldmref.models.config import ModelConfig
from ldmref.models.controlnet import ControlNet, ControlNetConfig, add_residuals
from ldmref.models.model import LatentDiffusion
from ldmref.models.unet import Residuals
from ldmref.modes import validation
from ldmref.modes.sizing import resize_image
from ldmref.samplers.interfaces import Interval

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
            `only_masked` it belongs to the whole image, and the net reads the region's part.
        weight: Factor of the net's outputs, from -10 to 10.
        start: The fraction of the steps at which it begins, 0 <= start < end.
        end: The fraction of the steps at which it ends, start < end <= 1. It acts in step i of n
            (from 0) if start <= i/n and (i + 1)/n <= end, as in diffusers.

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
    return replace(control, weight=weight, start=start, end=end)


def parse_control(text: str) -> Control:
    """Read a ControlNet, an image and a weight with colons between: `canny:edges.png:0.8`."""
    net, *rest = re.split(SEPARATOR, text)
    try:
        image, weight, steps = [*rest, *("1", "0-1")[len(rest) - 1 :]]
        start, _, end = steps.partition("-")
        if not net or not image:
            raise ValueError
        return Control(net, image, float(weight), float(start), float(end))
    except ValueError:
        raise UsageError(
            f"cannot read the control {short_repr(text)}",
            code="E-CONTROL",
            hint="--control NET:IMAGE, NET:IMAGE:0.8 or NET:IMAGE:0.8:0-0.5",
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
        file = open_controlnet(control.net, config.unet)
        name = file.name
        net_config = file.config
    else:
        raise UsageError(
            f"a control's net must be a ControlNet or a path, not {short_repr(control.net)}",
            code="E-CONTROL",
        )
    _require_fit(config, net_config, name)
    return replace(control, image=read_image(control.image))


def _require_fit(config: ModelConfig, net: ControlNetConfig, name: str) -> None:
    """Check that the outputs of a ControlNet have the shapes that the U-Net adds."""
    ours = config.unet
    theirs = net.unet
    same = (
        "block_out_channels",
        "layers_per_block",
        "cross_attention_dim",
        "class_embed_type",
        "addition_embed_type",
    )
    differing = [
        f"{field} {getattr(theirs, field)}, not {getattr(ours, field)}"
        for field in same
        if getattr(theirs, field) != getattr(ours, field)
    ]
    numbers = (
        ("in_channels", theirs.in_channels, config.vae.latent_channels),
        ("conditioning_channels", net.conditioning_channels, 3),
        ("pixels of the hint per latent cell", net.factor, config.vae.factor),
    )
    differing += [f"{what} {have}, not {want}" for what, have, want in numbers if have != want]
    if differing:
        raise UsageError(
            f"the ControlNet {name!r} does not fit the model: it has {differing[0]}",
            code="E-CONTROL",
            hint="take a ControlNet of the model's family",
        )


@dataclass(frozen=True)
class ActiveControl:
    """A control on the model's backend, which acts from level `first` to before level `end`.

    Levels are indices into the sigmas of the run.
    """

    net: ControlNet
    hint: Array  # (1, c, h, w), the same at every step
    control: Control
    image_sha256: str  # of the image as the net reads it
    warning: str = ""
    first: int = 0
    end: float = math.inf

    @property
    def record(self) -> dict[str, Any]:
        """The control as an image records it."""
        c = self.control
        numbers = {"weight": c.weight, "start": c.start, "end": c.end, "image": self.image_sha256}
        return {"name": self.net.name, "sha256": self.net.sha256} | numbers

    def within(self, levels: Sequence[int]) -> ActiveControl:
        """Return the control for a run through these levels, with those at which it acts."""
        n = len(levels) - 1
        c = self.control
        steps = [i for i in range(n) if c.start <= i / n and (i + 1) / n <= c.end]
        if not steps:
            return replace(self, end=0)
        end = math.inf if steps[-1] == n - 1 else levels[steps[-1] + 1]
        return replace(self, first=levels[steps[0]], end=end)

    def acts_at(self, sigma: float, interval: Interval | None) -> bool:
        """Return whether the control acts at an evaluation within a step.

        An evaluation at the end of a step belongs to the next level; all others of the step, also
        above its sigma (churn), belong to its own level. Without an interval, the control acts
        unless it acts in no step at all.
        """
        if interval is None:
            return self.end > 0
        level = interval.i_next if sigma <= interval.sigma_next else interval.i
        return self.first <= level < self.end


def load_control(model: LatentDiffusion, control: Control, size: tuple[int, int]) -> ActiveControl:
    """Load the net and encode its image at the size of the generated image.

    Raises:
        UsageError: The net is on another backend than the model.
    """
    net = control.net
    ops = model.backend
    if not isinstance(net, ControlNet):
        net = load_controlnet(net, ops, unet=model.config.unet)
    if net.backend.describe() != ops.describe():
        raise UsageError(
            f"the ControlNet {net.name!r} is on {net.backend!r}, the model on {ops!r}",
            code="E-CONTROL",
            hint="load_controlnet(path, model.backend)",
        )
    if ops.observes_layers:
        net = net.with_backend(ops)
    image, warning = size_control(control, size)
    digest = hashlib.sha256(np.asarray(image).tobytes()).hexdigest()
    hint = net.encode_hint(ops.asarray((to_array([image]) + 1.0) / 2.0))
    return ActiveControl(net, hint, control, digest, warning)


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


def sum_residuals(
    controls: Sequence[ActiveControl], x: Array, t: Array, conditioning: Conditioning
) -> Residuals | None:
    """Return the sum of the residuals that the controls add to the U-Net; None without any."""
    return add_residuals(
        [(c.control.weight, c.net.residuals(x, t, conditioning, c.hint)) for c in controls]
    )
