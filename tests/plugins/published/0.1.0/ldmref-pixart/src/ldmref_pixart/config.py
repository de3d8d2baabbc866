"""The configuration of PixArt's transformer, with the field names of diffusers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from ldmref.declare import Range
from ldmref.families import DenoiserConfig
from ldmref.models import ModelConfig

Size = Annotated[int, Range(1, 65536)]


@dataclass(frozen=True)
class PixArtConfig(DenoiserConfig):
    """The transformer of PixArt-sigma: patches of latents that read the caption.

    Args:
        in_channels: Number of channels z of the latents.
        out_channels: z, or 2 z if the variance is also learned.
        sample_size: Height and width of the latents in training.
        patch_size: Height and width of a patch, the token of the transformer.
        num_layers: Number of blocks.
        num_attention_heads: Number of attention heads.
        attention_head_dim: Width of a head.
        caption_channels: Width of the text's hidden states.
        interpolation_scale: What the places of patches are divided by.
    """

    family: ClassVar[str] = "pixart"
    network: ClassVar[str] = "transformer"
    out_channels: Size = 8
    sample_size: Size = 128
    patch_size: Annotated[int, Range(1, 64)] = 2
    num_layers: Annotated[int, Range(1, 1000)] = 28
    num_attention_heads: Size = 16
    attention_head_dim: Size = 72
    caption_channels: Size = 4096
    interpolation_scale: Annotated[float, Range(1e-3, 1e3)] = 2.0

    @property
    def width(self) -> int:
        """The width d of the tokens."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def side_multiple(self) -> int:
        """Latents are cut into whole patches."""
        return self.patch_size


def transformer_of(config: ModelConfig) -> PixArtConfig:
    """Return the transformer's configuration of a model of this family."""
    assert isinstance(config.denoiser, PixArtConfig)
    return config.denoiser


def broken_rules(config: ModelConfig) -> Iterator[str]:
    """Yield the relations between fields that do not hold."""
    transformer = transformer_of(config)
    if transformer.width % 4:
        yield "the transformer's width must be a multiple of 4: sines and cosines of two axes"
    text = config.text_encoder
    if text.model_type != "t5" or text.hidden_size != transformer.caption_channels:
        yield "the text encoder must be T5's, with caption_channels as its width"
