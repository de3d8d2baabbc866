"""ControlNets of Stable Diffusion 3: blocks of the transformer that also read an image's latents.

Zhang, Rao, Agrawala 2023, arXiv:2302.05543, section 3, for the transformer of Esser et al. 2024,
arXiv:2403.03206. Parameter names of diffusers' SD3ControlNetModel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Annotated, Any

import numpy as np

from ldmref.backends.base import Backend
from ldmref.declare import Range
from ldmref.families.joint_controls import (
    BlockResiduals,
    block_inputs,
    compare,
    compare_depth,
    declare_controlnet,
)
from ldmref.families.joint_transformers import (
    adaptive_norm,
    embed,
    feed_forward_spec,
    gated_feed_forward,
)
from ldmref.families.sd3.config import MMDiTConfig, transformer_of
from ldmref.families.sd3.files import OMITTED, read_transformer
from ldmref.families.sd3.network import (
    block_spec,
    embed_patches,
    joint_attention,
    joint_block,
    transformer_spec,
)
from ldmref.io.diffusers.checks import require_plain
from ldmref.math.arrays import Array
from ldmref.models.autoencoder_config import BaseAutoencoderConfig
from ldmref.models.autoencoder_kind import scales_of
from ldmref.models.conditioning import CachedContext, get_hidden_states
from ldmref.models.config import ModelConfig
from ldmref.models.declared import DeclaredNetwork
from ldmref.models.declared_control import DeclaredControl, Difference
from ldmref.models.denoiser_config import WidthOrZero
from ldmref.models.layers import layer, linear
from ldmref.models.params import Params, Spec, numbered
from ldmref.models.specs import attention_spec, conv_spec, linear_spec

IMAGE_KINDS = ("blur", "canny", "depth")  # by the number in Stability's files for 3.5 large
CANNY = IMAGE_KINDS.index("canny")


@dataclass(frozen=True)
class MMDiTControlConfig(MMDiTConfig):
    """A ControlNet of the multimodal diffusion transformer.

    Args:
        joint_attention_dim: Width of the text's hidden states. 0: the blocks have one stream, of
            the image, as in the ControlNets of Stable Diffusion 3.5 large.
        extra_conditioning_channels: Number of channels of the hint after those of the latents. 1:
            the mask of an inpainting ControlNet.
        use_pos_embed: Whether it embeds the patches of noisy latents with parameters of its own,
            instead of the transformer's.
        force_zeros_for_pooled_projection: Whether the pooled text is replaced by zeros, and the
            hint's latents are not shifted.
        control_type: The number of the kind of images in `IMAGE_KINDS`, as Stability's files for
            3.5 large hold it. -1: it is not known.

    >>> from ldmref.families.sd3.controlnet import MMDiTControlConfig
    >>> MMDiTControlConfig(num_layers=6).width
    1536
    """

    joint_attention_dim: WidthOrZero = 4096
    extra_conditioning_channels: Annotated[int, Range(0, 1024)] = 0
    use_pos_embed: bool = True
    force_zeros_for_pooled_projection: bool = True
    control_type: Annotated[int, Range(-1, len(IMAGE_KINDS) - 1)] = -1

    @property
    def reads_pooled(self) -> bool:
        """Whether it reads the pooled text; diffusers gives one that reads a mask zeros."""
        return not (self.force_zeros_for_pooled_projection or self.extra_conditioning_channels)

    @property
    def hint_channels(self) -> int:
        """Number of channels of the hint."""
        return self.in_channels + self.extra_conditioning_channels


# -- the network ----------------------------------------------------------------------------------


def controlnet_spec(config: MMDiTControlConfig) -> Spec:
    """Return the shapes of every parameter, also of those that the transformer may share."""
    d = config.width
    count = config.num_layers
    transformer = transformer_spec(config)
    spec = {name: transformer[name] for name in ("pos_embed", "time_text_embed")}
    blocks = [single_block_spec(d)] * count
    if config.joint_attention_dim:
        spec["context_embedder"] = transformer["context_embedder"]
        blocks = [block_spec(config, i) for i in range(count)]
    return spec | {
        "transformer_blocks": numbered(blocks),
        "controlnet_blocks": numbered([linear_spec(d, d)] * count),
        "pos_embed_input": {"proj": conv_spec(config.hint_channels, d, config.patch_size)},
    }


def single_block_spec(d: int) -> Spec:
    """Return the shapes of a block of one stream."""
    return {
        "norm1": {"linear": linear_spec(d, 6 * d)},
        "attn": attention_spec(d, bias=True),
        "ff": feed_forward_spec(d),
    }


def controlnet(
    ops: Backend,
    p: Params,
    config: MMDiTControlConfig,
    x: Array,
    t: Array,
    context: Array | CachedContext | None,
    hint: Array,
    pooled: Array,
) -> BlockResiduals:
    """Compute the residuals that the transformer adds to the tokens of the image.

    Args:
        ops: The backend.
        p: The parameters of `controlnet_spec`.
        config: The configuration.
        x: Noisy latents, (n, z, h, w); h and w are multiples of the patch size.
        t: The times, multiplied by 1000, (n,).
        context: Hidden states of the text, (n, l, joint_attention_dim). None: it reads no text.
        hint: Latents of the image, and its further channels, (n, hint_channels, h, w).
        pooled: Pooled text, (n, pooled_projection_dim).

    Returns:
        One array for each block.
    """
    if not config.reads_pooled:
        pooled = ops.xp.zeros_like(pooled)
    emb = embed(ops, p.time_text_embed, t, pooled)
    patch = config.patch_size
    h = embed_patches(ops, p.pos_embed, x, patch)
    h = h + embed_patches(ops, p.pos_embed_input, hint, patch)
    heads = config.num_attention_heads
    residuals = []
    text = None
    if context is not None and config.joint_attention_dim:
        text = linear(ops, p.context_embedder, get_hidden_states(context))
    blocks = p.transformer_blocks.items_in_order()
    for block, zero in zip(blocks, p.controlnet_blocks.items_in_order(), strict=True):
        if text is None:
            h = single_block(ops, block, h, emb, heads)
        else:
            text, h = joint_block(ops, block, h, text, emb, heads)
        residuals.append(linear(ops, zero, h))
    return BlockResiduals(tuple(residuals))


@layer
def single_block(ops: Backend, p: Params, x: Array, emb: Array, num_heads: int) -> Array:
    """Apply a block to the image alone; x: (n, l, d), emb: (n, d) -> (n, l, d)."""
    h, gate, *of_mlp = adaptive_norm(ops, p.norm1, x, emb)
    x = x + gate * joint_attention(ops, p.attn, h, None, num_heads)[0]
    return x + gated_feed_forward(ops, p.ff, x, *of_mlp)


# -- the declaration ------------------------------------------------------------------------------


def describe_controlnet(net: MMDiTControlConfig) -> DeclaredNetwork:
    """Return the network, whose hint is made of the image's latents."""
    counts = BlockResiduals(tuple(range(net.num_layers)))
    spec = partial(controlnet_spec, net)
    return declare_controlnet(net, controlnet, spec, net.hint_channels, counts)


