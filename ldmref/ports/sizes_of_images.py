"""The vector of SDXL's makers: the pooled text and the embedding of six sizes, as two arguments."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from ldmref.math.embedding import timestep_embedding
from ldmref.models.config import ModelConfig
from ldmref.models.denoiser_config import UNetConfig
from ldmref.ports.port import FindPart

VECTOR = "y"  # the argument of the makers' U-Net
SIZES = 6  # of an image: original, corner and target, rows and columns each
ROUNDING = 0.02  # of cosines and sines in any number format


def divide_vector(config: ModelConfig) -> Mapping[str, Mapping[str, FindPart]]:
    """Return what a U-Net's vector has, by argument and role; {} where it has none."""
    unet = config.denoiser
    if not isinstance(unet, UNetConfig) or not unet.addition_embed_type:
        return {}
    width = unet.addition_time_embed_dim
    whole = unet.projection_class_embeddings_input_dim
    parts: dict[str, FindPart] = {
        "text_embeds": partial(_find_text, whole, whole - SIZES * width),
        "time_ids": partial(_find_sizes, whole, width),
    }
    return {VECTOR: parts}


def _find_text(whole: int, width: int, vector: np.ndarray) -> np.ndarray | None:
    """Return the first channels of a vector; None: it has other sizes."""
    return vector[..., :width] if vector.ndim == 2 and vector.shape[-1] == whole else None


def _find_sizes(whole: int, width: int, vector: np.ndarray) -> np.ndarray | None:
    """Return the sizes whose embeddings are the last channels; None: they are of no sizes.

    An embedding whose sines come first has sizes as well, so that its order is a fault of its own.
    """
    if vector.ndim != 2 or vector.shape[-1] != whole:
        return None
    embedded = vector[:, -SIZES * width :].astype(np.float64).reshape(-1, width)
    for flip in (True, False):
        halves = np.split(embedded, 2, axis=1)
        sizes = find_embedded(*(halves if flip else halves[::-1]))
        again = np.asarray(timestep_embedding(sizes, width, flip_sin_to_cos=flip))
        if np.abs(again - embedded).max(initial=0.0) < ROUNDING:
            return sizes.reshape(len(vector), SIZES)
    return None


def find_embedded(cosines: np.ndarray, sines: np.ndarray) -> np.ndarray:
    """Return the whole numbers from 0 on of which cosines and sines were taken.

    The slowest wave says roughly which number it is, and each faster one says it more precisely.

    Args:
        cosines: (n, h), those of `ldmref.math.timestep_embedding`.
        sines: (n, h).

    Returns:
        (n,) float64, less than the period of the slowest wave.

    >>> import numpy as np
    >>> from ldmref.math import timestep_embedding
    >>> waves = timestep_embedding(np.array([0.0, 1024.0, 4096.0]), 16)
    >>> find_embedded(waves[:, :8], waves[:, 8:])
    array([   0., 1024., 4096.])
    """
    count = cosines.shape[1]
    frequencies = 10000.0 ** (-np.arange(count) / count)
    phases = np.arctan2(sines, cosines)
    numbers = np.mod(phases[:, -1] + ROUNDING, 2.0 * np.pi) - ROUNDING
    numbers = numbers / frequencies[-1]
    for phase, frequency in zip(phases.T[::-1], frequencies[::-1], strict=True):
        rest = np.angle(np.exp(1j * (phase - numbers * frequency)))
        numbers = numbers + rest / frequency
    return np.round(numbers) + 0.0
