"""The KL autoencoder: pictures to a Gaussian over latents, and latents to pictures.

Rombach et al. 2022, arXiv:2112.10752, section 3.1 and appendix G; Kingma and Welling 2013,
arXiv:1312.6114; parameter names of diffusers' AutoencoderKL.
"""

from __future__ import annotations

from ldmref.backends.base import Array, Backend
from ldmref.models.config import AutoencoderConfig
from ldmref.models.layers import (
    attention,
    attention_spec,
    conv2d,
    conv_spec,
    group_norm,
    norm_silu,
    norm_spec,
    resnet_block,
    resnet_block_spec,
)
from ldmref.models.params import Params, Spec


def autoencoder_spec(config: AutoencoderConfig) -> Spec:
    """The shapes of every parameter of the autoencoder."""
    channels, z = config.block_out_channels, config.latent_channels
    last, c = len(channels) - 1, channels[-1]

    def block(c_in: int, c_out: int, layers: int, resample: str | None) -> Spec:
        spec: Spec = {
            "resnets": {
                str(i): resnet_block_spec(c_in if i == 0 else c_out, c_out, None)
                for i in range(layers)
            }
        }
        if resample:
            spec[resample] = {"0": {"conv": conv_spec(c_out, c_out)}}
        return spec

    mid = {
        "resnets": {str(i): resnet_block_spec(c, c, None) for i in range(2)},
        "attentions": {"0": {"group_norm": norm_spec(c)} | attention_spec(c, bias=True)},
    }
    widths, layers = (
        list(zip((channels[0], *channels), channels, strict=False)),
        config.layers_per_block,
    )
    upward = list(zip((c, *channels[::-1]), channels[::-1], strict=False))
    return {
        "encoder": {
            "conv_in": conv_spec(config.in_channels, channels[0]),
            "down_blocks": {
                str(i): block(*width, layers, "downsamplers" if i < last else None)
                for i, width in enumerate(widths)
            },
            "mid_block": mid,
            "conv_norm_out": norm_spec(c),
            "conv_out": conv_spec(c, 2 * z),
        },
        "quant_conv": conv_spec(2 * z, 2 * z, 1),
        "post_quant_conv": conv_spec(z, z, 1),
        "decoder": {
            "conv_in": conv_spec(z, c),
            "mid_block": mid,
            "up_blocks": {
                str(i): block(*width, layers + 1, "upsamplers" if i < last else None)
                for i, width in enumerate(upward)
            },
            "conv_norm_out": norm_spec(channels[0]),
            "conv_out": conv_spec(channels[0], config.out_channels),
        },
    }


def encode(ops: Backend, p: Params, config: AutoencoderConfig, image: Array) -> tuple[Array, Array]:
    """The posterior q(z|x) = N(mean, exp(logvar)).

    image: (n, 3, H, W) in [-1, 1] -> mean and log-variance in [-30, 20], each (n, z, H/f, W/f),
    before scaling. The downsampling pads on the right and at the bottom only.
    """
    groups, eps, e = config.norm_num_groups, config.norm_eps, p.encoder
    x = conv2d(ops, e.conv_in, image)
    for block in e.down_blocks.items_in_order():
        for resnet in block.resnets.items_in_order():
            x = resnet_block(ops, resnet, x, None, groups, eps)
        if "downsamplers" in block:
            conv = block.downsamplers["0"].conv
            x = ops.conv2d(ops.pad_bottom_right(x), conv.weight, conv.bias, stride=2)
    x = _mid_block(ops, e.mid_block, x, groups, eps)
    x = conv2d(ops, e.conv_out, norm_silu(ops, e.conv_norm_out, x, groups, eps))
    moments = conv2d(ops, p.quant_conv, x)
    z = config.latent_channels
    return moments[:, :z], ops.xp.clip(moments[:, z:], -30.0, 20.0)


def decode(ops: Backend, p: Params, config: AutoencoderConfig, z: Array) -> Array:
    """The picture of unscaled latents; z: (n, z, h, w) -> (n, 3, f*h, f*w), about [-1, 1]."""
    groups, eps, d = config.norm_num_groups, config.norm_eps, p.decoder
    x = conv2d(ops, d.conv_in, conv2d(ops, p.post_quant_conv, z))
    x = _mid_block(ops, d.mid_block, x, groups, eps)
    for block in d.up_blocks.items_in_order():
        for resnet in block.resnets.items_in_order():
            x = resnet_block(ops, resnet, x, None, groups, eps)
        if "upsamplers" in block:
            x = conv2d(ops, block.upsamplers["0"].conv, ops.upsample2x(x))
    return conv2d(ops, d.conv_out, norm_silu(ops, d.conv_norm_out, x, groups, eps))


def _mid_block(ops: Backend, p: Params, x: Array, groups: int, eps: float) -> Array:
    """Residual block, single-head self-attention over all pixels, residual block."""
    n, c, h, w = x.shape
    x = resnet_block(ops, p.resnets["0"], x, None, groups, eps)
    tokens = group_norm(ops, p.attentions["0"].group_norm, x, groups, eps)
    tokens = ops.xp.permute_dims(ops.xp.reshape(tokens, (n, c, h * w)), (0, 2, 1))
    tokens = attention(ops, p.attentions["0"], tokens, tokens, num_heads=1)
    x = x + ops.xp.reshape(ops.xp.permute_dims(tokens, (0, 2, 1)), (n, c, h, w))
    return resnet_block(ops, p.resnets["1"], x, None, groups, eps)
