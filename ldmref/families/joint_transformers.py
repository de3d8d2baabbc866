"""Shared parts of the transformers of image and text: layers, declarations and rules.

Esser et al. 2024, arXiv:2403.03206, section 4 and figure 2; adaLN-Zero of Peebles and Xie 2023,
arXiv:2212.09748.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ldmref.backends.base import Backend
from ldmref.families.latent_diffusion import describe_autoencoder, describe_text_encoder
from ldmref.families.unet import TOKENS
from ldmref.math.arrays import Array
from ldmref.math.embedding import timestep_embedding
from ldmref.models.autoencoder_config import BaseAutoencoderConfig
from ldmref.models.autoencoder_kind import autoencoder_of
from ldmref.models.config import TEXT_ENCODERS, AutoencoderConfig, ModelConfig, TextConfig
from ldmref.models.declared import (
    BATCH,
    HEIGHT,
    WIDTH,
    CallSize,
    DeclaredNetwork,
    NetworkInput,
    NetworkOutput,
    TextAttention,
)
from ldmref.models.family import BLOCK_LAYERS
from ldmref.models.flops import count_products
from ldmref.models.layers import layer, linear, mlp
from ldmref.models.params import Params, Spec
from ldmref.models.specs import linear_spec, mlp_spec
from ldmref.models.transformer_layers import gelu_tanh
from ldmref.samplers.config import SchedulerConfig

FREQUENCIES = 256  # width of the sines and cosines of the time
SCALE = 1000.0  # of the guidance before its sines and cosines, as T is of the time
EPS = 1e-6  # of all norms
LORA_TARGETS = {  # of both streams
    "attention": (
        *BLOCK_LAYERS["attention"],
        ".add_q_proj",
        ".add_k_proj",
        ".add_v_proj",
        ".to_add_out",
    ),
    "feed_forward": (*BLOCK_LAYERS["feed_forward"], ".ff_context.net.0.proj", ".ff_context.net.2"),
}

# -- parts of the networks ------------------------------------------------------------------------


def embedding_spec(width: int, pooled: int, guidance: bool = False) -> Spec:
    """Return the shapes of `embed`, from pooled text (n, pooled) to (n, width)."""
    spec: Spec = {"timestep_embedder": mlp_spec(FREQUENCIES, width)}
    if guidance:
        spec["guidance_embedder"] = mlp_spec(FREQUENCIES, width)
    spec["text_embedder"] = mlp_spec(pooled, width)
    return spec


@layer
def embed(ops: Backend, p: Params, t: Array, pooled: Array, guidance: Array | None = None) -> Array:
    """Embed times and guidance scales, (n,) each, and pooled text (n, k); their sum is (n, d).

    Both numbers are multiplied by 1000 before.
    """
    emb = embed_numbers(ops, p.timestep_embedder, t, FREQUENCIES, pooled)
    if guidance is not None and "guidance_embedder" in p:
        emb = emb + embed_numbers(ops, p.guidance_embedder, guidance, FREQUENCIES, pooled)
    return emb + mlp(ops, p.text_embedder, pooled)


def embed_numbers(ops: Backend, p: Params, numbers: Array, width: int, like: Array) -> Array:
    """Apply an MLP to `width` sines and cosines of numbers, (n,): (n, d), dtype of `like`."""
    waves = find_sines(ops, numbers, width)
    return mlp(ops, p, ops.xp.astype(waves, like.dtype, copy=False))


def find_sines(ops: Backend, numbers: Array, width: int) -> Array:
    """Return `width` sines and cosines of each number, (n,): (n, width)."""
    return ops.call_function("time_proj", timestep_embedding, as_floating(ops, numbers), width)


def as_floating(ops: Backend, t: Array) -> Array:
    """Return times in `ops.state_dtype` if they are integers."""
    xp = ops.xp
    return xp.astype(t, getattr(xp, ops.state_dtype)) if xp.isdtype(t.dtype, "integral") else t


@layer
def adaptive_norm(ops: Backend, p: Params, x: Array, emb: Array) -> tuple[Array, ...]:
    """Normalise tokens (n, l, d), then scale and shift them as `emb`, (n, d), says.

    Returns the tokens alone or, if the layer computes more than their scale and shift: the tokens;
    the gate of their attention; shift, scale and gate of the feed-forward layer; and
    for a second attention its tokens and its gate. All but tokens are (n, 1, d).
    """
    d = p.linear.weight.shape[1]
    normal = normalize(ops, x)
    rows = linear(ops, p.linear, ops.silu(emb))
    parts = [rows[:, None, i : i + d] for i in range(0, p.linear.weight.shape[0], d)]
    if len(parts) == 2:  # in diffusers' order, not the original's
        scale, shift = parts
        return (normal * (1.0 + scale) + shift,)
    shift, scale, *others = parts
    if len(parts) == 9:
        *others, shift_2, scale_2, gate_2 = others
        others += [normal * (1.0 + scale_2) + shift_2, gate_2]
    return normal * (1.0 + scale) + shift, *others


def normalize(ops: Backend, x: Array) -> Array:
    """Normalise tokens (n, l, d) without learned weights."""
    one = ops.xp.ones_like(x[0, 0, :])
    return ops.layer_norm(x, one, one - one, EPS)


def gated_feed_forward(
    ops: Backend, p: Params, x: Array, shift: Array, scale: Array, gate: Array
) -> Array:
    """Return what the feed-forward layer adds to tokens (n, l, d)."""
    return gate * feed_forward(ops, p, normalize(ops, x) * (1.0 + scale) + shift)


def feed_forward_spec(d: int) -> Spec:
    """Return the shapes of `feed_forward`."""
    return {"net": {"0": {"proj": linear_spec(d, 4 * d)}, "2": linear_spec(4 * d, d)}}


@layer
def feed_forward(ops: Backend, p: Params, x: Array) -> Array:
    """Apply an MLP with the tanh form of GELU; x: (n, l, d) -> the same."""
    return linear(ops, p.net["2"], project_gelu(ops, p.net["0"], x))


@layer
def project_gelu(ops: Backend, p: Params, x: Array) -> Array:
    """Apply a linear layer and GELU; x: (n, l, d) -> (n, l, 4 d)."""
    return gelu_tanh(ops, linear(ops, p.proj, x))


# -- declarations ---------------------------------------------------------------------------------


def describe_model(
    config: ModelConfig,
    function: Callable[..., Any],
    spec: Callable[[Any], Spec],
    inputs: Sequence[NetworkInput],
    text_attention: TextAttention | None = None,
    **more: Any,
) -> list[DeclaredNetwork]:
    """Return the networks of a model: text encoders, transformer and autoencoder.

    Args:
        config: The configuration of the model.
        function: The transformer.
        spec: Returns the shapes of its parameters, from its configuration.
        inputs, more: As for `declare_transformer`.
        text_attention: Where it attends to the text, if that is recorded.
    """
    network = config.denoiser
    shapes = partial(spec, network)
    encoders = zip(TEXT_ENCODERS, config.text_encoders, strict=False)
    return [
        *(describe_text_encoder(name, text) for name, text in encoders),
        declare_transformer(
            network, function, shapes, inputs, text_attention=text_attention, **more
        ),
        *describe_autoencoder(config.vae),
    ]


GUIDANCE = NetworkInput("guidance", "guidance", (BATCH,), "guidance")
MASK = NetworkInput("mask", "encoder_attention_mask", (BATCH, TOKENS), "mask")


TIME = NetworkInput("t", "timestep", (CallSize("timesteps"),), "timesteps")


def latents_input(channels: int) -> NetworkInput:
    """Return the input of noisy latents."""
    return NetworkInput("x", "sample", (BATCH, channels, HEIGHT, WIDTH))


def text_input(width: int) -> NetworkInput:
    """Return the input of the text's hidden states, of this width."""
    return NetworkInput("context", "encoder_hidden_states", (BATCH, TOKENS, width))


