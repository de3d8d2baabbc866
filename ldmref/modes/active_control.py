"""Controls of a run: ControlNets on the model's backend, with the hints of their images."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ldmref.errors import UsageError
from ldmref.io.images.pil import to_array
from ldmref.loading_networks import load_controlnet
from ldmref.math.arrays import Array
from ldmref.models.conditioning import Conditioning, repeat
from ldmref.models.config import ModelConfig
from ldmref.models.control import ControlNet
from ldmref.models.model import LatentDiffusion
from ldmref.models.residuals import add_residuals, weigh_residuals
from ldmref.modes.channels import encode_array
from ldmref.modes.control import Control, MaskedControl, size_control
from ldmref.modes.masks import masked_pixels, shrink_mask
from ldmref.samplers.interfaces import Interval
from ldmref.samplers.noise import Streams


@dataclass(frozen=True)
class ActiveControl:
    """A control on the model's backend, which acts from level `first` to before level `end`.

    Levels are indices into the sigmas of the run.

    Args:
        net: The ControlNet.
        hint: What it reads of the image, (1 or n, c, h, w), the same at every step.
        control: The control of the request.
        image_sha256: Digest of the image as the net reads it; "" for the image to inpaint.
        warning: A warning about the size of the image, or "".
        std: Standard deviations of a hint that diffusers' pipelines sample; None: they do not.
        first, end: The levels at which it acts.
    """

    net: ControlNet
    hint: Array
    control: Control
    image_sha256: str
    warning: str = ""
    std: np.ndarray | None = field(default=None, repr=False)
    first: int = 0
    end: float = math.inf

    @property
    def record(self) -> dict[str, Any]:
        """The control as an image records it."""
        c = self.control
        numbers = {"weight": c.weight, "start": c.start, "end": c.end}
        image = {"image": self.image_sha256} if self.image_sha256 else {}
        kind = find_kind(self.net, c)
        mode = {} if kind is None else {"mode": kind}
        return {"name": self.net.name, "sha256": self.net.sha256} | numbers | image | mode

    def with_sampled_hint(self, streams: Streams) -> ActiveControl:
        """Return the control of a batch, its hint sampled if diffusers' pipelines sample it."""
        if self.std is None:
            return self
        noise = self.net.backend.asarray(self.std * streams())
        return replace(self, hint=self.hint + noise)

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


def find_kind(net: ControlNet, control: Control) -> int | None:
    """Return the number of the kind of a control's image: of the request, or of the net's file."""
    return net.declared.kind(net.config) if control.mode is None else control.mode


def load_control(model: LatentDiffusion, control: Control, size: tuple[int, int]) -> ActiveControl:
    """Load the net and encode its image at the size of the generated image.

    Raises:
        UsageError: The net is on another backend than the model.
    """
    net = control.net
    ops = model.backend
    if not isinstance(net, ControlNet):
        net = load_controlnet(net, ops, unet=model.config.denoiser)
    if net.backend.describe() != ops.describe():
        raise UsageError(
            f"the ControlNet {net.name!r} is on {net.backend!r}, the model on {ops!r}",
            code="E-CONTROL",
            hint="load_controlnet(path, model.backend)",
        )
    net = net.for_denoiser(model.params[model.config.denoiser.network])
    if ops.observes_layers:
        net = net.with_backend(ops)
    image, warning = size_control(control, size)
    mask = control.mask if isinstance(control, MaskedControl) else None
    digest = "" if mask else hashlib.sha256(np.asarray(image).tobytes()).hexdigest()
    encoder = net.hint_encoder
    pixels = to_array([image])
    if encoder is not None and encoder.inputs[0].content == "hint":
        pixels = (pixels + 1.0) / 2.0
    if mask is not None:
        pixels = np.where(masked_pixels(mask), np.float32(net.declared.hole(net.config)), pixels)
    if encoder is not None:
        return ActiveControl(net, net.encode_hint(ops.asarray(pixels)), control, digest, warning)
    pixels = net.declared.scale_image(net.config, pixels, find_kind(net, control))
    latents = encode_array(model, pixels)
    hint = net.declared.make_hint(net.config, model.config.vae, latents.mean)
    if mask is not None:
        kept = 1.0 - shrink_mask(mask, model.config.vae.factor)
        hint = np.concatenate([hint, kept], axis=1)
    std = latents.std if net.declared.draws_hint else None
    return ActiveControl(net, ops.asarray(hint), control, digest, warning, std)


def sum_residuals(
    config: ModelConfig,
    controls: Sequence[ActiveControl],
    x: Array,
    t: Array,
    conditioning: Conditioning,
) -> Any | None:
    """Return the sum of the residuals that the controls add to the denoiser; None without any.

    Args:
        config: The configuration of the model.
        controls: The controls that act.
        x: Noisy latents, (n, c, h, w).
        t: Training timesteps, (n,).
        conditioning: That of the denoiser.
    """
    terms = []
    for control in controls:
        net = control.net
        hint = control.hint
        if hint.shape[0] > 1:  # one for each image, of which x may have several predictions
            hint = repeat(net.backend, hint, x.shape[0])
        reads = net.declared.networks(net.config)[-1].input_of("mode")
        kind = control.control.mode if reads else None
        mode = None if kind is None else np.full((x.shape[0], 1), kind)
        found = net.residuals(x, t, conditioning, hint, mode)
        weighted = weigh_residuals(control.control.weight, found)
        terms.append(net.declared.place(config, net.config, weighted))
    return add_residuals(terms)
