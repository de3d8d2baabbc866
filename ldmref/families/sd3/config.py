"""The configuration of the transformer of Stable Diffusion 3, with the field names of diffusers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

from ldmref.declare import Length, Range
from ldmref.models.clip import CLIP
from ldmref.models.config import ModelConfig, denoiser_of
from ldmref.models.denoiser_config import DenoiserConfig, Width
from ldmref.models.text_kind import kind_of


@dataclass(frozen=True)
class MMDiTConfig(DenoiserConfig):
    """The multimodal diffusion transformer: two streams, of image and text, that attend jointly.

    Args:
        in_channels: Number of channels z of the latents.
        out_channels: z.
        sample_size: Height and width of the latents in training.
        patch_size: Height and width of a patch, the token of an image.
        num_layers: Number of blocks.
        num_attention_heads: Number of attention heads.
        attention_head_dim: Width of a head.
        joint_attention_dim: Width of the text's hidden states.
        pooled_projection_dim: Width of the pooled text.
        pos_embed_max_size: Height and width of the table of positions, in patches.
        dual_attention_layers: Numbers of the blocks with a second attention, of the image alone.
        empty_tokens: Number of zeros that stand for the hidden states of a missing T5.
        qk_norm: `rms_norm` for queries and keys that are divided by their root mean square, or "".

    >>> from ldmref.families.sd3 import MMDiTConfig
    >>> MMDiTConfig().width, MMDiTConfig().side_multiple
    (1536, 2)
    """

    family: ClassVar[str] = "sd3"
    network: ClassVar[str] = "transformer"
    in_channels: Width = 16
    out_channels: Width = 16
    sample_size: Width = 128
    patch_size: Annotated[int, Range(1, 64)] = 2
    num_layers: Annotated[int, Range(1, 1000)] = 24
    num_attention_heads: Width = 24
    attention_head_dim: Width = 64
    joint_attention_dim: Width = 4096
    pooled_projection_dim: Width = 2048
    pos_embed_max_size: Annotated[int, Range(1, 4096)] = 192
    dual_attention_layers: Annotated[tuple[int, ...], Range(0, 999), Length(0, 1000)] = ()
    empty_tokens: Annotated[int, Range(0, 512)] = 256
    qk_norm: Literal["", "rms_norm"] = ""

    @property
    def width(self) -> int:
        """The width d of the tokens."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def side_multiple(self) -> int:
        """Latents are cut into whole patches."""
        return self.patch_size

    @property
    def max_side(self) -> int:
        """The patches of the latents have their positions in a table."""
        return self.pos_embed_max_size * self.patch_size


transformer_of = partial(denoiser_of, MMDiTConfig)
"""Return the transformer's configuration of a model of this family."""


def broken_rules(config: ModelConfig) -> Iterator[str]:
    """Yield the relations between fields that do not hold."""
    transformer = transformer_of(config)
    texts = config.text_encoders
    clip = [text for text in texts if kind_of(text) is CLIP]
    if any(number >= transformer.num_layers for number in transformer.dual_attention_layers):
        yield "transformer.dual_attention_layers must be numbers of its blocks"
    if transformer.width % 4:
        yield "the transformer's width must be a multiple of 4: sines and cosines of two axes"
    if transformer.sample_size > transformer.pos_embed_max_size * transformer.patch_size:
        yield "transformer.pos_embed_max_size must hold the patches of sample_size"
    first = [kind_of(text) for text in texts[:2]]
    if first not in ([CLIP], [CLIP, CLIP]) or len(clip) != len(first):
        yield "the first two text encoders, or the first, and only these must be CLIP's"
    if not all(text.projection_dim for text in clip):
        yield "CLIP's text encoders need a pooled output: projection_dim"
    if sum(text.projection_dim for text in clip) != transformer.pooled_projection_dim:
        yield "transformer.pooled_projection_dim must equal the text encoders' projection_dim"
    if sum(text.hidden_size for text in clip) > transformer.joint_attention_dim:
        yield "transformer.joint_attention_dim must hold the hidden states of CLIP's encoders"
    if any(text.hidden_size != transformer.joint_attention_dim for text in texts[2:]):
        yield "transformer.joint_attention_dim must equal T5's hidden_size"
