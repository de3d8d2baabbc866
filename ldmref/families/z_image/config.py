"""The configuration of Z-Image's transformer, with the field names of diffusers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

from ldmref.declare import Length, Range
from ldmref.families.joint_transformers import broken_axis_rules
from ldmref.families.qwen3.prompts import broken_text_rules
from ldmref.families.qwen3.siblings import THETA, require_theta
from ldmref.math.tokens import PATCH
from ldmref.models.config import ModelConfig, denoiser_of
from ldmref.models.denoiser_config import DenoiserConfig, Width

SEGMENT = 32  # the tokens of an image, and those of a caption, are filled up to multiples of it
OF_IMAGE, OF_TEXT = "noise_refiner.0", "context_refiner.0"  # which read the tokens first


@dataclass(frozen=True)
class ZImageConfig(DenoiserConfig):
    """The transformer of Z-Image: image and caption alone, then both in one stream.

    Args:
        in_channels: Number of channels z of the latents.
        out_channels: z.
        sample_size: Height and width of the latents in training.
        dim: Width d of the tokens.
        n_layers: Number of blocks that image and caption pass together.
        n_refiner_layers: Number of blocks that each passes alone.
        n_heads: Number of attention heads.
        cap_feat_dim: Width of the text's hidden states.
        norm_eps: Number added to the mean square in the norms of the tokens.
        rope_theta: The base of the frequencies of the positions.
        t_scale: Factor of the time, which is 0 for noise and 1 for the image.
        axes_dims: The parts of a head's width that are rotated by a token's place in the sequence
            of caption and image, its row and its column.
    """

    family: ClassVar[str] = "z-image"
    network: ClassVar[str] = "transformer"
    image_segment: ClassVar[int] = SEGMENT
    text_segment: ClassVar[int] = SEGMENT
    in_channels: Width = 16
    out_channels: Width = 16
    sample_size: Width = 128
    dim: Width = 3840
    n_layers: Annotated[int, Range(1, 1000)] = 30
    n_refiner_layers: Annotated[int, Range(0, 1000)] = 2
    n_heads: Width = 30
    cap_feat_dim: Width = 2560
    norm_eps: Annotated[float, Range(0, 1)] = 1e-5
    rope_theta: Annotated[float, Range(1, 1e12)] = 256.0
    t_scale: Annotated[float, Range(1e-9, 1e9)] = 1000.0
    axes_dims: Annotated[tuple[int, ...], Range(2, 65536), Length(3, 3)] = (32, 48, 48)

    @property
    def hidden_dim(self) -> int:
        """The width of the feed-forward layers."""
        return int(self.dim / 3 * 8)

    @property
    def time_dim(self) -> int:
        """The width of the embedded time."""
        return min(self.dim, 256)

    @property
    def side_multiple(self) -> int:
        """A token is a patch of 2 x 2 cells of the latents."""
        return PATCH

    @property
    def unfilled(self) -> Mapping[tuple[str, ...], DenoiserConfig]:
        """The networks without learned tokens behind an image, a caption or both."""
        fields = vars(self)
        return {
            (OF_IMAGE, OF_TEXT): UnfilledZImageConfig(**fields),
            (OF_IMAGE,): UnfilledImageConfig(**fields),
            (OF_TEXT,): UnfilledTextConfig(**fields),
        }


@dataclass(frozen=True)
class UnfilledImageConfig(ZImageConfig):
    """Z-Image without learned tokens behind an image, as some ports have it."""

    image_segment: ClassVar[int] = 1


@dataclass(frozen=True)
class UnfilledTextConfig(ZImageConfig):
    """Z-Image without learned tokens behind a caption, as some ports have it."""

    text_segment: ClassVar[int] = 1


@dataclass(frozen=True)
class UnfilledZImageConfig(UnfilledImageConfig, UnfilledTextConfig):
    """Z-Image without learned tokens, as some ports have it."""


transformer_of = partial(denoiser_of, ZImageConfig)
"""Return the transformer's configuration of a model of this family."""


def broken_rules(config: ModelConfig) -> Iterator[str]:
    """Yield the relations between fields that do not hold."""
    transformer = transformer_of(config)
    head = transformer.dim / transformer.n_heads
    yield from broken_axis_rules(transformer.axes_dims, head, ("axes_dims", "dim / n_heads"))
    if transformer.in_channels != transformer.out_channels:
        yield "transformer.out_channels must equal in_channels"
    yield from broken_text_rules(config, "cap_feat_dim")
    yield from require_theta(config.text_encoder, THETA)