def list_inputs(config: Any) -> tuple[NetworkInput, ...]:
    """Return the inputs of a network of SD3 or Flux.1: latents, time, text and pooled text."""
    pooled = NetworkInput(
        "pooled",
        "pooled_projections",
        (BATCH, config.pooled_projection_dim),
    )
    latents = latents_input(config.in_channels)
    return latents, TIME, text_input(config.joint_attention_dim), pooled


def declare_transformer(
    config: object,
    function: Callable[..., Any],
    spec: Callable[[], Spec],
    inputs: Sequence[NetworkInput],
    **more: Any,
) -> DeclaredNetwork:
    """Return a transformer that predicts a velocity, as a network that a run calls in each step.

    Args:
        config: Its configuration.
        function: The network.
        spec: Returns the shapes of its parameters.
        inputs: The arrays that it takes, with diffusers' names.
        more: Other fields of `DeclaredNetwork`, such as its `steerable` layers.
    """
    network = DeclaredNetwork(
        "transformer",
        "transformer",
        "transformer of image and text",
        function,
        spec,
        {"config": config},
        tuple(inputs),
        (NetworkOutput("", "out_sample"),),
        "transformer",
        numbered=True,
    )
    return replace(network, **more)


# -- configurations -------------------------------------------------------------------------------

