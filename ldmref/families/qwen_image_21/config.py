"""The configuration of Qwen-Image 2.1's transformer, with the field names of diffusers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

from ldmref.declare import Length, Range
from ldmref.families.joint_transformers import broken_axis_rules
from ldmref.families.qwen3.prompts import broken_text_rules
from ldmref.models.config import ModelConfig, denoiser_of
from ldmref.models.denoiser_config import DenoiserConfig, Eps, Width

SLOT = 2  # a place of an image in a text stands for 2 x 2 cells, so sides are multiples of it


@dataclass(frozen=True)
class QwenImage21Config(DenoiserConfig):
    """The transformer of Qwen-Image 2.1: text, then image, in one causal sequence.

    Args:
        in_channels: Number of channels z of the latents; a cell is a token.
        out_channels: z.
        sample_size: Height and width of the latents in training.
        num_layers: Number of blocks.
        attention_head_dim: Width of an attention head.
        num_attention_heads: Number of attention heads.
        context_in_dim: Width of the text's hidden states.
        mlp_ratio: Width of the feed-forward layers, over that of the tokens.
        axes_dims_rope: The parts of a head's width that are rotated by a token's place in the
            sequence, its row and its column.
        eps: Number added to the variance or the mean square in all norms.
    """

    family: ClassVar[str] = "qwen-image-2.1"
    network: ClassVar[str] = "transformer"
    in_channels: Width = 64
    out_channels: Width = 64
    sample_size: Width = 64
    num_layers: Annotated[int, Range(1, 1000)] = 32
    attention_head_dim: Width = 128
    num_attention_heads: Width = 32
    context_in_dim: Width = 4096
    mlp_ratio: Annotated[int, Range(1, 64)] = 3
    axes_dims_rope: Annotated[tuple[int, ...], Range(2, 65536), Length(3, 3)] = (16, 56, 56)
    eps: Eps = 1e-6

    @property
    def width(self) -> int:
        """The width d of the tokens."""
        return self.attention_head_dim * self.num_attention_heads

    @property
    def side_multiple(self) -> int:
        """Sides of the latents are even, as those of images among the words must be."""
        return SLOT

    @property
    def token_side(self) -> int:
        """A cell of the latents is a token."""
        return 1


transformer_of = partial(denoiser_of, QwenImage21Config)
"""Return the transformer's configuration of a model of this family."""


def broken_rules(config: ModelConfig) -> Iterator[str]:
    """Yield the relations between fields that do not hold."""
    transformer = transformer_of(config)
    yield from broken_axis_rules(transformer.axes_dims_rope, transformer.attention_head_dim)
    if transformer.in_channels != transformer.out_channels:
        yield "transformer.out_channels must equal in_channels"
    yield from broken_text_rules(config, "context_in_dim")
    if not config.text_encoder.use_attention_mask:
        yield "the text encoder must not attend to padding: use_attention_mask"
