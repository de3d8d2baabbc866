"""ControlNets of Flux.1: blocks of the transformer that also read an image.

Zhang, Rao, Agrawala 2023, arXiv:2302.05543, section 3, for the transformer of Black Forest Labs.
Parameter names of diffusers' FluxControlNetModel, which holds three kinds: networks that read the
latents of an image (InstantX), those of several kinds of images (a union), and networks with an
encoder of the image (XLabs).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated, Any

from ldmref.backends.base import Backend
from ldmref.declare import Range
from ldmref.families.flux.config import FluxConfig, transformer_of
from ldmref.families.flux.files import PACKED
from ldmref.families.flux.network import (
    double_block,
    find_positions,
    single_block,
    transformer_spec,
)
from ldmref.families.joint_controls import (
    BlockResiduals,
    block_inputs,
    compare,
    compare_depth,
    declare_controlnet,
)
from ldmref.families.joint_transformers import GUIDANCE, SCALE, embed
from ldmref.io.diffusers.checks import config_error, require_plain
from ldmref.io.diffusers.declared import read_denoiser
from ldmref.math.arrays import Array
from ldmref.math.tokens import PATCH, cut_patches
from ldmref.models.conditioning import CachedContext, get_hidden_states
from ldmref.models.config import ModelConfig
from ldmref.models.controlnet import encode_pixels, pixel_spec
from ldmref.models.declared import (
    BATCH,
    CallSize,
    DeclaredNetwork,
    NetworkInput,
    NetworkOutput,
)
from ldmref.models.declared_control import DeclaredControl, Difference
from ldmref.models.denoiser_config import WidthOrZero
from ldmref.models.layers import linear
from ldmref.models.params import Params, Spec, numbered
from ldmref.models.specs import linear_spec
from ldmref.models.transformer_layers import embed_patches

OPTIONAL = ("num_mode", "conditioning_embedding_channels")  # null for none, which is 0 here
HINT_WIDTHS = (16, 16, 16, 16)  # of the encoder of the image
HINT_FACTOR = 2 ** (len(HINT_WIDTHS) - 1)  # from pixels to latents


@dataclass(frozen=True)
class FluxControlConfig(FluxConfig):
    """A ControlNet of the transformer of Flux.1.

    Args:
        num_mode: Number of kinds of images, of which a token before the text names one. 0: it
            knows one kind.
        conditioning_embedding_channels: Number of channels that its encoder makes of an image. 0:
            it reads the image's latents.

    >>> from ldmref.families.flux.controlnet import FluxControlConfig
    >>> FluxControlConfig(num_layers=5, num_single_layers=10).width
    3072
    """

    num_mode: Annotated[int, Range(0, 1000)] = 0
    conditioning_embedding_channels: WidthOrZero = 0

    @property
    def encodes_image(self) -> bool:
        """Whether it has an encoder of the image."""
        return self.conditioning_embedding_channels > 0


# -- the networks ---------------------------------------------------------------------------------


def controlnet_spec(config: FluxControlConfig) -> Spec:
    """Return the shapes of every parameter."""
    d = config.width
    transformer = transformer_spec(config)
    spec: Spec = {
        name: part for name, part in transformer.items() if name not in ("norm_out", "proj_out")
    }
    spec |= {
        "controlnet_blocks": numbered([linear_spec(d, d)] * config.num_layers),
        "controlnet_single_blocks": numbered([linear_spec(d, d)] * config.num_single_layers),
        "controlnet_x_embedder": linear_spec(PATCH**2 * config.in_channels, d),
    }
    if config.num_mode:
        spec["controlnet_mode_embedder"] = {"weight": (config.num_mode, d)}
    if config.encodes_image:
        features = config.conditioning_embedding_channels
        spec["input_hint_block"] = pixel_spec(3, HINT_WIDTHS, features)
    return spec


def controlnet(
    ops: Backend,
    p: Params,
    config: FluxControlConfig,
    x: Array,
    t: Array,
    context: Array | CachedContext,
    hint: Array,
    pooled: Array,
    guidance: Array | None = None,
    mode: Array | None = None,
) -> BlockResiduals:
    """Compute the residuals that the transformer adds to the tokens of the image.

    Args:
        ops: The backend.
        p: The parameters of `controlnet_spec`.
        config: The configuration.
        x: Noisy latents, (n, z, h, w) with even h and w.
        t: The times, multiplied by 1000, (n,).
        context: Hidden states of the text, (n, l, joint_attention_dim).
        hint: Latents of the image, or what `encode_hint` makes of it, (n, z, h, w).
        pooled: Pooled text, (n, pooled_projection_dim).
        guidance: The guidance scales, (n,). None: the network reads none.
        mode: The number of the kind of the image, (n, 1). None: it knows one kind.

    Returns:
        One array for each block.
    """
    grid = cut_patches(x)
    h = embed_patches(ops, p.x_embedder, grid)
    h = h + embed_patches(ops, p.controlnet_x_embedder, cut_patches(hint))
    scale = None if guidance is None else guidance * SCALE
    emb = embed(ops, p.time_text_embed, t, pooled, scale)
    text = linear(ops, p.context_embedder, get_hidden_states(context))
    if mode is not None:
        kind = ops.embedding(p.controlnet_mode_embedder.weight, mode)
        text = ops.xp.concat([ops.xp.astype(kind, text.dtype, copy=False), text], axis=1)
    shared = find_positions(ops, grid, text), config.axes_dims_rope, config.num_attention_heads

    residuals = []
    for block, zero in pair_blocks(p, "transformer_blocks", "controlnet_blocks"):
        text, h = double_block(ops, block, h, text, emb, *shared)
        residuals.append(linear(ops, zero, h))
    of_single_blocks = []
    for block, zero in pair_blocks(p, "single_transformer_blocks", "controlnet_single_blocks"):
        text, h = single_block(ops, block, h, text, emb, *shared)
        of_single_blocks.append(linear(ops, zero, h))
    return BlockResiduals(tuple(residuals), tuple(of_single_blocks))


def pair_blocks(p: Params, blocks: str, layers: str) -> list[tuple[Params, Params]]:
    """Return each block of a kind with the linear layer of its residual; there may be none."""
    if blocks not in p:
        return []
    return list(zip(p[blocks].items_in_order(), p[layers].items_in_order(), strict=True))


def encode_hint(ops: Backend, p: Params, hint: Array) -> Array:
    """Encode an image, (n, 3, H, W) in [-1, 1], as features (n, c, H/8, W/8)."""
    return encode_pixels(ops, p.input_hint_block, hint)


# -- the declaration ------------------------------------------------------------------------------


def describe_networks(net: FluxControlConfig) -> list[DeclaredNetwork]:
    """Return the encoder of the image, if there is one, and the network."""
    more = [GUIDANCE] if net.guidance_embeds else []
    if net.num_mode:
        mode = NetworkInput(
            "mode",
            "controlnet_mode",
            (BATCH, 1),
            "labels",
            below=net.num_mode,
        )
        more.append(mode)
    counts = BlockResiduals(tuple(range(net.num_layers)), tuple(range(net.num_single_layers)))
    spec = partial(controlnet_spec, net)
    network = declare_controlnet(net, controlnet, spec, net.in_channels, counts, more)
    if not net.encodes_image:
        return [network]
    sides = CallSize("height", HINT_FACTOR), CallSize("width", HINT_FACTOR)
    image = NetworkInput("hint", "hint", (BATCH, 3, *sides), "image")
    encoder = DeclaredNetwork(
        "controlnet.hint",
        "controlnet",
        "encoder of a ControlNet's image",
        encode_hint,
        spec,
        {},
        (image,),
        (NetworkOutput("", "features"),),
    )
    return [encoder, network]


def fit_config(config: ModelConfig) -> FluxControlConfig:
    """Return the configuration of a ControlNet that copies a model's blocks and encodes images."""
    transformer = transformer_of(config)
    z = config.vae.latent_channels
    copied: dict[str, Any] = {f.name: getattr(transformer, f.name) for f in fields(FluxConfig)}
    copied |= {"in_channels": z, "conditioning_embedding_channels": z}
    return FluxControlConfig(**copied)


