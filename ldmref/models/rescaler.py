"""What brings a map of classes to the size of the latents: SpatialRescaler.

CompVis/latent-diffusion, ldm/modules/encoders/modules.py: bilinear halving, once per level of the
autoencoder, then a 1 x 1 convolution of the classes to a few channels.
"""

from __future__ import annotations

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.models.config import ModelConfig
from ldmref.models.layers import mean_pool
from ldmref.models.params import Params, Spec


def rescaler_spec(config: ModelConfig) -> Spec:
    """The shape of its only parameter, a 1 x 1 convolution without bias."""
    shape = (config.image_channels, config.segmentation_classes, 1, 1)
    return {"channel_mapper": {"weight": shape}}


def rescaler(ops: Backend, p: Params, onehot: Array, factor: int) -> Array:
    """(n, classes, H, W), 1 at each pixel's class, else 0 -> (n, k, H/factor, W/factor).

    Halving an even size by bilinear interpolation is the mean of two by two pixels, so all halvings
    together are the mean of a square.
    """
    return ops.conv2d(mean_pool(ops, onehot, factor), p.channel_mapper.weight)
