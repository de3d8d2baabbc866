"""FLUX.2's autoencoder: that of Stable Diffusion, whose patches of z a batch norm normalises.

The latents are the 32 channels of z folded by 2 x 2 to 128 in the order (channel, row, column),
less the running mean and over the root of the running variance plus 1e-4; both are weights.
Down-sampling pads z on the right and at the bottom, as `ldmref.models.autoencoder.encode` does.
FLUX.3, Ernie-Image and Ideogram 4 have the same one. FLUX.2-small-decoder has a narrower decoder.

Source: github.com/black-forest-labs/flux2, src/flux2/autoencoder.py; huggingface/diffusers,
models/autoencoders/autoencoder_kl_flux2.py. Parameter names of diffusers' AutoencoderKLFlux2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from ldmref.backends.base import Backend
from ldmref.declare import Length, Range
from ldmref.io.compvis.keys import autoencoder_table
from ldmref.io.diffusers.checks import require_plain
from ldmref.io.diffusers.declared import read_declared
from ldmref.io.key_table import KeyEntry
from ldmref.math.arrays import Array
from ldmref.models.autoencoder import KL
from ldmref.models.autoencoder_config import AutoencoderConfig, BaseAutoencoderConfig
from ldmref.models.autoencoder_kind import Autoencoder
from ldmref.models.params import Params, Shape, Spec

PATCH = 2  # latents are patches of 2 x 2 cells of z
PLAIN = {"act_fn": ("silu",), "patch_size": ([2, 2], (2, 2))}
LEVELS = (  # the last convolution of a decoder's level, in the makers' names and in diffusers'
    re.compile(r"decoder\.up\.(\d+)\.block\.0\.conv2\.weight"),
    re.compile(r"decoder\.up_blocks\.(\d+)\.resnets\.0\.conv2\.weight"),
)


@dataclass(frozen=True)
class Flux2AutoencoderConfig(BaseAutoencoderConfig):
    """FLUX.2's autoencoder between images (n, 3, H, W) and latents (n, 128, H/16, W/16).

    Args:
        latent_channels: Channels of the latents, four times those of z.
        block_out_channels: Channels of each level.
        decoder_block_out_channels: Channels of each level of the decoder, where they are others.
        layers_per_block: Residual blocks of a level of the encoder; the decoder has one more.
        norm_num_groups: Groups of the normalisation.
        use_quant_conv: Whether a convolution follows the encoder.
        use_post_quant_conv: Whether a convolution precedes the decoder.
        mid_block_add_attention: Whether the middle attends to all pixels.
        batch_norm_eps: Number added to the running variance.
    """

    latent_channels: Annotated[int, Range(1, 65536)] = 128
    block_out_channels: Annotated[tuple[int, ...], Range(1, 65536), Length(1, 10)] = (
        128, 256, 512, 512,
    )  # fmt: skip
    decoder_block_out_channels: Annotated[tuple[int, ...], Range(1, 65536), Length(0, 10)] = ()
    layers_per_block: Annotated[int, Range(1, 16)] = 2
    norm_num_groups: Annotated[int, Range(1, 65536)] = 32
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True
    batch_norm_eps: Annotated[float, Range(0, 1)] = 1e-4

    @property
    def kind(self) -> str:
        """The name of the kind."""
        return "flux2"

    @property
    def patch(self) -> int:
        """The side of a patch of z."""
        return PATCH

    @property
    def factor(self) -> int:
        """The pixels per cell of the latents: those of z, twice."""
        return PATCH * self.kl.factor

    @property
    def decoder_width(self) -> int:
        """The channels of the decoder's largest arrays."""
        return self.kl_of_decoder.decoder_width

    @property
    def kl(self) -> AutoencoderConfig:
        """The KL autoencoder within: everything but the normalisation."""
        return AutoencoderConfig(
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            latent_channels=self.latent_channels // PATCH**2,
            block_out_channels=self.block_out_channels,
            layers_per_block=self.layers_per_block,
            norm_num_groups=self.norm_num_groups,
            use_quant_conv=self.use_quant_conv,
            use_post_quant_conv=self.use_post_quant_conv,
            mid_block_add_attention=self.mid_block_add_attention,
        )

    @property
    def kl_of_decoder(self) -> AutoencoderConfig:
        """The KL autoencoder whose decoder it has."""
        widths = self.decoder_block_out_channels or self.block_out_channels
        return replace(self.kl, block_out_channels=widths)


def spec(config: Flux2AutoencoderConfig) -> Spec:
    """Return the shapes of every parameter: KL's, and the statistics of the batch norm."""
    c = config.latent_channels
    statistics: Spec = {"running_mean": (c,), "running_var": (c,)}
    decoder = KL.spec(config.kl_of_decoder)["decoder"]
    return {**KL.spec(config.kl), "decoder": decoder, "bn": statistics}