def list_differences(config: ModelConfig, net: FluxControlConfig) -> Iterator[Difference]:
    """Yield in what a ControlNet differs from those that fit a model."""
    transformer = transformer_of(config)
    if net.in_channels != config.vae.latent_channels:
        yield "in_channels", net.in_channels, config.vae.latent_channels
    yield from compare(transformer, net, ("width", "joint_attention_dim", "pooled_projection_dim"))
    yield from compare_depth(transformer, net, "num_layers")
    yield from compare_depth(transformer, net, "num_single_layers")
    if net.guidance_embeds and not transformer.guidance_embeds:
        yield "guidance_embeds", True, False
    if net.encodes_image and config.vae.factor != HINT_FACTOR:
        yield "pixels of the hint per latent cell", HINT_FACTOR, config.vae.factor


def place_residuals(
    config: ModelConfig, net: FluxControlConfig | None, residuals: BlockResiduals
) -> BlockResiduals:
    """Return a residual for each of N blocks: of K, number floor(i / ceil(N / K)) follows block i.

    Those of a ControlNet with an encoder of the image follow blocks of two streams in turn: number
    i mod K.
    """
    transformer = transformer_of(config)

    def spread(parts: tuple[Array, ...], count: int, in_turn: bool = False) -> tuple[Array, ...]:
        if not parts:
            return ()
        interval = math.ceil(count / len(parts))
        return tuple(parts[i % len(parts) if in_turn else i // interval] for i in range(count))

    return BlockResiduals(
        spread(residuals.blocks, transformer.num_layers, net is not None and net.encodes_image),
        spread(residuals.single_blocks, transformer.num_single_layers),
    )


def convert_controlnet_config(data: Mapping[str, Any]) -> FluxControlConfig:
    """Convert the configuration of a `FluxControlNetModel`."""
    where = "the ControlNet's configuration"
    data = {name: x for name, x in data.items() if name not in OPTIONAL or x is not None}
    net = read_denoiser(FluxControlConfig(), data, packed=PACKED)
    axes = net.axes_dims_rope
    if sum(axes) != net.attention_head_dim or any(dim % 2 for dim in axes):
        raise config_error(f"{where} has axes_dims_rope that do not add up to attention_head_dim")
    if net.encodes_image:
        require_plain(data, {"patch_size": (PATCH,)}, where)
        require_plain(data, {"conditioning_embedding_channels": (net.in_channels,)}, where)
    else:
        require_plain(data, {"patch_size": (1,)}, where)
    return net


CONTROL = DeclaredControl(
    {"FluxControlNetModel": convert_controlnet_config},
    fit_config,
    describe_networks,
    list_differences,
    BlockResiduals,
    {
        "controlnet_block_samples": "blocks",
        "controlnet_single_block_samples": "single_blocks",
    },
    lambda config: block_inputs(
        transformer_of(config).width,
        transformer_of(config).num_layers,
        transformer_of(config).num_single_layers,
    ),
    place_residuals,
    draws_hint=True,
)
"""ControlNets of Flux.1."""
