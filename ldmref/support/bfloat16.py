"""bfloat16 in NumPy, which has no such type: the upper 16 of the 32 bits of a float32."""

from __future__ import annotations

from typing import Any

import numpy as np


def decode_bfloat16(codes: np.ndarray) -> np.ndarray:
    """Return the numbers that bits mean: unsigned integers -> float32 of the same shape.

    >>> decode_bfloat16(np.array([0x3F80], np.uint16)).tolist()
    [1.0]
    """
    return (codes.astype(np.uint32) << 16).view(np.float32)


def bfloat16_bits(x: np.ndarray) -> np.ndarray:
    """Return the bits of numbers that bfloat16 holds exactly, uint16.

    >>> hex(bfloat16_bits(np.array([1.0], np.float32))[0])
    '0x3f80'
    """
    return (x.astype(np.float32, copy=False).view(np.uint32) >> 16).astype(np.uint16)


def round_to_bfloat16(x: Any) -> np.ndarray:
    """Return the nearest bfloat16 numbers, ties to even, as float32; infinities and NaN stay.

    Numbers are converted to float32 first. Values above the largest bfloat16 become infinite.

    >>> round_to_bfloat16([1.005, 1.006]).tolist()
    [1.0078125, 1.0078125]
    """
    x = np.ascontiguousarray(x, np.float32).reshape(np.shape(x))
    bits = x.view(np.uint32)
    half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    rounded = ((bits + half) & np.uint32(0xFFFF0000)).view(np.float32)
    return np.where(np.isfinite(x), rounded, x)
