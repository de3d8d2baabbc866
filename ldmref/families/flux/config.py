"""The configuration of the transformer of Flux.1, with the field names of diffusers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

from ldmref.declare import Length, Range
from ldmref.families.joint_transformers import broken_axis_rules
from ldmref.models.clip import CLIP
from ldmref.models.config import ModelConfig, denoiser_of
from ldmref.models.denoiser_config import DenoiserConfig, Width
from ldmref.models.t5 import T5
from ldmref.models.text_kind import kind_of

Blocks = Annotated[int, Range(0, 1000)]


@dataclass(frozen=True)
class FluxConfig(DenoiserConfig):
    """The transformer of Flux.1: blocks of two streams, then blocks of one.

    Args:
        in_channels: Number of input channels: z, and those of an image that is joined to the
            latents. diffusers counts them times four, after packing.
        out_channels: z.
        sample_size: Height and width of the latents in training.
        num_layers: Number of blocks with a stream for the image and one for the text.
        num_single_layers: Number of blocks with one stream.
        num_attention_heads: Number of attention heads.
        attention_head_dim: Width of a head.
        joint_attention_dim: Width of the text's hidden states.
        pooled_projection_dim: Width of the pooled text.
        guidance_embeds: Whether the network reads the guidance scale, as in Flux.1 [dev].
        axes_dims_rope: The parts of a head's width that are rotated by a token's time (always 0),
            row and column.

    >>> from ldmref.families.flux import FluxConfig
    >>> FluxConfig().width, FluxConfig().side_multiple
    (3072, 2)
    """

    family: ClassVar[str] = "flux"
    network: ClassVar[str] = "transformer"
    in_channels: Width = 16
    out_channels: Width = 16
    sample_size: Width = 128
    num_layers: Blocks = 19
    num_single_layers: Blocks = 38
    num_attention_heads: Width = 24
    attention_head_dim: Width = 128
    joint_attention_dim: Width = 4096
    pooled_projection_dim: Width = 768
    guidance_embeds: bool = False
    axes_dims_rope: Annotated[tuple[int, ...], Range(2, 65536), Length(3, 3)] = (16, 56, 56)

    @property
    def width(self) -> int:
        """The width d of the tokens."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def side_multiple(self) -> int:
        """A token is a patch of 2 x 2 cells of the latents."""
        return 2

    @property
    def reads_guidance(self) -> bool:
        """Whether it does is a field."""
        return self.guidance_embeds


transformer_of = partial(denoiser_of, FluxConfig)
"""Return the transformer's configuration of a model of this family."""


def broken_rules(config: ModelConfig) -> Iterator[str]:
    """Yield the relations between fields that do not hold."""
    transformer = transformer_of(config)
    yield from broken_axis_rules(transformer.axes_dims_rope, transformer.attention_head_dim)
    texts = config.text_encoders
    if [kind_of(text) for text in texts] != [CLIP, T5]:
        yield "the text encoders must be CLIP's and T5's"
    elif texts[0].hidden_size != transformer.pooled_projection_dim:
        yield "transformer.pooled_projection_dim must equal CLIP's hidden_size"
    elif texts[1].hidden_size != transformer.joint_attention_dim:
        yield "transformer.joint_attention_dim must equal T5's hidden_size"
