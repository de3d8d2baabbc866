"""A kind of autoencoder as a package declares it: KL's, whose latents are z less a mean.

It is the example of docs/add-a-family.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from ldmref.families import Autoencoder, BaseAutoencoderConfig, find_autoencoder
from ldmref.models import AutoencoderConfig

KL = find_autoencoder("kl")


@dataclass(frozen=True)
class CentredConfig(BaseAutoencoderConfig):
    """Its configuration: the channels alone."""

    kind = "centred"
    factor = 8
    decoder_width = 256

    @property
    def kl(self):
        """KL's configuration."""
        return AutoencoderConfig(latent_channels=self.latent_channels)


def spec(config):
    """Return the shapes of every parameter."""
    return {**KL.spec(config.kl), "bn": {"running_mean": (config.latent_channels,)}}


CENTRED = Autoencoder(
    name="centred",
    title="centred autoencoder",
    config=CentredConfig,
    spec=spec,
    encode=lambda ops, p, config, image: KL.encode(ops, p, config.kl, image),
    decode=lambda ops, p, config, z: KL.decode(ops, p, config.kl, z),
    normalize=lambda ops, p, config, z: z - p.bn.running_mean[:, None, None],
    denormalize=lambda ops, p, config, latents: latents + p.bn.running_mean[:, None, None],
    spread=lambda ops, p, config: 1.0,
    normalized_by=("bn",),
    classes={"AutoencoderCentred": lambda data: CentredConfig()},
)
