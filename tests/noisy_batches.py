"""Batches of noisy latents whose autoencoder multiplies by one number."""

from __future__ import annotations

import numpy as np

from ldmref.backends.torch import TorchBackend
from ldmref.models import AutoencoderConfig, Params
from ldmref.models.autoencoder_kind import LatentScale
from ldmref.training.diffusion.latents import Latents, NoisyLatents


def scaled_latents(
    latents: Latents, weights: np.ndarray, scale: float, ops: TorchBackend
) -> NoisyLatents:
    """Return batches of the latents times `scale`."""
    config = AutoencoderConfig(scaling_factor=scale)
    return NoisyLatents(latents, weights, LatentScale(ops, config, Params()), ops)
