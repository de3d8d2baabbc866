"""ControlNets as the modes use them: `Control` in the request, `Guide` on the model's backend."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.errors import UsageError
from ldmref.io.adapters.controlnet import open_controlnet
from ldmref.io.pictures.images import read_image, to_array
from ldmref.loading import load_controlnet
from ldmref.math.arrays import Array
from ldmref.models.conditioning import Conditioning
from ldmref.models.config import ModelConfig
from ldmref.models.controlnet import ControlNet, ControlNetConfig, add
from ldmref.models.model import LatentDiffusion
from ldmref.models.unet import Residuals
from ldmref.modes import checks
from ldmref.modes.picture import Source, resized

MAX_CONTROLS = 16


@dataclass(frozen=True)
class Control:
    """A ControlNet, the picture that it reads, and how much of it when.

    Args:
        net: from `ldmref.loading.load_controlnet`, or a folder or file to load for this call.
        image: path, open file or Pillow picture, as the net was trained to read it (edges, depth,
            poses, ...); another size than the drawn picture's is scaled and cropped.
        weight: factor of the net's outputs, -10 to 10.
        start, end: the part of the steps in which it acts, 0 <= start < end <= 1. Of n steps, it
            acts in step i (from 0) if start <= i/n and (i + 1)/n <= end, as diffusers counts.
    """

    net: ControlNet | str | Path
    image: Source
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0


def checked_controls(config: ModelConfig, controls: Any) -> tuple[Control, ...]:
    """Every control with its picture read and its numbers checked; the nets fit the model.

    Raises:
        UsageError: a number out of range, or a net of another family.
        InputError: a net or picture that cannot be read.
    """
    if not isinstance(controls, list | tuple) or not all(isinstance(c, Control) for c in controls):
        raise UsageError(
            "control must be a list of Control", code="E-CONTROL", hint="[Control(net, image)]"
        )
    if len(controls) > MAX_CONTROLS:
        raise UsageError(f"{len(controls)} controls, the limit is {MAX_CONTROLS}", code="E-CONTROL")
    return tuple(_checked(config, control) for control in controls)


def _checked(config: ModelConfig, control: Control) -> Control:
    weight = checks.number("control weight", control.weight, -10.0, 10.0)
    start = checks.number("control start", control.start, 0.0, 1.0)
    end = checks.number("control end", control.end, 0.0, 1.0)
    if start >= end:
        raise UsageError(
            f"a control must start before it ends, not from {start:g} to {end:g}",
            code="E-CONTROL-START",
        )
    if isinstance(control.net, ControlNet):
        name, found = control.net.name, control.net.config
    elif isinstance(control.net, str | Path):
        file = open_controlnet(control.net, config.unet)
        name, found = file.name, file.config
    else:
        raise UsageError(
            f"a control's net must be a ControlNet or a path, not {control.net!r}",
            code="E-CONTROL",
        )
    _require_fit(config, found, name)
    image = read_image(control.image)
    return replace(control, image=image, weight=weight, start=start, end=end)


def _require_fit(config: ModelConfig, net: ControlNetConfig, name: str) -> None:
    """Refuse a ControlNet whose outputs do not go where the U-Net wants them."""
    ours, theirs = config.unet, net.unet
    same = ("block_out_channels", "layers_per_block", "cross_attention_dim", "class_embed_type",
            "addition_embed_type")  # fmt: skip
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
class Guide:
    """A control on the model's backend; `hint` (1, c, h, w), the same at every step."""

    net: ControlNet
    hint: Array
    control: Control
    image: str  # the digest of the picture as the net reads it

    @property
    def record(self) -> dict[str, Any]:
        """What a picture's metadata tells of it."""
        c = self.control
        numbers = {"weight": c.weight, "start": c.start, "end": c.end, "image": self.image}
        return {"name": self.net.name, "sha256": self.net.sha256} | numbers

    def acts(self, sigmas: Sequence[float]) -> Callable[[float], bool]:
        """Whether it acts at a noise level, of a walk down `sigmas` (n + 1 of them).

        It acts from the level of its first step down to that of the first step without it, so a
        method with several evaluations per step asks by level, not by step.
        """
        n, c = len(sigmas) - 1, self.control
        steps = [i for i in range(n) if c.start <= i / n and (i + 1) / n <= c.end]
        if not steps:
            return lambda sigma: False
        high = float("inf") if steps[0] == 0 else sigmas[steps[0]]
        low = -1.0 if steps[-1] == n - 1 else sigmas[steps[-1] + 1]
        return lambda sigma: low < sigma <= high


def guides_of(
    model: LatentDiffusion, controls: Sequence[Control], width: int, height: int
) -> tuple[list[Guide], list[str]]:
    """The nets loaded and their pictures encoded; warnings for pictures of another size.

    Raises:
        UsageError: a net that is on another backend than the model.
    """
    guides, warnings = [], []
    for control in controls:
        net, ops = control.net, model.backend
        if not isinstance(net, ControlNet):
            net = load_controlnet(net, ops, unet=model.config.unet)
        if net.backend.describe() != ops.describe():
            raise UsageError(
                f"the ControlNet {net.name!r} is on {net.backend!r}, the model on {ops!r}",
                code="E-CONTROL",
                hint="load_controlnet(path, model.backend)",
            )
        image = read_image(control.image)
        if image.size != (width, height):
            sizes = f"{image.width} x {image.height}; cropped and scaled to {width} x {height}"
            warnings.append(f"the control picture is {sizes}")
            image = resized(image, (width, height), "crop")
        pixels = to_array([image])
        digest = hashlib.sha256(np.asarray(image).tobytes()).hexdigest()
        hint = net.encode_hint(ops.asarray((pixels + 1.0) / 2.0))
        guides.append(Guide(net, hint, control, digest))
    return guides, warnings


def residuals_of(
    guides: Sequence[Guide], x: Array, t: Array, told: Conditioning
) -> Residuals | None:
    """What all guides together add to the U-Net; None without any."""
    return add([(g.control.weight, g.net.residuals(x, t, told, g.hint)) for g in guides])
