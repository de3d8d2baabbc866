"""Arrays of NumPy, PyTorch, CuPy and other libraries as 8-bit images."""

from __future__ import annotations

from typing import TypeGuard

import numpy as np
from PIL import Image

from ldmref.errors import ImageError
from ldmref.math.arrays import Array

TOLERANCE = 1e-3  # distance from [0, 1] that floats may have, less than half of 1/255


def is_array(x: object) -> TypeGuard[Array]:
    """Return whether an object is an array of any library that offers DLPack."""
    return isinstance(x, np.ndarray) or hasattr(x, "__dlpack__")


def host_array(x: Array) -> np.ndarray:
    """Convert an array of any library, on any device, to NumPy; bfloat16 becomes float32.

    Raises:
        TypeError, ValueError, BufferError, RuntimeError: The library does not convert it.
    """
    if isinstance(x, np.ndarray):
        return x
    if hasattr(x, "detach"):  # torch
        x = x.detach().cpu()
        x = x.float() if "bfloat16" in str(x.dtype) else x
    elif hasattr(x, "__cuda_array_interface__"):  # cupy
        x = x.get()
    if not is_array(x):
        raise TypeError(f"not an array: {type(x).__name__}")
    return np.asarray(x) if hasattr(x, "__array__") else np.from_dlpack(x)


def image_from_array(x: Array) -> Image.Image:
    """Convert an array to an image: (H, W, 3) RGB, (H, W, 4) RGBA, or (H, W) grey.

    Its values are uint8 from 0 to 255, floats from 0 to 1, or booleans, with True as white.

    Raises:
        ImageError: Another type, shape or range, or NaN.
    """
    try:
        pixels = host_array(x)
    except (TypeError, ValueError, BufferError, RuntimeError) as error:
        raise ImageError(f"cannot read a {type(x).__name__} as an array", code="E-IMAGE") from error
    good = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if (pixels.dtype.kind not in "fb" and pixels.dtype != np.uint8) or not good or not pixels.size:
        channels_first = pixels.ndim in (3, 4) and pixels.shape[-3] in (3, 4)
        raise ImageError(
            f"an array of {pixels.dtype} {pixels.shape} is not an image",
            code="E-IMAGE",
            hint="bring the channels to the end, and give one image: (H, W, 3)"
            if channels_first
            else "allowed are uint8 from 0 to 255, floats from 0 to 1 and booleans, of shape "
            "(H, W, 3) RGB, (H, W, 4) RGBA or (H, W) grey",
        )
    if pixels.dtype.kind == "f":
        pixels = _eight_bits(pixels)
    elif pixels.dtype.kind == "b":
        pixels = pixels * np.uint8(255)
    return Image.fromarray(np.ascontiguousarray(pixels))


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Scale floats from 0 to 1 to integers from 0 to 255, rounded."""
    low = float(pixels.min())
    high = float(pixels.max())
    if not (-TOLERANCE <= low and high <= 1.0 + TOLERANCE):  # also true for NaN
        hint = "divide by 255, or convert to uint8" if high > 2.0 else "(x + 1) / 2 of [-1, 1]"
        raise ImageError(
            f"an image of floats must be from 0 to 1, not from {low:g} to {high:g}",
            code="E-IMAGE-RANGE",
            hint="" if np.isnan(low) else hint,
        )
    return np.rint(np.clip(pixels.astype(np.float64), 0.0, 1.0) * 255.0).astype(np.uint8)
