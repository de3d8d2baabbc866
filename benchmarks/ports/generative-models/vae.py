"""generative-models 0ad7de9: the makers' autoencoder of SDXL, in PyTorch.

Its class `AutoencoderKL` needs packages for training, so what it computes is written here.
"""

import torch
from judged import KitInputs, distance, judge
from sgm.modules.diffusionmodules.model import Decoder, Encoder
from sgm.modules.distributions.distributions import DiagonalGaussianDistribution
from torch import nn

import ldmref

PREFIX = "first_stage_model."
kit = KitInputs("sdxl")
config = kit.config("vae")
channels = config["latent_channels"]
sizes = {
    "ch": 4, "ch_mult": [width // 4 for width in config["block_out_channels"]], "out_ch": 3,
    "num_res_blocks": config["layers_per_block"], "z_channels": channels, "in_channels": 3,
    "attn_resolutions": [], "resolution": 16,
}  # fmt: skip


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = Encoder(**sizes), Decoder(**sizes)
        self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.post_quant_conv = nn.Conv2d(channels, channels, 1)

    def encode(self, x):
        return DiagonalGaussianDistribution(self.quant_conv(self.encoder(x)))

    def decode(self, z):
        return self.decoder(self.post_quant_conv(z))


vae, errors = Autoencoder(), {}
weights = {name: torch.tensor(x) for name, x in kit.original("vae").items() if PREFIX in name}
vae.load_state_dict({name.removeprefix(PREFIX): x for name, x in weights.items()})
with torch.no_grad(), ldmref.recording({"vae": vae}) as run:
    for call in ("vae.encode", "vae.decode"):
        x, expected = kit.call(call)
        y = getattr(vae, call[4:])(*(torch.tensor(array).float() for array in x.values()))
        errors[call] = distance(y.mode() if call == "vae.encode" else y, expected)
judge("SDXL autoencoder", run.trace, kit, errors)
