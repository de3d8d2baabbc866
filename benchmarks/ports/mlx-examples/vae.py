"""mlx-examples 7ddca42: the autoencoder of SDXL, in MLX, whose arrays are (n, h, w, c).

Error found: all group norms have MLX's own eps, 1e-5, instead of 1e-6.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from judged import KitInputs, distance, judge
from loading import load_weights, rename
from stable_diffusion.stable_diffusion.config import AutoencoderConfig
from stable_diffusion.stable_diffusion.model_io import map_vae_weights
from stable_diffusion.stable_diffusion.vae import Autoencoder

import ldmref


class Coder(nn.Module):
    """One side of an autoencoder, with the convolution that belongs to it."""

    def __init__(self, vae: Any, side: str):
        super().__init__()
        if side == "decoder":
            self.post_quant_conv, self.decoder = vae.post_quant_proj, vae.decoder
        else:
            self.encoder, self.quant_conv = vae.encoder, vae.quant_proj

    def __call__(self, x: mx.array) -> Any:
        """Return the image of latents, or the moments of an image's latents."""
        if "decoder" in self:
            return self.decoder(self.post_quant_conv(x))
        return mx.split(self.quant_conv(self.encoder(x)), 2, axis=-1)


kit = KitInputs("sdxl")
config = kit.config("vae")
SAME = "in_channels out_channels block_out_channels layers_per_block norm_num_groups scaling_factor"
vae = Autoencoder(
    AutoencoderConfig(
        latent_channels_in=config["latent_channels"],
        latent_channels_out=2 * config["latent_channels"],
        **{name: config[name] for name in SAME.split()},
    )
)
load_weights(vae, kit.weights("vae"), map_vae_weights)
for call, side in (("vae.decode", "decoder"), ("vae.encode", "encoder")):
    net = Coder(vae, side)
    inputs, expected = kit.call(call)
    (x,) = inputs.values()
    with ldmref.recording(net, call=call, names=rename) as run:
        y = net(mx.array(x.transpose(0, 2, 3, 1).astype(np.float32)))
    mean = y if side == "decoder" else y[0]
    errors = {call: distance(mean.transpose(0, 3, 1, 2), expected)}
    judge(f"SDXL autoencoder, {side}", run.trace, kit, errors)
