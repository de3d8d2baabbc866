"""The denoising U-Net of latent diffusion.

Rombach et al. 2022, arXiv:2112.10752, section 3.3 and appendix E; parameter names of diffusers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.math.embedding import timestep_embedding
from ldmref.models import layers as nn
from ldmref.models import specs
from ldmref.models.conditioning import CachedContext, get_hidden_states
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.params import Params, Spec, numbered


def _mlp_spec(d_in: int, d_emb: int) -> Spec:
    linear_1 = specs.linear_spec(d_in, d_emb)
    return {"linear_1": linear_1, "linear_2": specs.linear_spec(d_emb, d_emb)}


def unet_spec(config: UNetConfig) -> Spec:
    """Return the shapes of every parameter of the U-Net."""
    channels = config.block_out_channels
    layers = config.layers_per_block
    d_emb = 4 * channels[0]
    last = len(channels) - 1
    scale_shift = config.resnet_time_scale_shift == "scale_shift"

    def res(c_in: int, c_out: int) -> Spec:
        return specs.resnet_block_spec(c_in, c_out, d_emb, scale_shift)

    def attention(level: int) -> Spec:
        if config.attention == "self":
            return specs.attention_block_spec(channels[level])
        depth = config.transformer_layers_per_block[level]
        width = config.cross_attention_dim
        linear_projection = config.use_linear_projection
        return specs.transformer_spec(channels[level], width, depth, linear_projection)

    def block(widths: list[tuple[int, int]], level: int, resample: str | None) -> Spec:
        c = channels[level]
        spec: Spec = {"resnets": numbered(res(*width) for width in widths)}
        if config.attention_levels[level]:
            spec["attentions"] = numbered([attention(level)] * len(widths))
        if resample:
            layer: Spec = res(c, c) if config.resnet_updown else {"conv": specs.conv_spec(c, c)}
            spec[resample] = {"0": layer}
        return spec

    down = []
    up = []
    skips = [channels[0]]
    for level, c in enumerate(channels):
        widths = [(channels[max(level - 1, 0)] if i == 0 else c, c) for i in range(layers)]
        down.append(block(widths, level, "downsamplers" if level < last else None))
        skips += [c] * (layers + (level < last))
    x = channels[-1]
    for level, c in reversed(list(enumerate(channels))):
        widths = [(c_in + skips.pop(), c) for c_in in [x] + [c] * layers]
        up.append(block(widths, level, "upsamplers" if level else None))
        x = c
    c = channels[-1]
    spec: Spec = {}
    if config.flow_map:
        spec["step_embedding"] = _mlp_spec(channels[0], d_emb)
    if config.class_embed_type:
        spec["class_embedding"] = specs.linear_spec(config.cross_attention_dim, d_emb)
    if config.addition_embed_type:
        spec["add_embedding"] = _mlp_spec(config.projection_class_embeddings_input_dim, d_emb)
    return spec | {
        "conv_in": specs.conv_spec(config.in_channels, channels[0]),
        "time_embedding": _mlp_spec(channels[0], d_emb),
        "down_blocks": numbered(down),
        "mid_block": {
            "resnets": numbered([res(c, c)] * 2),
            "attentions": {"0": attention(-1)},
        },
        "up_blocks": numbered(up),
        "conv_norm_out": specs.norm_spec(channels[0]),
        "conv_out": specs.conv_spec(channels[0], config.out_channels),
    }


class Residuals(NamedTuple):
    """The arrays that ControlNets add to the U-Net.

    Attributes:
        down: For the skip connections, (n, c_i, h_i, w_i); the first is for the output of
            `conv_in`.
        mid: For the output of the mid block, (n, c, h, w).

    >>> import numpy as np
    >>> from ldmref.models import Residuals
    >>> residuals = Residuals((np.zeros((1, 16, 8, 8)),), np.zeros((1, 32, 4, 4)))
    >>> len(residuals.down)
    1
    """

    down: tuple[Any, ...]
    mid: Array


def unet(
    ops: Backend,
    p: Params,
    config: UNetConfig,
    x: Array,
    t: Array,
    context: Array | CachedContext | None,
    pooled: Array | None = None,
    sizes: Array | None = None,
    control: Residuals | None = None,
    t_next: Array | None = None,
) -> Array:
    """Predict eps, v or x0, depending on how the model was trained.

    A flow map predicts that of the whole way from t to t_next, along which a step leads there.

    Args:
        ops: The backend.
        p: The parameters of `unet_spec`.
        config: The configuration.
        x: (n, in_channels, h, w). h and w are arbitrary, except that with `resnet_updown` they must
            halve evenly at every level.
        t: Training timesteps, (n,), integers or floats.
        context: Hidden states, (n, l, cross_attention_dim), or a `CachedContext`, which keeps keys
            and values between steps; None without cross-attention.
        pooled: Pooled text, (n, projection_dim), for `addition_embed_type` "text_time".
        sizes: For "text_time", (n, 6): original height and width, the crop's top and left, target
            height and width.
        control: Residuals from `ldmref.models.controlnet`.
        t_next: Timesteps to which the step of a flow map leads, (n,). None: t.

    Returns:
        The prediction, (n, out_channels, h, w).
    """
    groups = config.norm_num_groups
    eps = config.norm_eps
    emb = embed_timestep(ops, p, config, x, t, context, pooled, sizes)
    if config.flow_map:
        emb = ops.add(emb, embed_step(ops, p, config, x, t, t_next))
    x = nn.conv2d(ops, p.conv_in, x)
    x, skips = run_encoder(ops, p, config, x, emb, context)
    if control is not None:
        skips = [skip + more for skip, more in zip(skips, control.down, strict=True)]
        x = x + control.mid

    for i, block in enumerate(p.up_blocks.items_in_order(), 1):
        for j in range(len(block.resnets)):
            x = ops.xp.concat([x, skips.pop()], axis=1)
            x = _layer(ops, block, j, config, -i, x, emb, context)
        if "upsamplers" in block:
            x = _upsample(ops, block.upsamplers["0"], config, x, emb, skips[-1].shape[2:])

    x = nn.norm_silu(ops, p.conv_norm_out, x, groups, eps)
    return nn.conv2d(ops, p.conv_out, x)


def embed_timestep(
    ops: Backend,
    p: Params,
    config: UNetConfig,
    x: Array,
    t: Array,
    context: Array | CachedContext | None,
    pooled: Array | None,
    sizes: Array | None,
) -> Array:
    """Embed timesteps, pooled text and sizes for the residual blocks; (n, d), dtype of x."""
    if ops.xp.isdtype(t.dtype, "integral"):  # torch would compute their embedding in float32
        t = ops.xp.astype(t, getattr(ops.xp, ops.state_dtype))
    emb = ops.call_function("time_proj", timestep_embedding, t, config.block_out_channels[0])
    emb = nn.mlp(ops, p.time_embedding, ops.xp.astype(emb, x.dtype))
    if config.class_embed_type and context is not None:
        # the last token of a causal encoder attends to the whole prompt
        emb = ops.add(emb, nn.linear(ops, p.class_embedding, get_hidden_states(context)[:, -1, :]))
    if config.addition_embed_type:  # Podell et al. 2023, arXiv:2307.01952, section 2.2
        assert pooled is not None and sizes is not None
        flat = ops.xp.reshape(sizes, (-1,))
        width = config.addition_time_embed_dim
        size_emb = ops.call_function("add_time_proj", timestep_embedding, flat, width)
        size_emb = ops.xp.astype(ops.xp.reshape(size_emb, (x.shape[0], -1)), x.dtype)
        extra = ops.xp.concat([pooled, size_emb], axis=1)
        emb = ops.add(emb, nn.mlp(ops, p.add_embedding, extra))
    return emb


def embed_step(
    ops: Backend, p: Params, config: UNetConfig, x: Array, t: Array, t_next: Array | None
) -> Array:
    """Embed the timesteps t - t_next that the step of a flow map leaves behind; (n, d)."""
    xp = ops.xp
    length = t - t if t_next is None else t - xp.astype(t_next, t.dtype)
    if xp.isdtype(length.dtype, "integral"):
        length = xp.astype(length, getattr(xp, ops.state_dtype))
    waves = ops.call_function("step_proj", timestep_embedding, length, config.block_out_channels[0])
    return nn.mlp(ops, p.step_embedding, xp.astype(waves, x.dtype))


def run_encoder(
    ops: Backend,
    p: Params,
    config: UNetConfig,
    x: Array,
    emb: Array,
    context: Array | CachedContext | None,
) -> tuple[Array, list[Array]]:
    """Run down blocks and mid block on the output of `conv_in`; returns theirs and the skips."""
    groups = config.norm_num_groups
    eps = config.norm_eps
    skips = [x]
    for level, block in enumerate(p.down_blocks.items_in_order()):
        for i in range(len(block.resnets)):
            x = _layer(ops, block, i, config, level, x, emb, context)
            skips.append(x)
        if "downsamplers" in block:
            x = _downsample(ops, block.downsamplers["0"], config, x, emb)
            skips.append(x)
    x = nn.resnet_block(ops, p.mid_block.resnets["0"], x, emb, groups, eps)
    x = _attend(ops, p.mid_block.attentions["0"], config, -1, x, context)
    return nn.resnet_block(ops, p.mid_block.resnets["1"], x, emb, groups, eps), skips


def _layer(
    ops: Backend,
    block: Params,
    i: int,
    config: UNetConfig,
    level: int,
    x: Array,
    emb: Array,
    context: Array | CachedContext | None,
) -> Array:
    """Apply residual block i of a down or up block, and its attention if present."""
    groups = config.norm_num_groups
    x = nn.resnet_block(ops, block.resnets[str(i)], x, emb, groups, config.norm_eps)
    if "attentions" in block:
        x = _attend(ops, block.attentions[str(i)], config, level, x, context)
    return x


def _attend(
    ops: Backend,
    p: Params,
    config: UNetConfig,
    level: int,
    x: Array,
    context: Array | CachedContext | None,
) -> Array:
    """Apply a spatial transformer or, in U-Nets without cross-attention, self-attention."""
    heads = config.num_heads[level]
    groups = config.norm_num_groups
    if context is None or config.attention == "self":
        return nn.attention_block(ops, p, x, heads, groups, config.norm_eps)
    return nn.spatial_transformer(ops, p, x, context, heads, groups)


def _downsample(ops: Backend, p: Params, config: UNetConfig, x: Array, emb: Array) -> Array:
    """Downsample (n, c, h, w) to (n, c, h/2, w/2), rounded up by convolutions."""
    if "conv" in p:
        return nn.downsample(ops, p, x)
    groups = config.norm_num_groups
    eps = config.norm_eps
    return nn.resnet_block(ops, p, x, emb, groups, eps, lambda y: nn.mean_pool(ops, y))


def _upsample(
    ops: Backend, p: Params, config: UNetConfig, x: Array, emb: Array, size: tuple[int, int]
) -> Array:
    """Upsample (n, c, h, w) to the size of the next skip connection: doubled, or one less."""
    if "conv" in p:
        return nn.upsample(ops, p, x, size)
    return nn.resnet_block(ops, p, x, emb, config.norm_num_groups, config.norm_eps, ops.upsample2x)