FLOW = SchedulerConfig(prediction_type="flow", sampler="euler", spacing="flow", final_sigma="zero")
AUTOENCODER = AutoencoderConfig(latent_channels=16, use_quant_conv=False, use_post_quant_conv=False)
T5_XXL = TextConfig(
    model_type="t5",
    vocab_size=32128,
    hidden_size=4096,
    intermediate_size=10240,
    num_hidden_layers=24,
    num_attention_heads=64,
    head_dim=64,
    hidden_act="gelu_new",
    layer_norm_eps=1e-6,
    eos_token_id=1,
)


def broken_axis_rules(
    axes: Sequence[int],
    head: float,
    names: tuple[str, str] = ("axes_dims_rope", "attention_head_dim"),
) -> Iterator[str]:
    """Yield the rule that the parts of a head, each rotated by an axis, may break.

    Args:
        axes: The widths of the parts.
        head: The width of a head.
        names: The fields of both.
    """
    if sum(axes) != head or any(dim % 2 for dim in axes):
        yield f"transformer.{names[0]} must be even and add up to {names[1]}"


def shrink_model(config: ModelConfig, sizes: Mapping[str, Any], **texts: TextConfig) -> ModelConfig:
    """Return a small version of a model, for golden cases: images of 16 x 16 in four steps.

    Args:
        config: The configuration of the model.
        sizes: The fields of the transformer that are smaller.
        texts: The text encoders, by their fields.
    """
    shrink = autoencoder_of(config.vae).shrink or shrink_autoencoder
    return replace(
        config,
        denoiser=replace(config.denoiser, **sizes),
        vae=shrink(config.vae),
        defaults=replace(config.defaults, steps=4, width=16, height=16),
        **texts,
    )


def shrink_autoencoder(config: BaseAutoencoderConfig) -> AutoencoderConfig:
    """Return a small version of an autoencoder, for golden cases."""
    assert isinstance(config, AutoencoderConfig)  # the families that share this have KL's
    return replace(
        config,
        latent_channels=4,
        block_out_channels=(8, 12),
        layers_per_block=1,
        norm_num_groups=4,
    )


def shrink_text(text: TextConfig, width: int) -> TextConfig:
    """Return a small version of a text encoder, for golden cases."""
    return replace(
        text,
        vocab_size=512,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        head_dim=8 if text.head_dim else 0,
        projection_dim=width if text.projection_dim else 0,
        eos_token_id=2,
    )


def count_tokens(config: ModelConfig, width: int, height: int, dropped: int = 0) -> tuple[int, int]:
    """Return the numbers of tokens of an image, and of the longest text.

    Args:
        config: The configuration of a model with one text encoder.
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        dropped: The number of leading tokens of a text whose hidden states are not read.
    """
    text = config.text_encoder.max_position_embeddings - dropped
    return config.count_tokens(width, height), text


def count_two_stream_flops(
    network: Any, spec: Spec, image: int, text: int, is_once: Callable[[str], bool]
) -> int:
    """Count the operations of one evaluation of double blocks, then single blocks.

    Args:
        network: The configuration: `num_layers`, `num_single_layers` and `width`.
        spec: The shapes of its parameters.
        image: The number of tokens of the image.
        text: The number of tokens of the text.
        is_once: Whether the parameter of a name multiplies one row, not the tokens.
    """
    blocks = network.num_layers + network.num_single_layers
    attention = 4 * blocks * (image + text) ** 2 * network.width

    def count_rows(name: str) -> int:
        if is_once(name):
            return 1
        if name.startswith("single_transformer_blocks"):
            return image + text
        if name.startswith("context_embedder") or "add_" in name or "ff_context" in name:
            return text
        return image

    return attention + count_products(spec, count_rows)
