r"""A linear map from latents to small RGB images, which costs nothing next to decoding.

.. math:: \mathrm{RGB} = M z + b

for each cell of scaled latents z, with values from 0 to 1; each cell is one pixel. Stable
Diffusion's matrices are ComfyUI's (`comfy/latent_formats.py`, there for values from -1 to 1).
Models of ldmref hold theirs in their configuration, as `vae.preview`;
`scripts/fit_preview.py` fits it by least squares.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from ldmref.errors import UsageError
from ldmref.models.autoencoder_config import BaseAutoencoderConfig
from ldmref.models.autoencoder_kind import autoencoder_of
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion


class PreviewMatrix(NamedTuple):
    """The matrix M, (3, c), and the bias b, (3,), both float32."""

    matrix: np.ndarray
    bias: np.ndarray


SD_FACTORS = (
    (0.3512, 0.2297, 0.3227),
    (0.3250, 0.4974, 0.2350),
    (-0.2829, 0.1762, 0.2721),
    (-0.2120, -0.2616, -0.7177),
)
SDXL_FACTORS = (
    (0.3651, 0.4232, 0.4341),
    (-0.2533, -0.0042, 0.1068),
    (0.1076, 0.1111, -0.0362),
    (-0.3165, -0.2492, -0.2188),
)
# By the scaling factor, which tells the two autoencoders of Stable Diffusion apart: a row for each
# of the four channels, and the bias, for RGB from -1 to 1.
PUBLISHED_FACTORS = {
    0.18215: (SD_FACTORS, (0.0, 0.0, 0.0)),
    0.13025: (SDXL_FACTORS, (0.1084, -0.0175, -0.0011)),
}


def find_preview(vae: BaseAutoencoderConfig) -> PreviewMatrix | None:
    """Return the linear preview of an autoencoder's latents; None if none is known."""
    kind = autoencoder_of(vae)
    if kind.preview(vae):
        rows = np.reshape(np.asarray(kind.preview(vae), np.float32), (3, vae.latent_channels + 1))
        return PreviewMatrix(rows[:, :-1], rows[:, -1])
    if kind.scales is None or kind.is_quantized or vae.latent_channels != 4:
        return None
    published = PUBLISHED_FACTORS.get(round(kind.scales(vae)[0], 5))
    if published is None:
        return None
    factors, bias = (np.asarray(values, np.float32) for values in published)
    return PreviewMatrix(factors.T / 2, (bias + 1) / 2)


def has_preview(model: LatentDiffusion | ModelConfig) -> bool:
    """Return whether a linear preview of the model's latents is known.

    Args:
        model: A model, or its configuration.

    Returns:
        True or False.

    >>> from ldmref.explore import has_preview
    >>> from ldmref.models import preset
    >>> has_preview(preset("sd15")), has_preview(preset("tiny"))
    (True, False)
    """
    return preview_matrix(model) is not None


def preview_matrix(model: LatentDiffusion | ModelConfig) -> PreviewMatrix | None:
    """Return the linear preview of a model's latents; None if none is known.

    Args:
        model: A model, or its configuration.

    Returns:
        The matrix (3, c) and bias (3,) from latents to red, green and blue in [0, 1]; None if none
        is known.

    >>> import ldmref
    >>> from ldmref.explore import preview_matrix
    >>> preview_matrix(ldmref.load()).matrix.shape
    (3, 16)
    """
    config = model if isinstance(model, ModelConfig) else model.config
    return find_preview(config.vae)


def preview_pixels(preview: PreviewMatrix, latents: np.ndarray) -> np.ndarray:
    """Return the linear preview as numbers from 0 to 1, (n, h, w, 3) float32.

    Args:
        preview: The matrix and the bias.
        latents: Scaled clean latents, (n, c, h, w), such as the predicted x0.
    """
    rgb = np.einsum("rc,nchw->nhwr", preview.matrix, latents.astype(np.float32)) + preview.bias
    return np.clip(rgb, 0.0, 1.0)


def preview_images(model: LatentDiffusion, latents: np.ndarray) -> list[Image.Image]:
    """Return a small image of each of the latents: one pixel per cell, without decoding.

    Args:
        model: The model; its networks are not used.
        latents: Scaled clean latents on the host, (n, c, h, w), such as `Progress.x0`.

    Returns:
        n images (RGB) of w x h pixels.

    Raises:
        UsageError: No linear preview of the model's latents is known.

    >>> import ldmref
    >>> import numpy as np
    >>> from ldmref.explore import preview_images
    >>> [image.size for image in preview_images(ldmref.load(), np.zeros((2, 16, 16, 16)))]
    [(16, 16), (16, 16)]
    """
    preview = preview_matrix(model)
    if preview is None:
        raise UsageError(
            f"{model.config.name!r} does not have a linear preview",
            code="E-PREVIEW",
            hint="decode the latents: Progress.preview(), or model.decode(latents)",
        )
    pixels = np.rint(preview_pixels(preview, latents) * 255).astype(np.uint8)
    return [Image.fromarray(image) for image in pixels]
