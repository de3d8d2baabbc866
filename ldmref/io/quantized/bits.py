"""How numbers of fewer than eight bits share a byte."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

NibbleOrder: TypeAlias = Literal["low", "high", "halves"]


def unpack(packed: np.ndarray, order: NibbleOrder) -> np.ndarray:
    """Return two numbers of four bits for each byte.

    | order  | bytes [0x21, 0x43] | used by                              |
    |--------|--------------------|--------------------------------------|
    | low    | 1, 2, 3, 4         | NVFP4 of Black Forest Labs, ModelOpt |
    | high   | 2, 1, 4, 3         | NF4 of bitsandbytes, NVFP4 of Comfy  |
    | halves | 1, 3, 2, 4         | blocks of ggml                       |

    Args:
        packed: Bytes, (..., n).
        order: The half of a byte that comes first; "halves": the low halves of all n bytes, then
            the high ones.

    Returns:
        Numbers from 0 to 15 as bytes, (..., 2 n).

    >>> unpack(np.array([0x21, 0x43], np.uint8), "high")
    array([2, 1, 4, 3], dtype=uint8)
    """
    if order == "halves":
        return spread(packed, 4)
    low, high = packed & 15, packed >> 4
    pair = (low, high) if order == "low" else (high, low)
    return np.stack(pair, axis=-1).reshape(*packed.shape[:-1], 2 * packed.shape[-1])


def spread(packed: np.ndarray, bits: int) -> np.ndarray:
    """Return the lowest `bits` bits of all bytes, then the next ones, to the highest.

    Args:
        packed: Bytes, (..., n).
        bits: Bits of a number: 1, 2 or 4.

    Returns:
        Numbers as bytes, (..., n * 8 / bits).

    >>> spread(np.array([0b11_10_01_00, 0b00_00_00_11], np.uint8), 2)
    array([0, 3, 1, 0, 2, 0, 3, 0], dtype=uint8)
    """
    parts = [packed >> shift & 2**bits - 1 for shift in range(0, 8, bits)]
    return np.concatenate(parts, axis=-1)


def pack(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Return the bytes whose bits are these numbers, the inverse of `spread`.

    Args:
        numbers: Numbers below 2^bits as bytes, (..., n * 8 / bits).
        bits: Bits of a number: 1, 2 or 4.

    Returns:
        Bytes, (..., n).

    >>> pack(np.array([0, 3, 1, 0, 2, 0, 3, 0], np.uint8), 2).tolist()
    [228, 3]
    """
    parts = np.split(numbers.astype(np.uint8), 8 // bits, axis=-1)
    packed = np.zeros_like(parts[0])
    for i, part in enumerate(parts):
        packed |= part << (i * bits)
    return packed


def split(blocks: np.ndarray, *sizes: int) -> list[np.ndarray]:
    """Cut blocks into their fields, whose sizes in bytes must add up to that of a block.

    Args:
        blocks: Bytes, (n, size of a block).
        sizes: The sizes of the fields.

    Returns:
        The fields, (n, size) each.
    """
    assert sum(sizes) == blocks.shape[1]
    return np.split(blocks, np.cumsum(sizes)[:-1], axis=1)


def read_halves(field: np.ndarray) -> np.ndarray:
    """Return little-endian float16 numbers as float32; (n, 2 k) bytes -> (n, k)."""
    return np.ascontiguousarray(field).view("<f2").astype(np.float32)


def write_halves(values: np.ndarray) -> np.ndarray:
    """Return numbers as little-endian float16, the inverse of `read_halves`.

    Numbers too large for float16 become infinite, and are refused where tensors are quantised.
    """
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values.astype("<f2")).view(np.uint8)


def signed(numbers: np.ndarray, offset: int) -> np.ndarray:
    """Return small numbers minus an offset, as float32 of the same shape."""
    return numbers.astype(np.float32) - np.float32(offset)
