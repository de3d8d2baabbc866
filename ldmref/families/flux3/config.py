"""The configuration of FLUX.3's transformer, with the field names of diffusers."""

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

WINDOW = 80  # the tokens of a prompt are filled up to a multiple of it


@dataclass(frozen=True)
class Flux3Config(DenoiserConfig):
    """The transformer of FLUX.3: image, references and text alone, then all in one stream.

    Args:
        in_channels: Number of channels z of the latents.
        out_channels: z.
        sample_size: Height and width of the latents in training.
        num_layers: Number of blocks that each mode passes alone.
        num_single_layers: Number of blocks that all modes pass together.
        attention_head_dim: Width of an attention head.
        num_attention_heads: Number of attention heads.
        joint_attention_dim: Width of the text's hidden states.
        timestep_channels: Width of the sines and cosines of a time.
        mlp_ratio: Width of the feed-forward layers, over that of the tokens.
        axes_dims_rope: The parts of a head's width that are rotated by time, row, column, and
            place in the text or number of the reference.
        rope_theta: The base of the frequencies of the positions.
        flow_map: Whether the network also reads the time to which a step leads, as the distilled
            model does.
    """

    family: ClassVar[str] = "flux3"
    network: ClassVar[str] = "transformer"
    in_channels: Width = 128
    out_channels: Width = 128
    num_layers: Annotated[int, Range(0, 1000)] = 5
    num_single_layers: Annotated[int, Range(1, 1000)] = 28
    attention_head_dim: Width = 128
    num_attention_heads: Width = 24
    joint_attention_dim: Width = 20480
    timestep_channels: Annotated[int, Range(2, 65536)] = 256
    mlp_ratio: Annotated[float, Range(0.01, 100)] = 3.0
    axes_dims_rope: Annotated[tuple[int, ...], Range(2, 65536), Length(4, 4)] = (32, 32, 32, 32)
    rope_theta: Annotated[float, Range(1, 1e12)] = 10000.0
    flow_map: bool = False

    @property
    def width(self) -> int:
        """The width d of the tokens."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def hidden(self) -> int:
        """The width of the feed-forward layers."""
        return int(self.width * self.mlp_ratio)

    @property
    def is_flow_map(self) -> bool:
        """Whether it is a field."""
        return self.flow_map


transformer_of = partial(denoiser_of, Flux3Config)
"""Return the transformer's configuration of a model of this family."""


def broken_rules(config: ModelConfig) -> Iterator[str]:
    """Yield the relations between fields that do not hold."""
    transformer = transformer_of(config)
    yield from broken_axis_rules(transformer.axes_dims_rope, transformer.attention_head_dim)
    if transformer.in_channels != transformer.out_channels:
        yield "transformer.out_channels must equal in_channels"
    if transformer.timestep_channels % 2:
        yield "transformer.timestep_channels must be even"
    yield from broken_text_rules(config, "joint_attention_dim")
