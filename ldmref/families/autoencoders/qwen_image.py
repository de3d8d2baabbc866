"""Qwen-Image's autoencoder on one image, which is also Krea 2's.

It is made for videos: its kernels are causal in time. An image is one frame, after which no other
comes and before which there are zeros, so of each kernel only the last frame counts, and the
convolutions along time are never called: all that is left has two dimensions, and is exact. Latents
are z less a mean, over a deviation, per channel. Wu et al. 2025, arXiv:2508.02324, section 2.2;
Wan Team 2025, arXiv:2503.20314, section 4.1. Parameter names of diffusers' AutoencoderKLQwenImage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any

import numpy as np

from ldmref.backends.base import Backend
from ldmref.declare import Length, Range
from ldmref.io.diffusers.checks import require_plain
from ldmref.io.diffusers.declared import read_declared
from ldmref.io.key_table import KeyEntry, key_table
from ldmref.math.arrays import Array
from ldmref.models.autoencoder_config import BaseAutoencoderConfig
from ldmref.models.autoencoder_kind import Autoencoder
from ldmref.models.denoiser_config import Width
from ldmref.models.layers import conv2d, layer
from ldmref.models.params import Params, Spec, flatten, numbered
from ldmref.models.specs import conv_spec

PLAIN = {"attn_scales": ([], ()), "dropout": (0.0,)}
MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
DEVIATION = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip
IN_BLOCKS = {  # of a residual block, in the makers' files
    "norm1": "residual.0",
    "conv1": "residual.2",
    "norm2": "residual.3",
    "conv2": "residual.6",
    "conv_shortcut": "shortcut",
}
EPS = 1e-12  # of a vector's length, as in torch's `normalize`
Numbers = Annotated[tuple[float, ...], Range(-1e6, 1e6), Length(1, 65536)]


@dataclass(frozen=True)
class QwenAutoencoderConfig(BaseAutoencoderConfig):
    """Qwen-Image's autoencoder between images (n, 3, H, W) and latents (n, 16, H/8, W/8).

    Args:
        latent_channels: Channels z of the latents.
        base_dim: Channels of the largest arrays.
        dim_mult: By how much each level has more; every level but the last halves the size.
        num_res_blocks: Residual blocks of a level of the encoder; the decoder has one more.
        latents_mean: Mean of z, a number per channel.
        latents_std: Its standard deviation.
    """

    latent_channels: Width = 16
    base_dim: Width = 96
    dim_mult: Annotated[tuple[int, ...], Range(1, 64), Length(1, 10)] = (1, 2, 4, 4)
    num_res_blocks: Annotated[int, Range(1, 16)] = 2
    latents_mean: Numbers = MEAN
    latents_std: Numbers = DEVIATION

    @property
    def kind(self) -> str:
        """The name of the kind."""
        return "qwen-image"

    @property
    def factor(self) -> int:
        """The pixels per cell of the latents."""
        return 2 ** (len(self.dim_mult) - 1)

    @property
    def decoder_width(self) -> int:
        """The channels of the decoder's largest arrays, which the last level takes."""
        return self.base_dim * self.dim_mult[0]


# -- parameters -----------------------------------------------------------------------------------


