"""The autoencoder of Qwen-Image 2.1, between images with alpha and latents.

Its levels have shortcuts without parameters (Chen et al. 2024, arXiv:2410.10733, section 3.2). The
networks are those of diffusers' AutoencoderKLQwenImage21 on one frame, which has layers along time
that an image never reaches; parameter names are those of that class.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ldmref.backends.base import Backend
from ldmref.families.qwen_image_21.autoencoder_config import (
    QwenImage21AutoencoderConfig,
    broken_rules,
    read_config,
    shrink,
)
from ldmref.math.arrays import Array
from ldmref.models.autoencoder_kind import Autoencoder
from ldmref.models.layers import conv2d, layer
from ldmref.models.params import Params, Spec, numbered
from ldmref.models.specs import conv_spec

EPS = 1e-12  # the least length of a vector of channels, by which it is divided


def autoencoder_spec(config: QwenImage21AutoencoderConfig) -> Spec:
    """Return the shapes of every parameter that an image needs."""
    z = config.latent_channels
    wide, narrow = config.encoder_dims, config.decoder_dims
    last = len(wide) - 2
    down: list[Spec] = []
    for level, (c_in, c_out) in enumerate(pairwise(wide)):
        block = residual_blocks_spec(c_in, c_out, config.num_res_blocks)
        down.append(block | ({"downsampler": resample_spec(c_out)} if level < last else {}))
    up: list[Spec] = []
    for level, (c_in, c_out) in enumerate(pairwise(narrow)):
        block = residual_blocks_spec(c_in, c_out, config.num_res_blocks + 1)
        up.append(block | ({"upsampler": resample_spec(c_out)} if level < last else {}))
    return {
        "encoder": {
            "conv_in": conv_spec(config.in_channels, wide[0]),
            "down_blocks": numbered(down),
            "mid_block": mid_block_spec(wide[-1]),
            "norm_out": {"gamma": (wide[-1], 1, 1, 1)},
            "conv_out": conv_spec(wide[-1], 2 * z),
        },
        "quant_conv": conv_spec(2 * z, 2 * z, 1),
        "post_quant_conv": conv_spec(z, z, 1),
        "decoder": {
            "conv_in": conv_spec(z, narrow[0]),
            "mid_block": mid_block_spec(narrow[0]),
            "up_blocks": numbered(up),
            "norm_out": {"gamma": (narrow[-1], 1, 1, 1)},
            "conv_out": conv_spec(narrow[-1], config.out_channels),
        },
    }


def residual_blocks_spec(c_in: int, c_out: int, count: int) -> Spec:
    """Return the shapes of the residual blocks of a level."""
    widths = pairwise([c_in] + [c_out] * count)
    return {"resnets": numbered([residual_block_spec(*width) for width in widths])}


def residual_block_spec(c_in: int, c_out: int) -> Spec:
    """Return the shapes of `residual_block`."""
    block: Spec = {
        "norm1": {"gamma": (c_in, 1, 1, 1)},
        "conv1": conv_spec(c_in, c_out),
        "norm2": {"gamma": (c_out, 1, 1, 1)},
        "conv2": conv_spec(c_out, c_out),
    }
    return block if c_in == c_out else block | {"conv_shortcut": conv_spec(c_in, c_out, 1)}


def resample_spec(c: int) -> Spec:
    """Return the shapes of `downsample` and `upsample`."""
    return {"resample": {"1": conv_spec(c, c)}}


def mid_block_spec(c: int) -> Spec:
    """Return the shapes of the blocks between encoder or decoder and its levels."""
    attention: Spec = {
        "norm": {"gamma": (c, 1, 1)},
        "to_qkv": conv_spec(c, 3 * c, 1),
        "proj": conv_spec(c, c, 1),
    }
    return {
        "attentions": numbered([attention]),
        "resnets": numbered([residual_block_spec(c, c)] * 2),
    }


@layer
def channel_norm(ops: Backend, p: Params, x: Array) -> Array:
    """Scale the channels of each pixel to the length sqrt(c), times gamma; x: (n, c, h, w)."""
    c = x.shape[1]
    wide = ops.cast(x, ops.state_dtype)
    length = ops.xp.sqrt(ops.xp.sum(wide * wide, axis=1, keepdims=True))
    unit = ops.xp.astype(wide / ops.xp.clip(length, EPS, None), x.dtype, copy=False)
    return unit * (c**0.5) * ops.xp.reshape(p.gamma, (c, 1, 1))


@layer
def residual_block(ops: Backend, p: Params, x: Array) -> Array:
    """Apply a residual block; x: (n, c_in, h, w) -> (n, c_out, h, w)."""
    h = conv2d(ops, p.conv1, ops.silu(channel_norm(ops, p.norm1, x)))
    h = conv2d(ops, p.conv2, ops.silu(channel_norm(ops, p.norm2, h)))
    return h + (conv2d(ops, p.conv_shortcut, x) if "conv_shortcut" in p else x)


@layer
def attention_block(ops: Backend, p: Params, x: Array) -> Array:
    """Apply attention of one head over all pixels; x: (n, c, h, w) -> the same shape."""
    n, c, h, w = x.shape
    xp = ops.xp
    qkv = conv2d(ops, p.to_qkv, channel_norm(ops, p.norm, x))
    rows = xp.permute_dims(xp.reshape(qkv, (n, 3 * c, h * w)), (0, 2, 1))[:, None, :, :]
    q, k, v = (rows[..., i * c : (i + 1) * c] for i in range(3))
    out = xp.permute_dims(ops.attention(q, k, v)[:, 0, ...], (0, 2, 1))
    return x + conv2d(ops, p.proj, xp.reshape(out, (n, c, h, w)))


@layer
def downsample(ops: Backend, p: Params, x: Array) -> Array:
    """Convolve with stride 2 and zeros on the right and at the bottom; (n, c, h, w), halved."""
    conv = p.resample["1"]
    return ops.conv2d(ops.pad_bottom_right(x), conv.weight, conv.bias, stride=2)


@layer
def upsample(ops: Backend, p: Params, x: Array) -> Array:
    """Double each pixel and convolve; x: (n, c, h, w) -> (n, c, 2 h, 2 w)."""
    return conv2d(ops, p.resample["1"], ops.upsample2x(x))


@layer
def mid_block(ops: Backend, p: Params, x: Array) -> Array:
    """Apply a residual block, attention and a residual block; x: (n, c, h, w)."""
    x = residual_block(ops, p.resnets["0"], x)
    x = attention_block(ops, p.attentions["0"], x)
    return residual_block(ops, p.resnets["1"], x)


def shrink_image(ops: Backend, x: Array, width: int, frames: int) -> Array:
    """Average groups of the numbers in 2 x 2 pixels, the shortcut of a level that halves an image.

    The numbers are counted by channel, frame, row and column. There are zeros in the frames before
    the only one, so with two frames some of the channels are 0.

    Args:
        ops: The backend.
        x: (n, c, h, w).
        width: The number of channels of the result.
        frames: How many frames the level joins.

    Returns:
        (n, width, h / 2, w / 2).
    """
    xp = ops.xp
    n, c, height, columns = x.shape
    h, w = height // 2, columns // 2
    squares = xp.permute_dims(xp.reshape(x, (n, c, h, 2, w, 2)), (0, 1, 3, 5, 2, 4))
    squares = xp.reshape(squares, (n, c, 4, h, w))
    squares = xp.concat([0.0 * squares] * (frames - 1) + [squares], axis=2)
    groups = xp.reshape(squares, (n, width, c * 4 * frames // width, h, w))
    return xp.mean(groups, axis=2)


def enlarge_image(ops: Backend, x: Array, width: int, frames: int) -> Array:
    """Distribute channels over 2 x 2 pixels, the shortcut of a level that doubles an image.

    Each channel is repeated to as many numbers of the result, counted by channel, frame, row and
    column; an image is the last frame.

    Args:
        ops: The backend.
        x: (n, c, h, w).
        width: The number of channels of the result.
        frames: How many frames the level makes.

    Returns:
        (n, width, 2 h, 2 w).
    """
    xp = ops.xp
    n, c, h, w = x.shape
    parts = xp.reshape(x, (n, width, c // width, h, w))
    first = 4 * (frames - 1)
    numbers = [(first + i) * c // (4 * frames * width) for i in range(4)]
    if len({*numbers}) == 1:
        return ops.upsample2x(parts[:, :, numbers[0], ...])
    pixels = [parts[:, :, number, ..., None] for number in numbers]
    rows = [xp.concat(pixels[i : i + 2], axis=-1) for i in (0, 2)]
    rows = [xp.reshape(row, (n, width, h, 1, 2 * w)) for row in rows]
    return xp.reshape(xp.concat(rows, axis=3), (n, width, 2 * h, 2 * w))


@layer
def down_block(ops: Backend, p: Params, x: Array, frames: int) -> Array:
    """Apply the residual blocks of a level, halve the image and add the shortcut."""
    h = x
    for resnet in p.resnets.items_in_order():
        h = residual_block(ops, resnet, h)
    if "downsampler" not in p:
        return h + x
    return downsample(ops, p.downsampler, h) + shrink_image(ops, x, h.shape[1], frames)


@layer
def up_block(ops: Backend, p: Params, x: Array, frames: int) -> Array:
    """Apply the residual blocks of a level, double the image and add the shortcut."""
    h = x
    for resnet in p.resnets.items_in_order():
        h = residual_block(ops, resnet, h)
    if "upsampler" not in p:
        return h
    return upsample(ops, p.upsampler, h) + enlarge_image(ops, x, h.shape[1], frames)


def encode(
    ops: Backend, p: Params, config: QwenImage21AutoencoderConfig, image: Array
) -> tuple[Array, Array]:
    """Return mean and log-variance of z, (n, z, H/16, W/16), of images (n, 4, H, W) in [-1, 1]."""
    e = p.encoder
    x = conv2d(ops, e.conv_in, image)
    for block, frames in zip(e.down_blocks.items_in_order(), config.frames, strict=True):
        x = down_block(ops, block, x, frames)
    x = mid_block(ops, e.mid_block, x)
    x = conv2d(ops, e.conv_out, ops.silu(channel_norm(ops, e.norm_out, x)))
    moments = conv2d(ops, p.quant_conv, x)
    z = config.latent_channels
    return moments[:, :z, ...], ops.xp.clip(moments[:, z:, ...], -30.0, 20.0)


def decode(ops: Backend, p: Params, config: QwenImage21AutoencoderConfig, z: Array) -> Array:
    """Return the images of z, (n, 4, H, W) in [-1, 1]."""
    d = p.decoder
    x = conv2d(ops, d.conv_in, conv2d(ops, p.post_quant_conv, z))
    x = mid_block(ops, d.mid_block, x)
    frames = (*config.frames[-2::-1], 1)
    for block, joined in zip(d.up_blocks.items_in_order(), frames, strict=True):
        x = up_block(ops, block, x, joined)
    x = conv2d(ops, d.conv_out, ops.silu(channel_norm(ops, d.norm_out, x)))
    return ops.xp.clip(x, -1.0, 1.0)


def per_channel(ops: Backend, numbers: tuple[float, ...]) -> Array:
    """Return a number per channel, (c, 1, 1)."""
    return ops.asarray(np.asarray(numbers)[:, None, None], ops.state_dtype)


def normalize(ops: Backend, p: Params, config: QwenImage21AutoencoderConfig, z: Array) -> Array:
    """Return the latents (z - mean) / deviation."""
    return (z - per_channel(ops, config.latents_mean)) / per_channel(ops, config.latents_std)


def denormalize(
    ops: Backend, p: Params, config: QwenImage21AutoencoderConfig, latents: Array
) -> Array:
    """Return z of latents."""
    return latents * per_channel(ops, config.latents_std) + per_channel(ops, config.latents_mean)


def find_spread(ops: Backend, p: Params, config: QwenImage21AutoencoderConfig) -> Array:
    """Return by what `normalize` multiplies a deviation."""
    return 1.0 / per_channel(ops, config.latents_std)


AUTOENCODER = Autoencoder(
    "qwen-image-2.1",
    "Qwen-Image 2.1 autoencoder",
    QwenImage21AutoencoderConfig,
    autoencoder_spec,
    encode,
    decode,
    normalize,
    denormalize,
    find_spread,
    classes={"AutoencoderKLQwenImage21": read_config},
    ignored=r".*\.time_conv\.(weight|bias)",
    shrink=shrink,
    broken_rules=broken_rules,
)
"""The kind of autoencoder."""