def fit_config(config: ModelConfig) -> MMDiTControlConfig:
    """Return the configuration of a ControlNet that copies the blocks of a model."""
    transformer = transformer_of(config)
    return MMDiTControlConfig(**{f.name: getattr(transformer, f.name) for f in fields(MMDiTConfig)})


def list_differences(config: ModelConfig, net: MMDiTControlConfig) -> Iterator[Difference]:
    """Yield in what a ControlNet differs from those that fit a model."""
    transformer = transformer_of(config)
    names = ["in_channels", "patch_size", "width", "pooled_projection_dim"]
    if net.joint_attention_dim:
        names.append("joint_attention_dim")
    yield from compare(transformer, net, names)
    yield from compare_depth(transformer, net, "num_layers")
    if net.extra_conditioning_channels > 1:
        yield "extra_conditioning_channels", net.extra_conditioning_channels, "0 or 1"


def place_residuals(
    config: ModelConfig, net: MMDiTControlConfig | None, residuals: BlockResiduals
) -> BlockResiduals:
    """Return a residual for each of N blocks: of K, number floor(i K / N) follows block i.

    diffusers rounds i / (N / K), which differs for no K of the published N, 24 and 38.
    """
    blocks = residuals.blocks
    count = transformer_of(config).num_layers
    return BlockResiduals(tuple(blocks[i * len(blocks) // count] for i in range(count)))


def make_hint(net: MMDiTControlConfig, vae: BaseAutoencoderConfig, latents: Array) -> Array:
    """Return the hint of scaled latents, from which some ControlNets do not subtract the shift.

    Those that read a mask subtract it, as diffusers' pipeline for inpainting does.
    """
    if net.force_zeros_for_pooled_projection and not net.extra_conditioning_channels:
        scale, shift = scales_of(vae)
        return latents + shift * scale
    return latents


def list_kinds(net: MMDiTControlConfig) -> tuple[str, ...]:
    """Return the kinds of images of the ControlNets of 3.5 large, which read no text."""
    return () if net.joint_attention_dim else IMAGE_KINDS


def scale_image(net: MMDiTControlConfig, pixels: np.ndarray, kind: int | None) -> np.ndarray:
    """Return the image that a ControlNet was trained to read, from pixels 2 a - 1 in [-1, 1].

    That for edges (canny) of 3.5 large was trained on 127.5 a + 0.5, 0.5 to 128, and all others on
    2 a - 1. Source: Stability-AI/sd3.5, sd3_infer.py, vae_encode.
    """
    return 63.75 * (pixels + 1.0) + 0.5 if list_kinds(net) and kind == CANNY else pixels


def read_control_type(
    net: MMDiTControlConfig, values: Mapping[str, np.ndarray]
) -> MMDiTControlConfig:
    """Return the configuration with the kind of images that a file of Stability names."""
    numbers = np.asarray(values.get("control_type", -1))
    return replace(net, control_type=int(numbers.item()))


def convert_controlnet_config(data: Mapping[str, Any]) -> MMDiTControlConfig:
    """Convert the configuration of an `SD3ControlNetModel`."""
    text = data.get("joint_attention_dim", "omitted") is not None
    found = read_transformer(MMDiTControlConfig(**OMITTED), data, text)
    if found.use_pos_embed:
        require_plain(data, {"pos_embed_type": ("sincos",)}, "the ControlNet's configuration")
    return found


CONTROL = DeclaredControl(
    {"SD3ControlNetModel": convert_controlnet_config},
    fit_config,
    lambda net: [describe_controlnet(net)],
    list_differences,
    BlockResiduals,
    {"block_controlnet_hidden_states": "blocks"},
    lambda config: block_inputs(
        transformer_of(config).width, transformer_of(config).num_layers - 1
    ),
    place_residuals,
    make_hint,
    hole=lambda net: -1.0 if net.extra_conditioning_channels else None,
    reads_mask=lambda net: net.extra_conditioning_channels == 1,
    kinds=list_kinds,
    kind=lambda net: None if net.control_type < 0 else net.control_type,
    scale_image=scale_image,
    settings=("control_type",),
    with_settings=read_control_type,
    zeroed=lambda net: () if net.reads_pooled else ("pooled",),
    shared=lambda net: () if net.use_pos_embed else ("pos_embed",),
)
"""ControlNets of Stable Diffusion 3 and 3.5."""