def encode_image(
    ops: Backend, p: Params, config: Flux2AutoencoderConfig, image: Array
) -> tuple[Array, Array]:
    """Return mean and log-variance of z, (n, 32, H/8, W/8)."""
    return KL.encode(ops, p, config.kl, image)


def decode_z(ops: Backend, p: Params, config: Flux2AutoencoderConfig, z: Array) -> Array:
    """Return the images of z, (n, 32, H/8, W/8)."""
    return KL.decode(ops, p, config.kl, z)


def deviation(ops: Backend, p: Params, config: Flux2AutoencoderConfig) -> Array:
    """Return the standard deviation of each channel in training, (128, 1, 1)."""
    return ops.xp.sqrt(p.bn.running_var + config.batch_norm_eps)[:, None, None]


def normalize(ops: Backend, p: Params, config: Flux2AutoencoderConfig, z: Array) -> Array:
    """Return latents of folded z, (n, 128, h, w)."""
    return (z - p.bn.running_mean[:, None, None]) / deviation(ops, p, config)


def denormalize(ops: Backend, p: Params, config: Flux2AutoencoderConfig, latents: Array) -> Array:
    """Return folded z of latents, (n, 128, h, w)."""
    return latents * deviation(ops, p, config) + p.bn.running_mean[:, None, None]


def read_config(data: Mapping[str, Any]) -> Flux2AutoencoderConfig:
    """Return the configuration of diffusers' AutoencoderKLFlux2."""
    require_plain(data, PLAIN, "the autoencoder's configuration")
    values = {**data, "latent_channels": PATCH**2 * data.get("latent_channels", 32)}
    if values.get("decoder_block_out_channels") is None:
        values["decoder_block_out_channels"] = []
    return read_declared(Flux2AutoencoderConfig(), values, "vae")


def with_sizes(
    config: Flux2AutoencoderConfig, shapes: Mapping[str, Shape]
) -> Flux2AutoencoderConfig:
    """Return a configuration whose decoder has the widths of a file, of either names.

    Args:
        config: The configuration of the model.
        shapes: Names and shapes of the file.
    """
    for pattern in LEVELS:
        found = {pattern.fullmatch(name): shape for name, shape in shapes.items()}
        widths = {int(one[1]): (*shape, 0)[0] for one, shape in found.items() if one is not None}
        if {*widths} == {*range(len(config.block_out_channels))} and min(widths.values()) > 0:
            ordered = tuple(
                widths[i] for i in sorted(widths, reverse="up_blocks" in pattern.pattern)
            )
            own = () if ordered == config.block_out_channels else ordered
            return replace(config, decoder_block_out_channels=own)
    return config


def original_autoencoder_table(config: Flux2AutoencoderConfig) -> dict[str, KeyEntry]:
    """Return the makers' tensor for each parameter: CompVis' names except in two convolutions."""
    table = {}
    decoder = autoencoder_table(config.kl_of_decoder)
    for name, entry in autoencoder_table(config.kl).items():
        entry = decoder[name] if name.startswith("decoder.") else entry
        half = {"quant_conv": "encoder.", "post_quant_conv": "decoder."}.get(name.split(".")[0], "")
        table[name] = replace(entry, name=half + entry.name)
    statistics = {f"bn.running_{part}": (config.latent_channels,) for part in ("mean", "var")}
    return table | {name: KeyEntry(name, shape) for name, shape in statistics.items()}


def broken_rules(config: Flux2AutoencoderConfig) -> Iterator[str]:
    """Yield the relations between fields that do not hold."""
    yield from KL.broken_rules(config.kl)
    widths = config.decoder_block_out_channels
    if len(widths) not in (0, len(config.block_out_channels)):
        yield "vae.decoder_block_out_channels needs an entry per level, or none"
    if any(c % config.norm_num_groups for c in widths):
        yield "vae.norm_num_groups must divide every channel count of the decoder"


def shrink(config: Flux2AutoencoderConfig) -> Flux2AutoencoderConfig:
    """Return a tiny version: two levels, 16 channels of latents."""
    return replace(
        config,
        latent_channels=16,
        block_out_channels=(8, 12),
        decoder_block_out_channels=(4, 8) if config.decoder_block_out_channels else (),
        layers_per_block=1,
        norm_num_groups=4,
    )


FLUX2_AUTOENCODER = Autoencoder(
    "flux2",
    "FLUX.2 autoencoder",
    Flux2AutoencoderConfig,
    spec,
    encode_image,
    decode_z,
    normalize,
    denormalize,
    spread=lambda ops, p, config: 1.0 / deviation(ops, p, config),
    normalized_by=("bn",),
    classes={"AutoencoderKLFlux2": read_config},
    makers=original_autoencoder_table,
    with_sizes=with_sizes,
    ignored=r"bn\.num_batches_tracked",
    shrink=shrink,
    broken_rules=broken_rules,
)
"""The kind of autoencoder."""
