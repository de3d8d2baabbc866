"""The output of a pipeline: images as Pillow images, arrays, tensors or latents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ldmref.compat.diffusers.arrays import to_caller, to_torch
from ldmref.math.arrays import Array
from ldmref.models.model import LatentDiffusion
from ldmref.modes.nonfinite import decoder_error


@dataclass
class StableDiffusionPipelineOutput:
    """The images of a call; also a tuple `(images, nsfw_content_detected)`.

    Args:
        images: As `output_type` says: a list of Pillow images, an array (n, H, W, 3) or a tensor
            (n, 3, H, W) from 0 to 1, or latents (n, c, h, w).
        nsfw_content_detected: Always None: nothing checks the images.

    >>> from PIL import Image
    >>> from ldmref.compat.diffusers import StableDiffusionPipelineOutput
    >>> output = StableDiffusionPipelineOutput([Image.new("RGB", (16, 16))])
    >>> output.images[0].size, output.keys()
    ((16, 16), ['images'])
    """

    images: Any
    nsfw_content_detected: list[bool] | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the values that are not None."""
        return tuple(
            value for value in (self.images, self.nsfw_content_detected) if value is not None
        )

    def keys(self) -> list[str]:
        """Return the names of the values that are not None."""
        return [name for name, value in vars(self).items() if value is not None]

    def __getitem__(self, key: int | str | slice) -> Any:
        return vars(self)[key] if isinstance(key, str) else self.to_tuple()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())


def decode_images(model: LatentDiffusion, latents: Array, output_type: str) -> Any:
    """Decode the latents of a run, one image at a time.

    Args:
        model: The model.
        latents: On the backend, (n, c, h, w), in diffusers' scale.
        output_type: `pil`, `np`, `pt` or `latent`.

    Raises:
        NumericError: The decoder's output holds NaN or infinity.
    """
    if output_type == "latent":
        return to_caller(model, latents)
    ops = model.backend
    decoded = []
    for i in range(latents.shape[0]):
        one = ops.cast(latents[i : i + 1], ops.dtype)
        pixels = np.asarray(ops.to_numpy(model.decode(one)), np.float32)
        if not np.isfinite(pixels).all():
            raise decoder_error(model, lambda d, z=one: d.decode(z))
        decoded.append(pixels)
    images = np.clip(np.concatenate(decoded) * np.float32(0.5) + np.float32(0.5), 0.0, 1.0)
    return convert_images(images, output_type)


def convert_images(images: np.ndarray, output_type: str) -> Any:
    """Return images (n, 3, H, W) from 0 to 1 as `pil`, `np` or `pt`."""
    if output_type == "pt":
        return to_torch(images)
    rows = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    if output_type == "np":
        return rows
    return [Image.fromarray(pixels) for pixels in (rows * 255).round().astype(np.uint8)]
