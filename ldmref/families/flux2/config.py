"""The configuration of the transformer of FLUX.2, with the field names of diffusers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

from ldmref.declare import Length, Range
from ldmref.families.joint_transformers import broken_axis_rules
from ldmref.families.qwen3.prompts import broken_text_rules
from ldmref.models.config import ModelConfig, denoiser_of
from ldmref.models.denoiser_config import DenoiserConfig, Width


@dataclass(frozen=True)
class Flux2Config(DenoiserConfig):
    """The transformer of FLUX.2: blocks of two streams, then blocks of one.

    Args:
        in_channels: Number of channels z of the latents; each cell is a token.
        out_channels: z.
        sample_size: Height and width of the latents in training.
        num_layers: Number of blocks with a stream for the image and one for the text.
        num_single_layers: Number of blocks with one stream.
        num_attention_heads: Number of attention heads.
        attention_head_dim: Width of a head.
        joint_attention_dim: Width of the text's hidden states.
        timestep_guidance_channels: Width of the sines and cosines of the time.
        mlp_ratio: Width of the feed-forward layers, in units of the width of the tokens.
        axes_dims_rope: The parts of a head's width that are rotated by a token's time (0 for the
            image, 10 k for the k-th reference), row, column and place in the text.
        rope_theta: The base of the frequencies of the positions.
        eps: Number added to variances and mean squares.
        guidance_embeds: Whether the network reads the guidance scale, as FLUX.2 [dev] does.

    >>> from ldmref.families.flux2 import Flux2Config
    >>> Flux2Config().width, Flux2Config().mlp_width
    (3072, 9216)
    """

    family: ClassVar[str] = "flux2"
    network: ClassVar[str] = "transformer"
    in_channels: Width = 128
    out_channels: Width = 128
    sample_size: Width = 64
    num_layers: Annotated[int, Range(0, 1000)] = 5
    num_single_layers: Annotated[int, Range(0, 1000)] = 20
    num_attention_heads: Width = 24
    attention_head_dim: Width = 128
    joint_attention_dim: Width = 7680
    timestep_guidance_channels: Annotated[int, Range(2, 65536)] = 256
    mlp_ratio: Annotated[float, Range(0.01, 1000)] = 3.0
    axes_dims_rope: Annotated[tuple[int, ...], Range(2, 65536), Length(4, 4)] = (32, 32, 32, 32)
    rope_theta: Annotated[float, Range(1, 1e12)] = 2000.0
    eps: Annotated[float, Range(0, 1)] = 1e-6
    guidance_embeds: bool = False

    @property
    def width(self) -> int:
        """The width d of the tokens."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def mlp_width(self) -> int:
        """The width of the feed-forward layers behind their gate."""
        return int(self.width * self.mlp_ratio)

    @property
    def reads_guidance(self) -> bool:
        """Whether it does is a field."""
        return self.guidance_embeds


transformer_of = partial(denoiser_of, Flux2Config)
"""Return the transformer's configuration of a model of this family."""


def broken_rules(config: ModelConfig) -> Iterator[str]:
    """Yield the relations between fields that do not hold."""
    transformer = transformer_of(config)
    yield from broken_axis_rules(transformer.axes_dims_rope, transformer.attention_head_dim)
    if transformer.timestep_guidance_channels % 2:
        yield "transformer.timestep_guidance_channels must be even"
    if transformer.in_channels != transformer.out_channels:
        yield "transformer.out_channels must equal in_channels"
    yield from broken_text_rules(config, "joint_attention_dim")