def spec(config: QwenAutoencoderConfig) -> Spec:
    """Return the shapes of every parameter that an image needs."""
    z = config.latent_channels
    dims = [config.base_dim * m for m in config.dim_mult]
    last = len(dims) - 1
    down: list[Spec] = []
    for level, (c_in, c_out) in enumerate(pairwise((config.base_dim, *dims))):
        widths = pairwise([c_in] + [c_out] * config.num_res_blocks)
        down += [block_spec(*width) for width in widths]
        down += [resample_spec(c_out, c_out)] * (level < last)
    up: list[Spec] = []
    for level, (c_in, c_out) in enumerate(pairwise((dims[-1], *dims[::-1]))):
        c_in = c_in // 2 if level else c_in
        widths = pairwise([c_in] + [c_out] * (config.num_res_blocks + 1))
        block: Spec = {"resnets": numbered([block_spec(*width) for width in widths])}
        if level < last:
            block["upsamplers"] = numbered([resample_spec(c_out, c_out // 2)])
        up.append(block)
    return {
        "encoder": {
            "conv_in": conv_spec(config.in_channels, config.base_dim),
            "down_blocks": numbered(down),
            "mid_block": mid_spec(dims[-1]),
            "norm_out": {"gamma": (dims[-1], 1, 1, 1)},
            "conv_out": conv_spec(dims[-1], 2 * z),
        },
        "quant_conv": conv_spec(2 * z, 2 * z, 1),
        "post_quant_conv": conv_spec(z, z, 1),
        "decoder": {
            "conv_in": conv_spec(z, dims[-1]),
            "mid_block": mid_spec(dims[-1]),
            "up_blocks": numbered(up),
            "norm_out": {"gamma": (dims[0], 1, 1, 1)},
            "conv_out": conv_spec(dims[0], config.out_channels),
        },
    }


def block_spec(c_in: int, c_out: int) -> Spec:
    block: Spec = {
        "norm1": {"gamma": (c_in, 1, 1, 1)},
        "conv1": conv_spec(c_in, c_out),
        "norm2": {"gamma": (c_out, 1, 1, 1)},
        "conv2": conv_spec(c_out, c_out),
    }
    return block if c_in == c_out else block | {"conv_shortcut": conv_spec(c_in, c_out, 1)}


def resample_spec(c_in: int, c_out: int) -> Spec:
    return {"resample": {"1": conv_spec(c_in, c_out)}}


def mid_spec(c: int) -> Spec:
    attention = {
        "norm": {"gamma": (c, 1, 1)},
        "to_qkv": conv_spec(c, 3 * c, 1),
        "proj": conv_spec(c, c, 1),
    }
    return {
        "resnets": numbered([block_spec(c, c)] * 2),
        "attentions": numbered([attention]),
    }


def stored(config: QwenAutoencoderConfig, table: Mapping[str, KeyEntry]) -> dict[str, KeyEntry]:
    """Return the table of the file: kernels have frames, except those of two dimensions."""
    found = {}
    for name, entry in table.items():
        flat = ".resample." in name or ".attentions." in name or len(entry.shape) != 4
        kernel = not flat and name.endswith(".weight")
        found[name] = replace(entry, frames=entry.shape[-1]) if kernel else entry
    return found


def original_table(config: QwenAutoencoderConfig) -> dict[str, KeyEntry]:
    """Return the makers' tensor for each parameter, as in Wan 2.1's files and ComfyUI's.

    Their residual blocks and resamplers are numbered through all levels of a half. Source:
    github.com/Wan-Video/Wan2.1, wan/modules/vae.py.
    """
    blocks = {"quant_conv": "conv1", "post_quant_conv": "conv2"}
    for half in ("encoder", "decoder"):
        blocks |= {
            f"{half}.conv_in": f"{half}.conv1",
            f"{half}.mid_block.resnets.0": f"{half}.middle.0",
            f"{half}.mid_block.attentions.0": f"{half}.middle.1",
            f"{half}.mid_block.resnets.1": f"{half}.middle.2",
            f"{half}.norm_out": f"{half}.head.0",
            f"{half}.conv_out": f"{half}.head.2",
        }
    levels = len(config.dim_mult)
    count = config.num_res_blocks  # of a level; the decoder has one more
    for number in range(levels * (count + 1) - 1):
        blocks[f"encoder.down_blocks.{number}"] = f"encoder.downsamples.{number}"
    for level in range(levels):
        up, first = f"decoder.up_blocks.{level}", level * (count + 2)
        for number in range(count + 1):
            blocks[f"{up}.resnets.{number}"] = f"decoder.upsamples.{first + number}"
        blocks[f"{up}.upsamplers.0"] = f"decoder.upsamples.{first + count + 1}"
    return stored(config, key_table(flatten(spec(config)), blocks, IN_BLOCKS))


# -- networks -------------------------------------------------------------------------------------


@layer
def norm(ops: Backend, p: Params, x: Array) -> Array:
    """Scale the channels of each pixel to the length sqrt(c), times gamma; x: (n, c, h, w)."""
    c = x.shape[1]
    wide = ops.cast(x, ops.state_dtype)
    length = ops.xp.sqrt(ops.xp.sum(wide * wide, axis=1, keepdims=True))
    unit = ops.xp.astype(wide / ops.xp.clip(length, EPS, None), x.dtype)
    return unit * (c**0.5) * ops.xp.reshape(p.gamma, (c, 1, 1))


@layer
def residual_block(ops: Backend, p: Params, x: Array) -> Array:
    """Apply a residual block; x: (n, c_in, h, w) -> (n, c_out, h, w)."""
    h = conv2d(ops, p.conv1, ops.silu(norm(ops, p.norm1, x)))
    h = conv2d(ops, p.conv2, ops.silu(norm(ops, p.norm2, h)))
    return h + (conv2d(ops, p.conv_shortcut, x) if "conv_shortcut" in p else x)


@layer
def attention_block(ops: Backend, p: Params, x: Array) -> Array:
    """Apply attention of one head over all pixels; x: (n, c, h, w) -> the same shape."""
    n, c, h, w = x.shape
    xp = ops.xp
    qkv = conv2d(ops, p.to_qkv, norm(ops, p.norm, x))
    rows = xp.permute_dims(xp.reshape(qkv, (n, 3 * c, h * w)), (0, 2, 1))[:, None, :, :]
    q, k, v = (rows[..., i * c : (i + 1) * c] for i in range(3))
    out = xp.permute_dims(ops.attention(q, k, v)[:, 0, ...], (0, 2, 1))
    return x + conv2d(ops, p.proj, xp.reshape(out, (n, c, h, w)))


@layer
def downsample(ops: Backend, p: Params, x: Array) -> Array:
    """Halve height and width, padded on the right and at the bottom."""
    conv = p.resample["1"]
    return ops.conv2d(ops.pad_bottom_right(x), conv.weight, conv.bias, 2, 0)


@layer
def upsample(ops: Backend, p: Params, x: Array) -> Array:
    """Double height and width by repeating pixels, and convolve."""
    return conv2d(ops, p.resample["1"], ops.upsample2x(x))


def mid_block(ops: Backend, p: Params, x: Array) -> Array:
    """Apply a residual block, attention and a residual block; x: (n, c, h, w)."""
    x = residual_block(ops, p.resnets["0"], x)
    x = attention_block(ops, p.attentions["0"], x)
    return residual_block(ops, p.resnets["1"], x)


def encode(
    ops: Backend, p: Params, config: QwenAutoencoderConfig, image: Array
) -> tuple[Array, Array]:
    """Return mean and log-variance of z, (n, 16, H/8, W/8)."""
    e = p.encoder
    x = conv2d(ops, e.conv_in, image)
    for block in e.down_blocks.items_in_order():
        x = (downsample if "resample" in block else residual_block)(ops, block, x)
    x = mid_block(ops, e.mid_block, x)
    x = conv2d(ops, e.conv_out, ops.silu(norm(ops, e.norm_out, x)))
    moments = conv2d(ops, p.quant_conv, x)
    z = config.latent_channels
    return moments[:, :z, ...], ops.xp.clip(moments[:, z:, ...], -30.0, 20.0)


def decode(ops: Backend, p: Params, config: QwenAutoencoderConfig, z: Array) -> Array:
    """Return the images of z, in [-1, 1]."""
    d = p.decoder
    x = conv2d(ops, d.conv_in, conv2d(ops, p.post_quant_conv, z))
    x = mid_block(ops, d.mid_block, x)
    for block in d.up_blocks.items_in_order():
        for resnet in block.resnets.items_in_order():
            x = residual_block(ops, resnet, x)
        if "upsamplers" in block:
            x = upsample(ops, block.upsamplers["0"], x)
    x = conv2d(ops, d.conv_out, ops.silu(norm(ops, d.norm_out, x)))
    return ops.xp.clip(x, -1.0, 1.0)


# -- latents --------------------------------------------------------------------------------------


def column(ops: Backend, numbers: tuple[float, ...]) -> Array:
    """Return a number per channel, (c, 1, 1)."""
    return ops.asarray(np.asarray(numbers)[:, None, None], ops.state_dtype)


def normalize(ops: Backend, p: Params, config: QwenAutoencoderConfig, z: Array) -> Array:
    """Return (z - mean) / deviation."""
    return (z - column(ops, config.latents_mean)) / column(ops, config.latents_std)


def denormalize(ops: Backend, p: Params, config: QwenAutoencoderConfig, latents: Array) -> Array:
    """Return z of latents."""
    return latents * column(ops, config.latents_std) + column(ops, config.latents_mean)


# -- files ----------------------------------------------------------------------------------------


NAMES = {  # of fields in diffusers' configuration
    "in_channels": "input_channels",
    "out_channels": "input_channels",
    "latent_channels": "z_dim",
}


def read_config(data: Mapping[str, Any]) -> QwenAutoencoderConfig:
    """Return the configuration of diffusers' AutoencoderKLQwenImage."""
    require_plain(data, PLAIN, "the autoencoder's configuration")
    return read_declared(QwenAutoencoderConfig(), data, "vae", NAMES)


def broken_rules(config: QwenAutoencoderConfig) -> Iterator[str]:
    """Yield the relations between fields that do not hold."""
    for name in ("latents_mean", "latents_std"):
        if len(getattr(config, name)) != config.latent_channels:
            yield f"vae.{name} needs a number per latent channel"
    if min(config.latents_std) <= 0:
        yield "vae.latents_std must be positive"


def shrink(config: QwenAutoencoderConfig) -> QwenAutoencoderConfig:
    """Return a tiny version: two levels, 4 channels of latents."""
    return replace(
        config,
        latent_channels=4,
        base_dim=8,
        dim_mult=(1, 2),
        num_res_blocks=1,
        latents_mean=config.latents_mean[:4],
        latents_std=config.latents_std[:4],
    )


QWEN_IMAGE = Autoencoder(
    "qwen-image",
    "Qwen-Image autoencoder",
    QwenAutoencoderConfig,
    spec,
    encode,
    decode,
    normalize,
    denormalize,
    spread=lambda ops, p, config: 1.0 / column(ops, config.latents_std),
    classes={"AutoencoderKLQwenImage": read_config},
    stored=stored,
    makers=original_table,
    ignored=r".*\.time_conv\.(weight|bias)",
    shrink=shrink,
    broken_rules=broken_rules,
)
"""The kind of autoencoder."""
