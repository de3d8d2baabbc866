"""PixArt-sigma for ldmref: a transformer that reads T5's hidden states by cross-attention.

Chen et al. 2024, arXiv:2403.04692. ldmref finds `PIXART` through the entry point
`ldmref.families`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from ldmref.backends import Backend
from ldmref.families import (
    CallSize,
    DeclaredNetwork,
    Family,
    GoldenModels,
    GoldenRun,
    NetworkInput,
    NetworkOutput,
    PipelineCalls,
    TextPath,
    TrainingRules,
    Work,
    describe_autoencoder,
    describe_text_encoder,
    get_hidden_states,
)
from ldmref.models import ModelConfig, Params
from ldmref.prompts import PromptTemplate
from ldmref_pixart.config import PixArtConfig, broken_rules, transformer_of
from ldmref_pixart.files import make_presets, read_folder, shrink
from ldmref_pixart.network import transformer, transformer_spec

Array = Any
LOWER = PromptTemplate(prepare=("lower", "strip"))  # as diffusers prepares captions
ENDS = ("pos_embed.proj.weight", "transformer.proj_out.weight", "scale_shift_table")

__all__ = ["PIXART", "PixArtConfig", "transformer", "transformer_spec"]


def predict_noise(
    ops: Backend,
    p: Params,
    config: PixArtConfig,
    x: Array,
    t: Array,
    context: Array,
    mask: Array | None = None,
) -> Array:
    """Predict eps and, with twice the channels, the variance; see `transformer`.

    `context` may be cached. Without a mask, (n, l), all tokens are read.
    """
    states = get_hidden_states(context)
    mask = ops.xp.ones_like(states[:, :, 0]) if mask is None else mask
    return transformer(ops, p, config, x, t, states, mask)


def describe_networks(config: ModelConfig) -> list[DeclaredNetwork]:
    """Return the networks of a model: text encoder, transformer and autoencoder."""
    denoiser = transformer_of(config)
    batch, tokens = CallSize("batch"), CallSize("tokens")
    latents = (batch, denoiser.in_channels, CallSize("height"), CallSize("width"))
    inputs = (
        NetworkInput("x", "sample", latents, also=("input", "0", "x", "hidden_states")),
        NetworkInput("t", "timestep", (CallSize("timesteps"),), "timesteps", also=("t",)),
        NetworkInput(
            "context",
            "encoder_hidden_states",
            (batch, tokens, denoiser.caption_channels),
            also=("1",),
        ),
        NetworkInput("mask", "encoder_attention_mask", (batch, tokens), "mask"),
    )
    network = DeclaredNetwork(
        "transformer",
        "transformer",
        "transformer with cross-attention",
        predict_noise,
        partial(transformer_spec, denoiser),
        {"config": denoiser},
        inputs,
        (NetworkOutput("", "out_sample"),),
        "transformer",
        numbered=True,
    )
    text = describe_text_encoder("text_encoder", config.text_encoder)
    return [text, network, *describe_autoencoder(config.vae)]


def count_flops(config: ModelConfig, width: int, height: int) -> int:
    """Count the operations of one evaluation for one image of `width` x `height` pixels."""
    network = transformer_of(config)
    d, n = network.width, config.count_tokens(width, height)
    m = config.text_encoder.max_position_embeddings
    block = 2 * n * (14 * d * d) + 4 * m * d * d + 4 * n * (n + m) * d
    ends = 2 * n * d * network.patch_size**2 * (network.in_channels + network.out_channels)
    text = 2 * m * (network.caption_channels * d + d * d)
    return network.num_layers * block + ends + text + 2 * (256 * d + d * d + 6 * d * d)


def count_activations(config: ModelConfig, width: int, height: int) -> int:
    """Count the numbers that a block holds at once: tokens, their norm, and the wide MLP twice."""
    return config.count_tokens(width, height) * transformer_of(config).width * 10


def with_length(config: ModelConfig, length: int) -> ModelConfig:
    """Return the configuration with another number of tokens of a caption."""
    text = replace(config.text_encoder, max_position_embeddings=length)
    return replace(config, text_encoder=text)


PIXART = Family(
    "pixart",
    PixArtConfig,
    describe_networks,
    Work(count_flops, count_activations),
    "PixArt-sigma: a transformer that reads T5 by cross-attention",
    broken_rules,
    text=TextPath(
        with_length=with_length,
        templates=lambda config: {"text_encoder": LOWER},
    ),
    presets=make_presets(),
    diffusers=PipelineCalls({"PixArtSigmaPipeline": read_folder}),
    training=TrainingRules(ends=ENDS),
    golden=GoldenModels(shrink, (GoldenRun("pixart-sigma", "ddim"),)),
)
"""The family of PixArt-sigma."""
