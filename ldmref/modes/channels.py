"""Further input channels of the denoiser: masks and masked images, small images, class maps."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ldmref.io.images.pil import to_array
from ldmref.math.arrays import Array
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes import masks
from ldmref.modes.initial import MaskedImage, Posterior


def encode_image(model: LatentDiffusion, image: Image.Image) -> Posterior:
    """Return the posterior of an RGB image's scaled latents."""
    return encode_array(model, to_array([image]))


def encode_array(model: LatentDiffusion, pixels: np.ndarray) -> Posterior:
    """Return the posterior of the scaled latents of images (n, 3, H, W) in [-1, 1]."""
    ops = model.backend
    mean, std = model.encode_posterior(ops.asarray(pixels))
    parts = (np.array(ops.to_numpy(part), np.float32) for part in (mean, std))
    return Posterior(*parts, sampled=model.family.draws_images)


def make_input_channels(
    model: LatentDiffusion,
    size: tuple[int, int],
    channels: np.ndarray | MaskedImage | None = None,
    masked: np.ndarray | None = None,
) -> Array:
    """Return the further input channels of the denoiser, (n or 1, k, h, w).

    Args:
        model: The model, whose denoiser has such channels.
        size: Width and height of the image.
        channels: An array, which is returned as it is; or a mask and the masked image. Without
            either, everything is repainted, and the masked image is all `masked_pixel`.
        masked: Latents of the masked image.

    With concat "masked_image", the masked latents come first and the mask runs from -1 to 1. With
    "folded_mask", they also come first. With "control" they are the latents of the control image.
    """
    config = model.config
    if isinstance(channels, np.ndarray):
        return model.backend.asarray(channels)
    if channels is None or masked is None:
        nothing = np.full((1, 3, size[1], size[0]), masked_pixel(config))
        latents = model.encode_image(model.backend.asarray(nothing))
        masked = np.asarray(model.backend.to_numpy(latents))
        cell = config.vae.factor**2 if config.concat == "folded_mask" else 1
        mask = np.ones((1, cell, *masked.shape[2:]))
    else:
        mask = channels.mask
    mask = np.broadcast_to(mask, (masked.shape[0], *mask.shape[1:]))
    parts = {
        "masked_image": [masked, 2.0 * mask - 1.0],
        "folded_mask": [masked, mask],
        "control": [masked],
    }.get(config.concat, [mask, masked])
    return model.backend.asarray(np.concatenate(parts, axis=1).astype(np.float32))


def mask_channels(config: ModelConfig, mask: Image.Image) -> np.ndarray:
    """Return the input channels of a mask, (1, 1 or more, h, w), 1 where it repaints."""
    fit = masks.fold_mask if config.concat == "folded_mask" else masks.shrink_mask
    return fit(mask, config.vae.factor)


def masked_pixel(config: ModelConfig) -> float:
    """Return the value of masked pixels: black in latent diffusion, otherwise grey."""
    return -1.0 if config.concat == "masked_image" else 0.0
