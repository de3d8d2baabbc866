"""ControlNet: a trainable copy of the U-Net's encoder that conditions the U-Net on an image.

Zhang, Rao, Agrawala 2023, arXiv:2302.05543, section 3; parameter names of diffusers'
ControlNetModel. Its outputs pass through "zero convolutions", initialized to zero, so it has no
effect before training. The conditioning image is called the hint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.models.conditioning import CachedContext
from ldmref.models.denoiser_config import UNetConfig, Width, Widths
from ldmref.models.layers import conv2d
from ldmref.models.params import Params, Spec, flatten, init, numbered, unflatten
from ldmref.models.specs import conv_spec
from ldmref.models.unet import Residuals, embed_timestep, run_encoder, unet_spec

NOT_COPIED = ("up_blocks", "conv_norm_out", "conv_out", "step_embedding")  # by the encoder
HINT = "controlnet_cond_embedding"
ZERO = ("controlnet_down_blocks", "controlnet_mid_block", f"{HINT}.conv_out")


@dataclass(frozen=True)
class ControlNetConfig:
    """The configuration of a ControlNet of a U-Net.

    Args:
        unet: The U-Net whose encoder is copied.
        conditioning_channels: Number of channels of the hint, an image.
        conditioning_embedding_out_channels: Widths of the hint encoder, which downsamples by 2
            between two of them.

    >>> from ldmref.models import ControlNetConfig
    >>> ControlNetConfig().factor  # from pixels to latents
    8
    """

    family: ClassVar[str] = UNetConfig.family
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
    copied = {name: spec for name, spec in unet_spec(u).items() if name not in NOT_COPIED}
    return copied | {
        HINT: pixel_spec(config.conditioning_channels, widths, u.block_out_channels[0]),
        "controlnet_down_blocks": numbered(conv_spec(c, c, 1) for c in skips),
        "controlnet_mid_block": conv_spec(u.block_out_channels[-1], u.block_out_channels[-1], 1),
    }


def pixel_spec(channels: int, widths: Sequence[int], features: int) -> Spec:
    """Return the shapes of an encoder of images, which downsamples by 2 between two widths."""
    blocks = [conv_spec(a, width) for a, b in pairwise(widths) for width in (a, b)]
    return {
        "conv_in": conv_spec(channels, widths[0]),
        "blocks": numbered(blocks),
        "conv_out": conv_spec(widths[-1], features),
    }


def init_from_unet(unet: Mapping[str, Any], config: ControlNetConfig, seed: int = 0) -> Params:
    """Initialize from a U-Net: its encoder, a random hint encoder and zero convolutions."""
    copied = flatten(unet)
    params = flatten(init(controlnet_spec(config), seed))
    for name, tensor in params.items():
        if name.startswith(tuple(f"{zero}." for zero in ZERO)):
            params[name] = np.zeros_like(tensor)
        elif name in copied:
            params[name] = copied[name]
    return unflatten(params)


def encode_hint(ops: Backend, p: Params, hint: Array) -> Array:
    """Encode the hint, (n, conditioning_channels, H, W) in [0, 1], as features (n, c, H/f, W/f)."""
    return encode_pixels(ops, p[HINT], hint)


def encode_pixels(ops: Backend, p: Params, image: Array) -> Array:
    """Encode an image (n, k, H, W) as features (n, c, H/f, W/f); the parameters: `pixel_spec`."""
    x = ops.silu(conv2d(ops, p.conv_in, image))
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
