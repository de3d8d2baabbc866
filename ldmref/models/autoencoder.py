"""The autoencoders KL and VQ between images and latents.

KL encodes an image as a Gaussian over latents, VQ as latents that are quantized with a codebook.

Rombach et al. 2022, arXiv:2112.10752, section 3.1 and appendix G; Kingma and Welling 2013,
arXiv:1312.6114; van den Oord et al. 2017, arXiv:1711.00937; parameter names of diffusers'
AutoencoderKL and VQModel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from ldmref.backends.base import Backend
from ldmref.math.activations import sigmoid
from ldmref.math.arrays import Array
from ldmref.math.quantize import nearest_code
from ldmref.models import layers as nn
from ldmref.models import specs
from ldmref.models.autoencoder_config import AutoencoderConfig
from ldmref.models.autoencoder_kind import Autoencoder
from ldmref.models.params import Params, Spec, numbered

SIGMOID = "SigmoidAutoencoder"  # latents in (0, 1), for which diffusers has no class
CODEBOOK_ROWS = 4096  # vectors compared with the codebook at a time, to bound memory


def autoencoder_spec(config: AutoencoderConfig) -> Spec:
    """Return the shapes of every parameter of the autoencoder."""
    channels = config.block_out_channels
    z = config.latent_channels
    last = len(channels) - 1
    c = channels[-1]
    moments = z if config.codebook_size else 2 * z
    attention = config.attention_levels or (False,) * len(channels)
    layers = config.layers_per_block

    def block(c_in: int, c_out: int, n: int, attention: bool, resample: str | None) -> Spec:
        widths = pairwise([c_in] + [c_out] * n)
        resnets = [specs.resnet_block_spec(*width, None) for width in widths]
        spec: Spec = {"resnets": numbered(resnets)}
        if attention:
            spec["attentions"] = numbered([specs.attention_block_spec(c_out)] * n)
        if resample:
            spec[resample] = {"0": {"conv": specs.conv_spec(c_out, c_out)}}
        return spec

    mid: Spec = {"resnets": numbered([specs.resnet_block_spec(c, c, None)] * 2)}
    if config.mid_block_add_attention:
        mid["attentions"] = {"0": specs.attention_block_spec(c)}
    spec: Spec = {}
    if config.codebook_size:
        spec["quantize"] = {"embedding": {"weight": (config.codebook_size, z)}}
    spec["encoder"] = {
        "conv_in": specs.conv_spec(config.in_channels, channels[0]),
        "down_blocks": numbered(
            block(*width, layers, attention[i], "downsamplers" if i < last else None)
            for i, width in enumerate(pairwise((channels[0], *channels)))
        ),
        "mid_block": mid,
        "conv_norm_out": specs.norm_spec(c),
        "conv_out": specs.conv_spec(c, moments),
    }
    if config.use_quant_conv:
        spec["quant_conv"] = specs.conv_spec(moments, moments, 1)
    if config.use_post_quant_conv:
        spec["post_quant_conv"] = specs.conv_spec(z, z, 1)
    spec["decoder"] = {
        "conv_in": specs.conv_spec(z, c),
        "mid_block": mid,
        "up_blocks": numbered(
            block(*width, layers + 1, attention[last - i], "upsamplers" if i < last else None)
            for i, width in enumerate(pairwise((c, *channels[::-1])))
        ),
        "conv_norm_out": specs.norm_spec(channels[0]),
        "conv_out": specs.conv_spec(channels[0], config.out_channels),
    }
    return spec


def encode(ops: Backend, p: Params, config: AutoencoderConfig, image: Array) -> tuple[Array, Array]:
    """Return the posterior q(z|x) = N(mean, exp(logvar)) of images.

    Downsampling pads on the right and at the bottom only.

    Args:
        ops: The backend.
        p: The parameters of `autoencoder_spec`.
        config: The configuration.
        image: (n, 3, H, W) in [-1, 1].

    Returns:
        Mean and log-variance in [-30, 20], each (n, z, H/f, W/f), before scaling. For VQ, the
        latents before quantization and a log-variance of -inf.
    """
    groups = config.norm_num_groups
    eps = config.norm_eps
    e = p.encoder
    x = nn.conv2d(ops, e.conv_in, image)
    for block in e.down_blocks.items_in_order():
        x = _layers(ops, block, x, groups, eps)
        if "downsamplers" in block:
            x = nn.downsample_padded(ops, block.downsamplers["0"], x)
    x = _mid_block(ops, e.mid_block, x, groups, eps)
    x = nn.conv2d(ops, e.conv_out, nn.norm_silu(ops, e.conv_norm_out, x, groups, eps))
    moments = nn.conv2d(ops, p.quant_conv, x) if config.use_quant_conv else x
    if config.codebook_size:
        return moments, ops.xp.full_like(moments, -math.inf)
    mean = moments[:, : config.latent_channels, ...]
    logvar = moments[:, config.latent_channels :, ...]
    mean = sigmoid(mean) if config.latent_activation == "sigmoid" else mean
    return mean, ops.xp.clip(logvar, -30.0, 20.0)


def decode(ops: Backend, p: Params, config: AutoencoderConfig, z: Array) -> Array:
    """Decode unscaled latents (n, z, h, w) to images (n, 3, f*h, f*w), approximately in [-1, 1].

    VQ autoencoders quantize the latents first.
    """
    groups = config.norm_num_groups
    eps = config.norm_eps
    d = p.decoder
    if config.codebook_size:
        z = quantize(ops, p.quantize.embedding.weight, z)
    z = nn.conv2d(ops, p.post_quant_conv, z) if config.use_post_quant_conv else z
    x = nn.conv2d(ops, d.conv_in, z)
    x = _mid_block(ops, d.mid_block, x, groups, eps)
    for block in d.up_blocks.items_in_order():
        x = _layers(ops, block, x, groups, eps)
        if "upsamplers" in block:
            x = nn.upsample(ops, block.upsamplers["0"], x)
    return nn.conv2d(ops, d.conv_out, nn.norm_silu(ops, d.conv_norm_out, x, groups, eps))


def scale_latents(ops: Backend, p: Params, config: AutoencoderConfig, z: Array) -> Array:
    """Return the latents that the denoiser sees, scaling_factor * (z - shift_factor)."""
    shifted = z - config.shift_factor if config.shift_factor else z
    return shifted * config.scaling_factor


def unscale_latents(ops: Backend, p: Params, config: AutoencoderConfig, latents: Array) -> Array:
    """Return the z of scaled latents, which the decoder reads."""
    z = latents / config.scaling_factor
    return z + config.shift_factor if config.shift_factor else z


def quantize(ops: Backend, codebook: Array, z: Array) -> Array:
    """Replace each pixel's vector by the nearest one of the codebook; z: (n, z, h, w) -> same.

    A graph with open sizes, where the number of pixels is not an integer, compares all at once.
    """
    n, c, h, w = z.shape
    xp = ops.xp
    pixels = n * h * w
    rows = xp.reshape(xp.permute_dims(z, (0, 2, 3, 1)), (pixels, c))
    rows = ops.cast(rows, ops.state_dtype)
    table = ops.cast(codebook, ops.state_dtype)
    blocks = [rows]
    if isinstance(pixels, int):
        blocks = [rows[i : i + CODEBOOK_ROWS] for i in range(0, pixels, CODEBOOK_ROWS)]
    nearest = xp.concat([nearest_code(block, table)[1] for block in blocks], axis=0)
    nearest = xp.astype(nearest, z.dtype)
    return xp.permute_dims(xp.reshape(nearest, (n, h, w, c)), (0, 3, 1, 2))


def _layers(ops: Backend, block: Params, x: Array, groups: int, eps: float) -> Array:
    """Apply the residual blocks of a level, each followed by attention if present."""
    for i, resnet in enumerate(block.resnets.items_in_order()):
        x = nn.resnet_block(ops, resnet, x, None, groups, eps)
        if "attentions" in block:
            x = nn.attention_block(ops, block.attentions[str(i)], x, 1, groups, eps)
    return x


def _mid_block(ops: Backend, p: Params, x: Array, groups: int, eps: float) -> Array:
    """Apply a residual block, single-head self-attention over all pixels, a residual block."""
    x = nn.resnet_block(ops, p.resnets["0"], x, None, groups, eps)
    if "attentions" in p:
        x = nn.attention_block(ops, p.attentions["0"], x, 1, groups, eps)
    return nn.resnet_block(ops, p.resnets["1"], x, None, groups, eps)


def broken_rules(config: AutoencoderConfig) -> Iterator[str]:
    """Yield the relations between fields that do not hold."""
    if len(config.attention_levels) not in (0, len(config.block_out_channels)):
        yield "vae.attention_levels needs an entry per level, or none"
    if any(c % config.norm_num_groups for c in config.block_out_channels):
        yield "vae.norm_num_groups must divide every channel count"
    if config.codebook_size and config.latent_activation:
        yield "vae.latent_activation is for autoencoders without a codebook"


KL = Autoencoder(
    "kl",
    "KL autoencoder",
    AutoencoderConfig,
    autoencoder_spec,
    encode,
    decode,
    scale_latents,
    unscale_latents,
    spread=lambda ops, p, config: config.scaling_factor,
    scales=lambda config: (config.scaling_factor, config.shift_factor),
    preview=lambda config: config.preview,
    broken_rules=broken_rules,
)
VQ = replace(KL, name="vq", title="VQ autoencoder", has_posterior=False, is_quantized=True)
