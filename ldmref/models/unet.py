"""The denoising U-Net of latent diffusion.

Rombach et al. 2022, arXiv:2112.10752, section 3.3 and appendix E; parameter names of diffusers.
"""

from __future__ import annotations

from ldmref.backends.base import Array, Backend
from ldmref.math.embedding import timestep_embedding
from ldmref.models.config import UNetConfig
from ldmref.models.layers import (
    conv2d,
    conv_spec,
    linear,
    linear_spec,
    norm_silu,
    norm_spec,
    resnet_block,
    resnet_block_spec,
    spatial_transformer,
    transformer_spec,
)
from ldmref.models.params import Params, Spec


def unet_spec(config: UNetConfig) -> Spec:
    """The shapes of every parameter of the U-Net."""
    channels, layers = config.block_out_channels, config.layers_per_block
    d_emb, last = 4 * channels[0], len(channels) - 1

    def res(c_in: int, c_out: int) -> Spec:
        return resnet_block_spec(c_in, c_out, d_emb)

    def transformer(c: int) -> Spec:
        return transformer_spec(
            c,
            config.cross_attention_dim,
            config.transformer_layers_per_block,
            config.use_linear_projection,
        )

    def block(widths: list[tuple[int, int]], level: int, resample: str | None) -> Spec:
        c = channels[level]
        spec: Spec = {"resnets": {str(i): res(*width) for i, width in enumerate(widths)}}
        if config.attention_levels[level]:
            spec["attentions"] = {str(i): transformer(c) for i in range(len(widths))}
        if resample:
            spec[resample] = {"0": {"conv": conv_spec(c, c)}}
        return spec

    down, up, skips = {}, {}, [channels[0]]
    for level, c in enumerate(channels):
        widths = [(channels[max(level - 1, 0)] if i == 0 else c, c) for i in range(layers)]
        down[str(level)] = block(widths, level, "downsamplers" if level < last else None)
        skips += [c] * (layers + (level < last))
    x = channels[-1]
    for i, level in enumerate(reversed(range(len(channels)))):
        widths = []
        for _ in range(layers + 1):
            widths.append((x + skips.pop(), channels[level]))
            x = channels[level]
        up[str(i)] = block(widths, level, "upsamplers" if level else None)
    c = channels[-1]
    pooled = {"class_embedding": linear_spec(config.cross_attention_dim, d_emb)}
    return (pooled if config.class_embed_type else {}) | {
        "conv_in": conv_spec(config.in_channels, channels[0]),
        "time_embedding": {
            "linear_1": linear_spec(channels[0], d_emb),
            "linear_2": linear_spec(d_emb, d_emb),
        },
        "down_blocks": down,
        "mid_block": {
            "resnets": {"0": res(c, c), "1": res(c, c)},
            "attentions": {"0": transformer(c)},
        },
        "up_blocks": up,
        "conv_norm_out": norm_spec(channels[0]),
        "conv_out": conv_spec(channels[0], config.out_channels),
    }


def unet(ops: Backend, p: Params, config: UNetConfig, x: Array, t: Array, context: Array) -> Array:
    """Predict noise, velocity or clean latents, whichever the model was trained for.

    x: (n, in_channels, h, w), t: (n,) training timesteps (floats allowed),
    context: (n, l, cross_attention_dim) -> (n, out_channels, h, w).
    """
    groups, eps, heads = config.norm_num_groups, config.norm_eps, config.num_heads

    def layer(block: Params, i: int, x: Array, level: int) -> Array:
        x = resnet_block(ops, block.resnets[str(i)], x, emb, groups, eps)
        if "attentions" in block:
            p_attention = block.attentions[str(i)]
            x = spatial_transformer(ops, p_attention, x, context, heads[level], groups)
        return x

    emb = timestep_embedding(t, config.block_out_channels[0])
    emb = linear(ops, p.time_embedding.linear_1, ops.xp.astype(emb, x.dtype))
    emb = linear(ops, p.time_embedding.linear_2, ops.silu(emb))
    if config.class_embed_type:  # a causal encoder's last token has read the whole prompt
        emb = emb + linear(ops, p.class_embedding, context[:, -1])

    x = conv2d(ops, p.conv_in, x)
    skips = [x]
    for level, block in enumerate(p.down_blocks.items_in_order()):
        for i in range(len(block.resnets)):
            x = layer(block, i, x, level)
            skips.append(x)
        if "downsamplers" in block:
            x = conv2d(ops, block.downsamplers["0"].conv, x, stride=2)
            skips.append(x)

    x = resnet_block(ops, p.mid_block.resnets["0"], x, emb, groups, eps)
    x = spatial_transformer(ops, p.mid_block.attentions["0"], x, context, heads[-1], groups)
    x = resnet_block(ops, p.mid_block.resnets["1"], x, emb, groups, eps)

    for i, block in enumerate(p.up_blocks.items_in_order()):
        level = len(heads) - 1 - i
        for j in range(len(block.resnets)):
            x = layer(block, j, ops.xp.concat([x, skips.pop()], axis=1), level)
        if "upsamplers" in block:
            x = conv2d(ops, block.upsamplers["0"].conv, ops.upsample2x(x))

    x = norm_silu(ops, p.conv_norm_out, x, groups, eps)
    return conv2d(ops, p.conv_out, x)
