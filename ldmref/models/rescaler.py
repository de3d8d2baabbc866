"""SpatialRescaler, the encoder of segmentation maps.

CompVis/latent-diffusion, ldm/modules/encoders/modules.py: bilinear downsampling by 2, once per
level of the autoencoder, then a 1 x 1 convolution from classes to a few channels.
"""

from __future__ import annotations

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.models.config import ModelConfig
from ldmref.models.layers import mean_pool
from ldmref.models.params import Params, Spec


def rescaler_spec(config: ModelConfig) -> Spec:
    """Return the shape of the only parameter, a 1 x 1 convolution without bias."""
    shape = (config.image_channels, config.segmentation_classes, 1, 1)
    return {"channel_mapper": {"weight": shape}}


def rescaler(ops: Backend, p: Params, onehot: Array, factor: int) -> Array:
    """Downsample a one-hot map; (n, classes, H, W) -> (n, k, H/factor, W/factor).

    Bilinear downsampling of an even size by 2 is the mean of 2 x 2 pixels, so repeated
    downsampling is the mean over factor x factor pixels.
    """
    return ops.conv2d(mean_pool(ops, onehot, factor), p.channel_mapper.weight)
