"""mflux 0.24.0: the autoencoder of Flux.1, in MLX, whose arrays are (n, h, w, c).

Error found: the group norm of the attention has MLX's own eps, 1e-5, instead of 1e-6.
The original is diffusers' `AutoencoderKL` with random weights.
"""

from typing import Any

import diffusers
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import torch
from judged import distance, judge
from loading import load_weights
from mflux.models.flux.model.flux_vae.vae import VAE
from mflux.models.flux.weights.flux_weight_mapping import FluxWeightMapping as Mapping

import ldmref

torch.manual_seed(0)
published: Any = diffusers
original = published.AutoencoderKL(
    block_out_channels=(32, 64, 96, 96), layers_per_block=2, latent_channels=16, norm_num_groups=32,
    down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.3611, shift_factor=0.1159,
).eval()  # fmt: skip
vae = VAE()
weights = {name: x.detach().numpy() for name, x in original.state_dict().items()}
load_weights(vae, weights, Mapping.get_vae_mapping())
for _, module in vae.named_modules():
    if isinstance(module, nn.GroupNorm):
        module.dims = module.weight.shape[0]


def rename(path):
    """Return diffusers' name of a layer."""
    for name in ("conv_in", "conv_out", "conv_norm_out"):
        for own in ("conv2d", "conv", "norm"):
            path = path.replace(f"{name}.{own}", name)
    return path


rng = np.random.default_rng(0)
inputs = {
    "decoder": rng.standard_normal((1, 16, 4, 6), np.float32),
    "encoder": rng.uniform(-1.0, 1.0, (1, 3, 16, 24)).astype(np.float32),
}
for call, x in inputs.items():
    port, right = getattr(vae, call), getattr(original, call)
    with ldmref.recording(port, call=call, names=rename) as run:
        y = port(mx.array(x))
    with torch.no_grad():
        errors = {call: distance(y, right(torch.tensor(x)).numpy())}
    judge(f"Flux.1 autoencoder, {call}", run.trace, {call: right}, errors)
