"""Configurations of autoencoders: what all kinds share, and that of the kinds KL and VQ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal

from ldmref.declare import Length, Range
from ldmref.models.denoiser_config import Eps, Layers, Width, Widths


@dataclass(frozen=True)
class BaseAutoencoderConfig(ABC):
    """The autoencoder between images and latents; each kind has a class that inherits from it.

    Images are (n, c, H, W), latents (n, latent_channels, H / factor, W / factor).

    Args:
        in_channels: Number of channels of the images that are encoded: 3 or, with alpha, 4.
        out_channels: Number of channels of the decoded images, likewise.
        latent_channels: Number of channels of the latents, in which noise is drawn and which the
            denoiser reads.

    >>> from ldmref.models import AutoencoderConfig
    >>> AutoencoderConfig().kind, AutoencoderConfig(codebook_size=256).kind
    ('kl', 'vq')
    """

    in_channels: Width = 3
    out_channels: Width = 3
    latent_channels: Width = 4

    @property
    @abstractmethod
    def kind(self) -> str:
        """The name of the kind, as in the entry-point group `ldmref.autoencoders`."""

    @property
    @abstractmethod
    def factor(self) -> int:
        """The number of pixels per latent cell, along each side of an image."""

    @property
    @abstractmethod
    def decoder_width(self) -> int:
        """The number of channels of the decoder's largest arrays of the image's size."""

    @property
    def patch(self) -> int:
        """The side of the patch of the autoencoder's z that becomes one cell of the latents.

        Latents are z folded to channels in the order (channel, row, column); with 1, z itself.
        """
        return 1


@dataclass(frozen=True)
class AutoencoderConfig(BaseAutoencoderConfig):
    """KL or VQ, between images (n, 3, H, W) and latents (n, latent_channels, h, w).

    Args:
        in_channels: Number of channels of the images that are encoded.
        out_channels: Number of channels of the decoded images.
        latent_channels: Number of channels z of the latents.
        block_out_channels: Width of each level; between two levels, height and width are halved.
        layers_per_block: Number of residual blocks per level; the decoder has one more.
        attention_levels: Whether each level has attention; () for the mid block only.
        mid_block_add_attention: Whether the mid block has attention.
        codebook_size: Number of vectors of a VQ autoencoder; 0 for a KL autoencoder.
        latent_activation: `sigmoid` for latents in (0, 1), as in sparse autoencoders, or "".
        norm_num_groups: Number of groups of every GroupNorm; it divides every width.
        norm_eps: Number added to the variance in GroupNorm, in [0, 1].
        scaling_factor: Factor of the latents that the denoiser sees: latents = scaling_factor *
            (z - shift_factor).
        shift_factor: What is subtracted from z before the scaling.
        use_quant_conv: Whether a 1 x 1 convolution follows the encoder.
        use_post_quant_conv: Whether a 1 x 1 convolution precedes the decoder.
        preview: Linear map from latents to red, green and blue in [0, 1]: for each colour a weight
            per channel and a bias, 3 (z + 1) numbers; () for none.

    >>> from ldmref.models import AutoencoderConfig
    >>> AutoencoderConfig().factor  # pixels per latent cell
    8
    """

    block_out_channels: Widths = (128, 256, 512, 512)
    layers_per_block: Layers = 2
    attention_levels: Annotated[tuple[bool, ...], Length(0, 10)] = ()
    mid_block_add_attention: bool = True
    codebook_size: Annotated[int, Range(0, 10_000_000)] = 0
    latent_activation: Literal["", "sigmoid"] = ""
    norm_num_groups: Width = 32
    norm_eps: Eps = 1e-6
    scaling_factor: Annotated[float, Range(1e-9, 1e9)] = 0.18215
    shift_factor: Annotated[float, Range(-1e9, 1e9)] = 0.0
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    preview: Annotated[tuple[float, ...], Length(0, 100_000), Range(-1e9, 1e9)] = ()

    @property
    def kind(self) -> str:
        """`vq` with a codebook, otherwise `kl`."""
        return "vq" if self.codebook_size else "kl"

    @property
    def factor(self) -> int:
        """Downsampling factor, f = 2^(levels - 1) pixels per latent cell."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def decoder_width(self) -> int:
        """The width of the level before the last one, whose arrays the last level upsamples."""
        return self.block_out_channels[min(1, len(self.block_out_channels) - 1)]
