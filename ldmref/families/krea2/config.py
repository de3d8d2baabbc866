"""The configuration of Krea 2's transformer, with the field names of diffusers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

from ldmref.declare import Length, Range
from ldmref.families.flux.config import Blocks
from ldmref.families.joint_transformers import broken_axis_rules
from ldmref.families.qwen3.encoder import Qwen3Config
from ldmref.families.qwen3.prompts import broken_text_rules
from ldmref.math.tokens import PATCH
from ldmref.models.config import ModelConfig, denoiser_of
from ldmref.models.denoiser_config import DenoiserConfig, Width


@dataclass(frozen=True)
class Krea2Config(DenoiserConfig):
    """The transformer of Krea 2: text and image in one stream, after a fusion of the text's states.

    Args:
        in_channels: Number of channels z of the latents; diffusers counts them times four, after
            packing.
        out_channels: z.
        sample_size: Height and width of the latents in training.
        num_layers: Number of blocks.
        attention_head_dim: Width of a head.
        num_attention_heads: Number of heads of queries.
        num_key_value_heads: Number of heads of keys and values, which divides that of queries.
        intermediate_size: Width of the feed-forward layers.
        timestep_embed_dim: Width of the sines and cosines of the time.
        text_hidden_dim: Width of the text encoder's hidden states.
        num_text_layers: Number of hidden states of a token.
        text_num_attention_heads: Number of heads of queries in the fusion.
        text_num_key_value_heads: Number of heads of keys and values there.
        text_intermediate_size: Width of the feed-forward layers there.
        num_layerwise_text_blocks: Number of blocks over the hidden states of each token.
        num_refiner_text_blocks: Number of blocks over the tokens of a text.
        axes_dims_rope: The parts of a head's width that are rotated by a token's time (always 0),
            row and column.
        rope_theta: The base of the frequencies of the positions.
        norm_eps: Number added to the mean square in all norms.
    """

    family: ClassVar[str] = "krea2"
    network: ClassVar[str] = "transformer"
    in_channels: Width = 16
    out_channels: Width = 16
    sample_size: Width = 128
    num_layers: Blocks = 28
    attention_head_dim: Width = 128
    num_attention_heads: Width = 48
    num_key_value_heads: Width = 12
    intermediate_size: Width = 16384
    timestep_embed_dim: Annotated[int, Range(2, 65536)] = 256
    text_hidden_dim: Width = 2560
    num_text_layers: Annotated[int, Range(1, 64)] = 12
    text_num_attention_heads: Width = 20
    text_num_key_value_heads: Width = 20
    text_intermediate_size: Width = 6912
    num_layerwise_text_blocks: Blocks = 2
    num_refiner_text_blocks: Blocks = 2
    axes_dims_rope: Annotated[tuple[int, ...], Range(2, 65536), Length(3, 3)] = (32, 48, 48)
    rope_theta: Annotated[float, Range(1, 1e12)] = 1000.0
    norm_eps: Annotated[float, Range(0, 1)] = 1e-5

    @property
    def width(self) -> int:
        """The width d of the tokens."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def context_dim(self) -> int:
        """The width of all hidden states of a token, side by side."""
        return self.num_text_layers * self.text_hidden_dim

    @property
    def side_multiple(self) -> int:
        """A token is a patch of 2 x 2 cells of the latents."""
        return PATCH


transformer_of = partial(denoiser_of, Krea2Config)
"""Return the transformer's configuration of a model of this family."""


def broken_rules(config: ModelConfig) -> Iterator[str]:
    """Yield the relations between fields that do not hold."""
    transformer = transformer_of(config)
    yield from broken_axis_rules(transformer.axes_dims_rope, transformer.attention_head_dim)
    if transformer.num_attention_heads % transformer.num_key_value_heads:
        yield "transformer.num_key_value_heads must divide num_attention_heads"
    heads = transformer.text_num_attention_heads
    if transformer.text_hidden_dim % heads or heads % transformer.text_num_key_value_heads:
        yield (
            "transformer.text_num_attention_heads must divide text_hidden_dim, and be divided by "
            "text_num_key_value_heads"
        )
    if transformer.timestep_embed_dim % 2:
        yield "transformer.timestep_embed_dim must be even"
    if transformer.in_channels != transformer.out_channels:
        yield "transformer.out_channels must equal in_channels"
    yield from broken_text_rules(config)
    text = config.text_encoder
    if text.hidden_size != transformer.text_hidden_dim:
        yield "transformer.text_hidden_dim must be hidden_size of the text encoder"
    if isinstance(text, Qwen3Config) and len(text.hidden_layers) != transformer.num_text_layers:
        yield "transformer.num_text_layers must be the number of hidden_layers of the text encoder"
