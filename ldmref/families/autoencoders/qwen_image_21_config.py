"""The configuration of Qwen-Image 2.1's autoencoder, and the kind that families name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any

from ldmref.declare import Length, Range
from ldmref.io.diffusers.checks import require_plain
from ldmref.io.diffusers.declared import read_declared
from ldmref.models.autoencoder_config import BaseAutoencoderConfig
from ldmref.models.denoiser_config import Flags, Layers, Width

ChannelNumbers = Annotated[tuple[float, ...], Range(-1e6, 1e6), Length(1, 65536)]
MEAN = (
    0.5126, 0.7721, -0.0631, 1.3506, -0.7855, -2.1025, -0.3458, 1.3722,
    1.8873, -1.7177, -0.651, 0.2732, 0.7562, -0.6163, -1.0277, 3.8363,
    2.021, 0.0472, 0.932, 2.0087, 2.4954, -0.1391, -1.4249, 1.8464,
    -0.5236, 1.2826, 3.7046, -1.3035, 2.7286, -1.4518, -1.9036, -1.9955,
    -0.0342, -1.0265, -0.7636, 3.0555, 0.0746, -3.0751, -0.1076, 1.7376,
    -1.0914, -1.9435, -0.2784, -1.368, 0.4809, -0.4433, 0.3764, 0.5729,
    -2.0595, 1.096, -1.326, -2.0211, -5.0179, 0.5275, 4.0162, 1.8505,
    0.3026, 1.9373, 1.4937, 0.2632, 0.5547, -1.7121, -0.1562, 0.0304,
)  # fmt: skip
DEVIATION = (
    3.2001, 3.2936, 3.4321, 3.0091, 3.1061, 4.0379, 4.0705, 3.791,
    3.0785, 3.65, 3.9308, 3.0904, 2.8778, 3.7675, 3.732, 5.0756,
    3.2864, 4.0397, 3.1317, 4.0443, 2.9249, 3.9454, 3.0988, 4.2489,
    3.4896, 3.8513, 3.9323, 3.4719, 3.7498, 4.283, 3.5694, 4.2467,
    3.9037, 3.2947, 5.077, 3.5075, 3.27, 3.4767, 2.8063, 5.1125,
    3.5327, 4.7833, 3.1286, 4.1819, 3.8527, 3.8312, 3.5605, 4.3875,
    3.9624, 4.0168, 3.5643, 4.055, 5.5614, 4.2963, 4.408, 3.4959,
    3.8747, 3.7608, 3.5735, 3.149, 3.7662, 3.6746, 3.4563, 3.8161,
)  # fmt: skip
PLAIN: dict[str, tuple[Any, ...]] = {
    "attn_scales": ([], ()),
    "dropout": (0.0,),
    "is_residual": (True,),
    "patch_size": (None, 1),
}
NAMES = {"latent_channels": "z_dim", "temporal_downsample": "temperal_downsample"}  # in diffusers


@dataclass(frozen=True)
class QwenImage21AutoencoderConfig(BaseAutoencoderConfig):
    """The autoencoder between images with alpha, (n, 4, H, W), and latents (n, z, H/16, W/16).

    Args:
        in_channels: Number of channels of the images that are encoded: red, green, blue and alpha.
        out_channels: Number of channels of the decoded images, also with alpha.
        latent_channels: Number of channels z of the latents.
        base_dim: Width of the encoder at the size of the image.
        decoder_base_dim: Width of the decoder at the size of the image.
        dim_mult: Width of each level, over that; between two levels, height and width are halved.
        num_res_blocks: Number of residual blocks per level; the decoder has one more.
        temporal_downsample: Whether each level but the last joins two frames, which the shortcut of
            an image also shows.
        latents_mean: What is subtracted from each channel of z.
        latents_std: What each channel is divided by then.
    """

    in_channels: Width = 4
    out_channels: Width = 4
    latent_channels: Width = 64
    base_dim: Width = 96
    decoder_base_dim: Width = 144
    dim_mult: Annotated[tuple[int, ...], Range(1, 64), Length(1, 10)] = (1, 2, 4, 8, 8)
    num_res_blocks: Layers = 2
    temporal_downsample: Flags = (False, True, True, True)
    latents_mean: ChannelNumbers = MEAN
    latents_std: ChannelNumbers = DEVIATION

    @property
    def kind(self) -> str:
        """The name of the kind."""
        return "qwen-image-2.1"

    @property
    def factor(self) -> int:
        """The pixels per cell of the latents."""
        return 2 ** (len(self.dim_mult) - 1)

    @property
    def decoder_width(self) -> int:
        """The width of the level before the last one, whose arrays the last level takes."""
        return self.decoder_dims[-2]

    @property
    def encoder_dims(self) -> tuple[int, ...]:
        """The width of the encoder before and after each level."""
        return tuple(self.base_dim * times for times in (1, *self.dim_mult))

    @property
    def decoder_dims(self) -> tuple[int, ...]:
        """The width of the decoder before and after each level."""
        return tuple(
            self.decoder_base_dim * times for times in (self.dim_mult[-1], *self.dim_mult[::-1])
        )

    @property
    def frames(self) -> tuple[int, ...]:
        """The number of frames that each level of the encoder joins."""
        return (*(2 if joins else 1 for joins in self.temporal_downsample), 1)


def read_config(data: Mapping[str, Any]) -> QwenImage21AutoencoderConfig:
    """Convert the configuration of an `AutoencoderKLQwenImage21`.

    Raises:
        CorruptModelError: It asks for something that is not supported.
    """
    require_plain(data, PLAIN, "the autoencoder's configuration")
    omitted = QwenImage21AutoencoderConfig()
    if not data.get("decoder_base_dim", True):  # null, for that of the encoder
        data = {**data, "decoder_base_dim": data.get("base_dim", omitted.base_dim)}
    return read_declared(omitted, data, "vae", NAMES)


def broken_rules(config: QwenImage21AutoencoderConfig) -> Iterator[str]:
    """Yield the relations between fields that do not hold."""
    for name in ("latents_mean", "latents_std"):
        if len(getattr(config, name)) != config.latent_channels:
            yield f"vae.{name} needs a number per latent channel"
    if min(config.latents_std) <= 0:
        yield "vae.latents_std must be positive"
    levels = len(config.dim_mult)
    if len(config.temporal_downsample) != levels - 1:
        yield "vae.temporal_downsample needs an entry for each level but the last"
        return
    if config.encoder_dims[-2] != config.encoder_dims[-1]:
        yield "the last level of the vae must be as wide as the one before it"
    for (c_in, c_out), frames in zip(pairwise(config.encoder_dims), config.frames, strict=True):
        if frames * 4 * c_in % c_out:
            yield f"an encoder's shortcut cannot make {c_out} channels of {c_in}"
    joined = (*config.frames[-2::-1], 1)
    for (c_in, c_out), frames in zip(pairwise(config.decoder_dims), joined, strict=True):
        if c_in % c_out or 4 * frames * c_out % c_in:
            yield f"a decoder's shortcut cannot make {c_out} channels of {c_in}"


def shrink(config: QwenImage21AutoencoderConfig) -> QwenImage21AutoencoderConfig:
    """Return a tiny version: three levels, four channels of latents, both kinds of shortcuts."""
    return replace(
        config,
        latent_channels=4,
        base_dim=8,
        decoder_base_dim=12,
        dim_mult=(1, 2, 2),
        num_res_blocks=1,
        temporal_downsample=(False, True),
        latents_mean=config.latents_mean[:4],
        latents_std=config.latents_std[:4],
    )
