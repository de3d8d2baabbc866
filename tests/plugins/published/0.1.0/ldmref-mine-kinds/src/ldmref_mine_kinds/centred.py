from dataclasses import dataclass

from ldmref.families import Autoencoder, BaseAutoencoderConfig, find_autoencoder
from ldmref.models import AutoencoderConfig

KL = find_autoencoder("kl")


@dataclass(frozen=True)
class CentredConfig(BaseAutoencoderConfig):
    kind = "centred"
    factor = 8  # pixels per cell of the latents
    decoder_width = 256  # channels at the size of the image, for estimates of memory

    @property
    def kl(self):
        return AutoencoderConfig(latent_channels=self.latent_channels)


def spec(config):
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
    spread=lambda ops, p, config: 1.0,  # by what `normalize` multiplies a deviation
    normalized_by=("bn",),  # the parameters that the normalisation reads
    classes={"AutoencoderCentred": lambda data: CentredConfig()},  # of diffusers' config.json
)
