"""`pipe.image_processor` and `pipe.mask_processor`: the helpers around a pipeline's images.

Source: diffusers 0.42.1, `image_processor.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from ldmref.compat.diffusers.arrays import to_host, to_torch
from ldmref.compat.diffusers.components import Weights
from ldmref.compat.diffusers.images import Crop, prepare_images, prepare_masks
from ldmref.compat.diffusers.output import convert_images
from ldmref.compat.diffusers.overlay import paste_crop, paste_kept


class ImageProcessor:
    """Images to and from arrays, for the model of a pipeline.

    Args:
        weights: The model.
        masks: Whether `preprocess` prepares masks instead of images.
    """

    def __init__(self, weights: Weights, masks: bool = False):
        self._vae = weights.config.vae
        self._masks = masks

    def preprocess(self, image: Any, height: int | None = None, width: int | None = None) -> Any:
        """Return images in [-1, 1], or masks of 0 and 1, as a tensor (n, channels, H, W)."""
        size = height, width
        if self._masks:
            return to_torch(prepare_masks(image, self._vae.factor, size))
        return to_torch(prepare_images(image, self._vae.factor, self._vae.latent_channels, size))

    def postprocess(self, image: Any, output_type: str = "pil", **_: Any) -> Any:
        """Return decoded images, from -1 to 1, as `pil`, `np`, `pt` or `latent` (unchanged)."""
        if output_type == "latent":
            return image
        pixels = to_host("image", image) * np.float32(0.5) + np.float32(0.5)
        return convert_images(np.clip(pixels, 0.0, 1.0), output_type)

    @staticmethod
    def blur(image: Image.Image, blur_factor: int = 4) -> Image.Image:
        """Return an image or a mask, blurred by a Gaussian of that radius in pixels."""
        return image.filter(ImageFilter.GaussianBlur(blur_factor))

    @staticmethod
    def apply_overlay(
        mask: Image.Image,
        init_image: Image.Image,
        image: Image.Image,
        crop_coords: tuple[int, int, int, int] | None = None,
    ) -> Image.Image:
        """Return `init_image` with `image` where the mask is white."""
        if crop_coords is None:
            return paste_kept(image, init_image, mask)
        return paste_crop(image, init_image, mask, Crop(crop_coords))
