"""NF4 and FP4 of bitsandbytes: four bits that index a table, times the largest weight of a block.

The codes of NF4 are the quantiles of a normal distribution. The file holds the table of 16 numbers,
so that FP4, whose table is another, is read in the same way. With double quantisation the blocks'
scales are bytes that index a table of 256 numbers.

| tensor beside `X`                   | holds                                                   |
|-------------------------------------|---------------------------------------------------------|
| `X`                                 | codes, two in each byte, the high half first            |
| `X.absmax`                          | scale of each block of 64: float32, or bytes            |
| `X.quant_map`                       | the table of 16                                         |
| `X.nested_absmax`, `.nested_quant_map` | scale of 256 such bytes, and their table             |
| `X.quant_state.bitsandbytes__nf4`   | JSON as bytes: shape, blocksize, nested_offset, ...     |

Sources: Dettmers et al. 2023, arXiv:2305.14314, section 3; bitsandbytes-foundation/bitsandbytes,
backends/default/ops.py and functional.py (QuantState).
"""

from __future__ import annotations

import math

import numpy as np

from ldmref.io.quantized.bits import unpack


def dequantize_nf4(
    packed: np.ndarray, absmax: np.ndarray, table: np.ndarray, shape: tuple[int, ...], block: int
) -> np.ndarray:
    """Return the weights table[q] * absmax of NF4 or FP4.

    Args:
        packed: Codes, two in each byte, of any shape; one more than weights if these are odd.
        absmax: The scales of the blocks, float32, (blocks,).
        table: The 16 numbers, float32, (16,).
        shape: The shape of the weights.
        block: Number of weights of a block; the last one may be shorter.

    Returns:
        float32, `shape`.
    """
    count = math.prod(shape)
    codes = unpack(packed.reshape(-1), "high")[:count]
    scale = absmax.reshape(-1).astype(np.float32)[np.arange(count) // block]
    return (table.reshape(-1).astype(np.float32)[codes] * scale).reshape(shape)


def dequantize_absmax(
    codes: np.ndarray, absmax: np.ndarray, table: np.ndarray, offset: float, block: int
) -> np.ndarray:
    """Return the scales table[q] * absmax + offset of blocks, if they are quantised themselves.

    Args:
        codes: One byte for each block of weights, (blocks,).
        absmax: The scales of blocks of these bytes, float32, (k,).
        table: The 256 numbers, float32, (256,).
        offset: The mean that was subtracted from the scales.
        block: Number of bytes of such a block.

    Returns:
        float32, shape of `codes`.
    """
    scale = absmax.reshape(-1).astype(np.float32)[np.arange(codes.size) // block]
    return table.reshape(-1).astype(np.float32)[codes.reshape(-1)] * scale + np.float32(offset)
