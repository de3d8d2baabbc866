"""ControlNet: a trainable copy of the U-Net's encoder that conditions the U-Net on an image.

Zhang, Rao, Agrawala 2023, arXiv:2302.05543, section 3; parameter names of diffusers'
ControlNetModel. Its outputs pass through "zero convolutions", initialized to zero, so it has no
effect before training. The conditioning image is called the hint.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.models.compiled import CompiledNetworks
from ldmref.models.conditioning import CachedContext, Conditioning, convert_conditioning
from ldmref.models.denoiser_config import UNetConfig, Width, Widths
from ldmref.models.layers import conv2d
from ldmref.models.params import Params, Spec, flatten, init, numbered, tree_map, unflatten
from ldmref.models.specs import conv_spec
from ldmref.models.unet import Residuals, embed_timestep, run_encoder, unet_spec

DECODER_HALF = ("up_blocks", "conv_norm_out", "conv_out")
HINT = "controlnet_cond_embedding"
ZERO = ("controlnet_down_blocks", "controlnet_mid_block", f"{HINT}.conv_out")


@dataclass(frozen=True)
class ControlNetConfig:
    """The configuration of a ControlNet.

    Args:
        unet: The U-Net whose encoder is copied.
        conditioning_channels: Number of channels of the hint, an image.
        conditioning_embedding_out_channels: Widths of the hint encoder, which downsamples by 2
            between two of them.

    >>> from ldmref.models import ControlNetConfig
    >>> ControlNetConfig().factor  # from pixels to latents
    8
    """

    unet: UNetConfig = field(default_factory=UNetConfig)
    conditioning_channels: Width = 3
    conditioning_embedding_out_channels: Widths = (16, 32, 96, 256)

    @property
    def factor(self) -> int:
        """Downsampling factor of the hint encoder."""
        return 2 ** (len(self.conditioning_embedding_out_channels) - 1)


def controlnet_spec(config: ControlNetConfig) -> Spec:
    """Return the shapes of every parameter."""
    u = config.unet
    widths = config.conditioning_embedding_out_channels
    last = len(u.block_out_channels) - 1
    skips = [u.block_out_channels[0]]
    for level, c in enumerate(u.block_out_channels):
        skips += [c] * (u.layers_per_block + (level < last))
    blocks = [conv_spec(a, width) for a, b in pairwise(widths) for width in (a, b)]
    copied = {name: spec for name, spec in unet_spec(u).items() if name not in DECODER_HALF}
    return copied | {
        HINT: {
            "conv_in": conv_spec(config.conditioning_channels, widths[0]),
            "blocks": numbered(blocks),
            "conv_out": conv_spec(widths[-1], u.block_out_channels[0]),
        },
        "controlnet_down_blocks": numbered(conv_spec(c, c, 1) for c in skips),
        "controlnet_mid_block": conv_spec(u.block_out_channels[-1], u.block_out_channels[-1], 1),
    }


def init_from_unet(unet: Mapping[str, Any], config: ControlNetConfig, seed: int = 0) -> Params:
    """Initialize from a U-Net: its encoder, a random hint encoder and zero convolutions."""
    copied = flatten(unet)
    params = flatten(init(controlnet_spec(config), seed))
    for name, tensor in params.items():
        if name.startswith(tuple(f"{zero}." for zero in ZERO)):
            params[name] = 0.0 * tensor
        elif name in copied:
            params[name] = copied[name]
    return unflatten(params)


def encode_hint(ops: Backend, p: Params, hint: Array) -> Array:
    """Encode the hint, (n, conditioning_channels, H, W) in [0, 1], as features (n, c, H/f, W/f)."""
    p = p[HINT]
    x = ops.silu(conv2d(ops, p.conv_in, hint))
    for i, block in enumerate(p.blocks.items_in_order()):
        x = ops.silu(conv2d(ops, block, x, stride=1 + i % 2))
    return conv2d(ops, p.conv_out, x)


def controlnet(
    ops: Backend,
    p: Params,
    config: ControlNetConfig,
    x: Array,
    t: Array,
    context: Array | CachedContext | None,
    hint: Array,
    pooled: Array | None = None,
    sizes: Array | None = None,
) -> Residuals:
    """Compute the residuals that the U-Net adds to its skip connections and mid block.

    Args:
        ops: The backend.
        p: The parameters of `controlnet_spec`.
        config: The configuration.
        x: The noisy latents alone, (n, c, h, w), also for an inpainting U-Net.
        t: Training timesteps, (n,).
        context: As for `unet`.
        hint: Features from `encode_hint`, (n, c, h, w).
        pooled: As for `unet`.
        sizes: As for `unet`.
    """
    emb = embed_timestep(ops, p, config.unet, x, t, context, pooled, sizes)
    x = conv2d(ops, p.conv_in, x) + hint
    mid, skips = run_encoder(ops, p, config.unet, x, emb, context)
    zero = p.controlnet_down_blocks.items_in_order()
    down = tuple(conv2d(ops, conv, skip) for conv, skip in zip(zero, skips, strict=True))
    return Residuals(down, conv2d(ops, p.controlnet_mid_block, mid))


def add_residuals(terms: list[tuple[float, Residuals]]) -> Residuals | None:
    """Return the weighted sum of the residuals of several ControlNets; None for no terms."""
    total = None
    for weight, residuals in terms:
        down = tuple(weight * x for x in residuals.down)
        mid = weight * residuals.mid
        if total is not None:
            down = tuple(a + b for a, b in zip(total.down, down, strict=True))
            mid = total.mid + mid
        total = Residuals(down, mid)
    return total


class ControlNet:
    """A ControlNet on one backend; `ldmref.load_controlnet` returns one.

    Its methods return arrays of the backend and accept these or NumPy's.

    Args:
        backend: The backend on which it computes.
        config: Its configuration.
        params: A tree of arrays, by the names of diffusers' ControlNetModel.
        name: Its name, for messages and records.
        sha256: SHA-256 of its file; "" without one.

    >>> import numpy as np
    >>> import ldmref
    >>> from ldmref.models import ControlNet, ControlNetConfig
    >>> from ldmref.models.controlnet import init_from_unet
    >>> model = ldmref.random_model("tiny")
    >>> config = ControlNetConfig(model.config.unet, 3, (4, 8))
    >>> net = ControlNet(model.backend, config, init_from_unet(model.params["unet"], config))
    >>> hint = net.encode_hint(np.zeros((1, 3, 16, 16), np.float32))
    >>> context = model.encode_text(["a red cat"])
    >>> residuals = net.residuals(np.zeros((1, 4, 8, 8), np.float32), np.array([10]), context, hint)
    >>> residuals.mid.shape
    (1, 32, 4, 4)
    """

    def __init__(
        self,
        backend: Backend,
        config: ControlNetConfig,
        params: Mapping[str, Any],
        name: str = "controlnet",
        sha256: str = "",
    ):
        self.backend = backend
        self.config = config
        self.name = name
        self.sha256 = sha256
        self.params = tree_map(backend.weight, params)
        self._compiled = CompiledNetworks()

    def with_backend(self, ops: Backend) -> ControlNet:
        """Return a copy that shares all parameters, on `ops`, a backend that wraps this one."""
        other = copy.copy(self)
        other.backend = ops
        other._compiled = CompiledNetworks()
        return other

    def encode_hint(self, hint: Array) -> Array:
        """Return the features of the hints, which do not depend on the step.

        Args:
            hint: Images, (n, 3, H, W) in [0, 1].

        Returns:
            (n, c, H/f, W/f), with c the width of the U-Net's first level.
        """
        with self.backend.inference():
            network = self._compiled.get(self.backend, encode_hint, self.params)
            return network(self.backend.own("hint", hint))

    def residuals(
        self, x: Array, t: Array, context: Array | Conditioning, hint: Array
    ) -> Residuals:
        """Return the residuals of one step, which the U-Net adds to its skip connections.

        Args:
            x: Noisy latents, (n, c, h, w).
            t: Training timesteps, (n,).
            context: Hidden states (n, l, d), or a `Conditioning`, as for `LatentDiffusion.unet`.
            hint: Features from `encode_hint`, (n, c, h, w).
        """
        ops = self.backend
        x = ops.own("x", x)
        t = ops.own("t", t)
        hint = ops.own("hint", hint)
        states, pooled, sizes, _ = convert_conditioning(ops, context)
        with ops.inference():
            network = self._compiled.get(ops, controlnet, self.params)
            return network(self.config, x, t, states, hint, pooled, sizes)

    def __repr__(self) -> str:
        return f"<ControlNet {self.name!r} on {self.backend!r}>"
