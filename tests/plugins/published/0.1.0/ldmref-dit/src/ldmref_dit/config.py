"""The configuration of DiT's transformer, with the field names of diffusers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from ldmref.families import (
    DenoiserConfig,
    ModelConfig,
    Range,
)

Size = Annotated[int, Range(1, 65536)]


@dataclass(frozen=True)
class DiTConfig(DenoiserConfig):
    """The transformer of DiT: patches of latents, whose blocks read the time and the class.

    Args:
        in_channels: Number of channels z of the latents.
        out_channels: z, or 2 z if the variance is also learned.
        sample_size: Height and width of the latents in training.
        patch_size: Height and width of a patch, the token of the transformer.
        num_layers: Number of blocks.
        num_attention_heads: Number of attention heads.
        attention_head_dim: Width of a head.
        num_classes: Number of classes without the null class.
        norm_eps: Number added to the variance in the second norm of a block: 1e-6 in the original,
            1e-5 in diffusers. All other norms have 1e-6.
        freq_shift: s of the time embedding's frequencies 10000^(-i / (128 - s)): 0 in the original,
            1 in diffusers.
    """

    family: ClassVar[str] = "dit"
    network: ClassVar[str] = "transformer"
    out_channels: Size = 8
    sample_size: Size = 32
    patch_size: Annotated[int, Range(1, 64)] = 2
    num_layers: Annotated[int, Range(1, 1000)] = 28
    num_attention_heads: Size = 16
    attention_head_dim: Size = 72
    num_classes: Annotated[int, Range(1, 10_000_000)] = 1000
    norm_eps: Annotated[float, Range(0, 1)] = 1e-6
    freq_shift: Annotated[int, Range(0, 1)] = 0

    @property
    def width(self) -> int:
        """The width d of the tokens."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def side_multiple(self) -> int:
        """Latents are cut into whole patches."""
        return self.patch_size


def broken_rules(config: ModelConfig) -> Iterator[str]:
    """Yield the relations between fields that do not hold."""
    transformer = config.denoiser
    assert isinstance(transformer, DiTConfig)
    if transformer.width % 4:
        yield "the transformer's width must be a multiple of 4: sines and cosines of two axes"
    if transformer.sample_size % transformer.patch_size:
        yield "transformer.patch_size must divide transformer.sample_size"
    text = config.text_encoder
    if text.model_type != "label" or text.vocab_size != transformer.num_classes + 1:
        yield "text_encoder must be 'label', with the classes of the transformer and the null class"
