"""The configuration of a denoising network: what all families share, and the U-Net's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from ldmref.declare import Length, Range

LEVELS = Length(1, 10)  # a network has from 1 to 10
Width = Annotated[int, Range(1, 65536)]
WidthOrZero = Annotated[int, Range(0, 65536)]
Widths = Annotated[tuple[int, ...], Range(1, 65536), LEVELS]
Flags = Annotated[tuple[bool, ...], LEVELS]
Layers = Annotated[int, Range(1, 16)]
LayersPerLevel = Annotated[tuple[int, ...], Range(1, 16), LEVELS]
Depths = Annotated[tuple[int, ...], Range(1, 100), LEVELS]
Eps = Annotated[float, Range(0, 1)]


@dataclass(frozen=True)
class DenoiserConfig:
    """The network that predicts eps, v or x0 of latents (n, z, h, w); each family has its own.

    Args:
        in_channels: Number of input channels: z, and those of an image that is joined to the
            latents.
        out_channels: Number of output channels: z, or 2 z if the variance is also learned.
        sample_size: Height and width of the latents in training.

    Attributes:
        family: The name of the family, as in the entry-point group `ldmref.families`.
        network: The name of the network, of its parameters and of its calls in traces.

    >>> from ldmref.models import UNetConfig
    >>> UNetConfig.network, UNetConfig(in_channels=9).side_multiple
    ('unet', 1)
    """

    family: ClassVar[str]
    network: ClassVar[str]
    in_channels: Width = 4
    out_channels: Width = 4
    sample_size: Width = 64

    @property
    def side_multiple(self) -> int:
        """The number that height and width of the latents must be multiples of."""
        return 1

    @property
    def token_side(self) -> int:
        """Height and width of a token in cells of the latents, of a network that reads tokens."""
        return self.side_multiple

    @property
    def max_side(self) -> int | None:
        """The largest height and width of the latents; None: any."""
        return None

    @property
    def attends_to_text(self) -> bool:
        """Whether the network reads hidden states of the text by attention."""
        return True

    @property
    def reads_guidance(self) -> bool:
        """Whether the network takes the guidance scale as an input, `guidance`."""
        return False

    @property
    def is_flow_map(self) -> bool:
        """Whether the network takes a second time, `t_next`, to which the step leads.

        It then predicts the mean slope of the way from t to t_next, and guidance is a part of it.
        """
        return False

    @property
    def unfilled(self) -> Mapping[tuple[str, ...], DenoiserConfig]:
        """The networks of ports that do not fill up an image or a text with learned tokens.

        By the layers that then read too few tokens.
        """
        return {}


@dataclass(frozen=True)
class UNetConfig(DenoiserConfig):
    """The denoising U-Net, which predicts eps, v or x0 of latents (n, z, h, w).

    Args:
        in_channels: Number of input channels: z, and those of an image that is joined to the
            latents.
        out_channels: Number of output channels: z, or 2 z if the variance is also learned.
        sample_size: Height and width of the latents in training.
        block_out_channels: Width of each level, from the highest resolution to the lowest; each
            level halves height and width.
        layers_per_block: Number of residual blocks per level; the decoder has one more.
        attention_levels: Whether each level has attention.
        attention: `cross`, transformers with self- and cross-attention, or `self`, attention blocks
            without cross-attention.
        num_heads: Number of attention heads of each level; the mid block uses the last.
        transformer_layers_per_block: Number of transformer layers of each level; the mid block uses
            the last.
        cross_attention_dim: Width d of the hidden states of the text (n, l, d); 0 without text.
        class_embed_type: `simple_projection` adds the last token of the text to the time embedding;
            "" does not.
        addition_embed_type: `text_time` adds pooled text and image sizes to the time embedding
            (SDXL); "" does not.
        addition_time_embed_dim: Width of the embedding of each of the six sizes.
        projection_class_embeddings_input_dim: Width of pooled text and embedded sizes together.
        use_linear_projection: Whether transformers project with a matrix instead of a 1 x 1
            convolution.
        resnet_time_scale_shift: `default` adds the time embedding; `scale_shift` scales and shifts
            the second norm with it.
        resnet_updown: Whether levels resample with residual blocks instead of convolutions.
        flow_map: Whether the network also reads the time to which a step leads, as a distilled
            model does.
        norm_num_groups: Number of groups of every GroupNorm; it divides every width.
        norm_eps: Number added to the variance in GroupNorm, in [0, 1].

    >>> from ldmref.models import UNetConfig
    >>> UNetConfig().block_out_channels  # Stable Diffusion 1
    (320, 640, 1280, 1280)
    """

    family: ClassVar[str] = "latent-diffusion"
    network: ClassVar[str] = "unet"
    block_out_channels: Widths = (320, 640, 1280, 1280)
    layers_per_block: Layers = 2
    attention_levels: Flags = (True, True, True, False)
    attention: Literal["cross", "self"] = "cross"
    num_heads: Widths = (8, 8, 8, 8)
    transformer_layers_per_block: Depths = (1, 1, 1, 1)
    cross_attention_dim: WidthOrZero = 768
    class_embed_type: Literal["", "simple_projection"] = ""
    addition_embed_type: Literal["", "text_time"] = ""
    addition_time_embed_dim: Width = 256
    projection_class_embeddings_input_dim: Annotated[int, Range(1, 1048576)] = 2816
    use_linear_projection: bool = False
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    resnet_updown: bool = False
    flow_map: bool = False
    norm_num_groups: Width = 32
    norm_eps: Eps = 1e-5

    @property
    def side_multiple(self) -> int:
        """With `resnet_updown`, every level of the U-Net must halve evenly."""
        return 2 ** (len(self.block_out_channels) - 1) if self.resnet_updown else 1

    @property
    def attends_to_text(self) -> bool:
        """Whether it has cross-attention."""
        return self.attention == "cross" and self.cross_attention_dim > 0

    @property
    def is_flow_map(self) -> bool:
        """Whether it is a field."""
        return self.flow_map
