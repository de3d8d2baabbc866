"""The autoencoder of Qwen-Image 2.1, between images with alpha and latents.

Its layers are those of Qwen-Image's, and around its levels are shortcuts without parameters (Chen
et al. 2024, arXiv:2410.10733, section 3.2). The networks are those of diffusers'
AutoencoderKLQwenImage21 on one frame, which has layers along time that an image never reaches;
parameter names are those of that class.
"""

from __future__ import annotations

from itertools import pairwise

from array_api_compat import array_namespace

from ldmref.backends.base import Backend
from ldmref.families.autoencoders.qwen_image import (
    block_spec,
    column,
    denormalize,
    downsample,
    mid_block,
    mid_spec,
    norm,
    normalize,
    resample_spec,
    residual_block,
    upsample,
)
from ldmref.families.autoencoders.qwen_image_21_config import (
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

SHORTCUT = "avg_shortcut"  # the module around a level in diffusers


def autoencoder_spec(config: QwenImage21AutoencoderConfig) -> Spec:
    """Return the shapes of every parameter that an image needs."""
    z = config.latent_channels
    wide, narrow = config.encoder_dims, config.decoder_dims
    last = len(wide) - 2
    down: list[Spec] = []
    for level, (c_in, c_out) in enumerate(pairwise(wide)):
        block = residual_blocks_spec(c_in, c_out, config.num_res_blocks)
        down.append(block | ({"downsampler": resample_spec(c_out, c_out)} if level < last else {}))
    up: list[Spec] = []
    for level, (c_in, c_out) in enumerate(pairwise(narrow)):
        block = residual_blocks_spec(c_in, c_out, config.num_res_blocks + 1)
        up.append(block | ({"upsampler": resample_spec(c_out, c_out)} if level < last else {}))
    return {
        "encoder": {
            "conv_in": conv_spec(config.in_channels, wide[0]),
            "down_blocks": numbered(down),
            "mid_block": mid_spec(wide[-1]),
            "norm_out": {"gamma": (wide[-1], 1, 1, 1)},
            "conv_out": conv_spec(wide[-1], 2 * z),
        },
        "quant_conv": conv_spec(2 * z, 2 * z, 1),
        "post_quant_conv": conv_spec(z, z, 1),
        "decoder": {
            "conv_in": conv_spec(z, narrow[0]),
            "mid_block": mid_spec(narrow[0]),
            "up_blocks": numbered(up),
            "norm_out": {"gamma": (narrow[-1], 1, 1, 1)},
            "conv_out": conv_spec(narrow[-1], config.out_channels),
        },
    }


def residual_blocks_spec(c_in: int, c_out: int, count: int) -> Spec:
    """Return the shapes of the residual blocks of a level."""
    widths = pairwise([c_in] + [c_out] * count)
    return {"resnets": numbered([block_spec(*width) for width in widths])}


def shrink_image(x: Array, width: int, frames: int) -> Array:
    """Average groups of the numbers in 2 x 2 pixels, the shortcut of a level that halves an image.

    The numbers are counted by channel, frame, row and column. There are zeros in the frames before
    the only one, so with two frames some of the channels are 0.

    Args:
        x: (n, c, h, w).
        width: The number of channels of the result.
        frames: How many frames the level joins.

    Returns:
        (n, width, h / 2, w / 2).
    """
    xp = array_namespace(x)
    n, c, height, columns = x.shape
    h, w = height // 2, columns // 2
    squares = xp.permute_dims(xp.reshape(x, (n, c, h, 2, w, 2)), (0, 1, 3, 5, 2, 4))
    squares = xp.reshape(squares, (n, c, 4, h, w))
    squares = xp.concat([xp.zeros_like(squares)] * (frames - 1) + [squares], axis=2)
    groups = xp.reshape(squares, (n, width, c * 4 * frames // width, h, w))
    return xp.mean(groups, axis=2)


def enlarge_image(x: Array, width: int, frames: int) -> Array:
    """Distribute channels over 2 x 2 pixels, the shortcut of a level that doubles an image.

    Each channel is repeated to as many numbers of the result, counted by channel, frame, row and
    column; an image is the last frame.

    Args:
        x: (n, c, h, w).
        width: The number of channels of the result.
        frames: How many frames the level makes.

    Returns:
        (n, width, 2 h, 2 w).
    """
    xp = array_namespace(x)
    n, c, h, w = x.shape
    parts = xp.reshape(x, (n, width, c // width, h, w))
    first = 4 * (frames - 1)
    numbers = [(first + i) * c // (4 * frames * width) for i in range(4)]
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
    shortcut = ops.call_function(SHORTCUT, shrink_image, x, h.shape[1], frames)
    return downsample(ops, p.downsampler, h) + shortcut


@layer
def up_block(ops: Backend, p: Params, x: Array, frames: int) -> Array:
    """Apply the residual blocks of a level, double the image and add the shortcut."""
    h = x
    for resnet in p.resnets.items_in_order():
        h = residual_block(ops, resnet, h)
    if "upsampler" not in p:
        return h
    shortcut = ops.call_function(SHORTCUT, enlarge_image, x, h.shape[1], frames)
    return upsample(ops, p.upsampler, h) + shortcut


def encode(
    ops: Backend, p: Params, config: QwenImage21AutoencoderConfig, image: Array
) -> tuple[Array, Array]:
    """Return mean and log-variance of z, (n, z, H/16, W/16), of images (n, 4, H, W) in [-1, 1]."""
    e = p.encoder
    x = conv2d(ops, e.conv_in, image)
    for block, frames in zip(e.down_blocks.items_in_order(), config.frames, strict=True):
        x = down_block(ops, block, x, frames)
    x = mid_block(ops, e.mid_block, x)
    x = conv2d(ops, e.conv_out, ops.silu(norm(ops, e.norm_out, x)))
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
    x = conv2d(ops, d.conv_out, ops.silu(norm(ops, d.norm_out, x)))
    return ops.xp.clip(x, -1.0, 1.0)


def find_spread(ops: Backend, p: Params, config: QwenImage21AutoencoderConfig) -> Array:
    """Return by what `normalize` multiplies a deviation."""
    return 1.0 / column(ops, config.latents_std)


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
