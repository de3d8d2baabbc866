"""Numbers of four bits with a scale for each block: MXFP4, NVFP4, and bitsandbytes' NF4 and FP4.

A code of MXFP4 and NVFP4 (e2m1) is a sign, two bits of exponent and one of mantissa: 0, 0.5, 1,
1.5, 2, 3, 4, 6 and their negatives. The formats differ in the block, the scale and, as files, in
the order of codes:

| format         | block | scale of a block  | second scale | order of codes | order of scales |
|----------------|-------|-------------------|--------------|----------------|-----------------|
| MXFP4 of ggml  | 32    | e8m0              | none         | halves         | in the block    |
| NVFP4 of ggml  | 16    | e4m3, no sign     | none         | halves         | 4 for 64 weights |
| NVFP4 of Black Forest Labs, ModelOpt | 16 | e4m3fn | float32 | low first | rows            |
| NVFP4 of Comfy | 16    | e4m3fn            | float32      | high first     | tiles, 128 x 4  |

In NF4 and FP4 of bitsandbytes, four bits index a table, and the scale is the largest weight of the
block. The codes of NF4 are the quantiles of a normal distribution. The file holds the table of 16
numbers, so that FP4, whose table is another, is read in the same way. With double quantisation the
blocks' scales are bytes that index a table of 256 numbers.

| tensor beside `X`                   | holds                                                   |
|-------------------------------------|---------------------------------------------------------|
| `X`                                 | codes, two in each byte, the high half first            |
| `X.absmax`                          | scale of each block of 64: float32, or bytes            |
| `X.quant_map`                       | the table of 16                                         |
| `X.nested_absmax`, `.nested_quant_map` | scale of 256 such bytes, and their table             |
| `X.quant_state.bitsandbytes__nf4`   | JSON as bytes: shape, blocksize, nested_offset, ...     |

Sources: OCP Microscaling Formats (MX) Specification v1.0, sections 5.3.3 and 6.3;
NVIDIA, "Introducing NVFP4"; ggml-org/ggml, ggml-common.h; huggingface/diffusers,
quantizers/bfl/utils.py; Comfy-Org/comfy-kitchen, backends/eager/quantization.py;
Dettmers et al. 2023, arXiv:2305.14314, section 3; bitsandbytes-foundation/bitsandbytes,
backends/default/ops.py and functional.py (QuantState).
"""

from __future__ import annotations

import math

import numpy as np

from ldmref.io.quantized.bits import NibbleOrder, split, unpack
from ldmref.io.quantized.float8 import decode_e4m3fn, scale_blocks

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
NV_BLOCK = 16  # weights with a common scale in NVFP4


def dequantize_mxfp4(blocks: np.ndarray) -> np.ndarray:
    """Return the weights 2^(e - 127) q of ggml's blocks of MXFP4, (n, 17) bytes -> (n, 32).

    | bytes | field                          |
    |-------|--------------------------------|
    | 1     | e, of which no code means NaN  |
    | 16    | q, e2m1, in halves             |
    """
    e, q = split(blocks, 1, 16)
    return np.ldexp(E2M1[unpack(q, "halves")], e.astype(np.int32) - 127)


def dequantize_ggml_nvfp4(blocks: np.ndarray) -> np.ndarray:
    """Return the weights s q of ggml's blocks of NVFP4, (n, 36) bytes -> (n, 64).

    | bytes | field                                                               |
    |-------|---------------------------------------------------------------------|
    | 4     | s of 4 groups of 16 weights: e4m3 without a sign; 0x7f means 0      |
    | 32    | q, e2m1: 8 bytes for each group, in halves                          |
    """
    s, q = split(blocks, 4, 32)
    magnitude = s & 127
    # ggml reads the top bit as no sign: codes above 0x7f repeat those below, and 0xff is 480
    scale = np.where(magnitude < 127, decode_e4m3fn(magnitude), np.float32(480))
    scale = np.where(s == 127, np.float32(0), scale)
    groups = E2M1[unpack(q.reshape(-1, 4, 8), "halves")]
    return (scale[:, :, None] * groups).reshape(-1, 64)


def dequantize_nvfp4(
    packed: np.ndarray, scale: np.ndarray, second: np.ndarray, order: NibbleOrder
) -> np.ndarray:
    """Return the weights q (s S) of NVFP4 in safetensors.

    Args:
        packed: Codes of e2m1, two in each byte, (rows, columns / 2).
        scale: s as codes of e4m3fn, (rows, columns / 16).
        second: S of the whole tensor, float32 of size 1.
        order: The half of a byte that comes first.

    Returns:
        float32, (rows, columns).

    >>> packed = np.full((1, 8), 0x21, np.uint8)
    >>> one = np.array([[0x38]], np.uint8)
    >>> dequantize_nvfp4(packed, one, np.float32([2]), "low")[0, :4].tolist()
    [1.0, 2.0, 1.0, 2.0]
    """
    s = decode_e4m3fn(scale) * second.reshape(()).astype(np.float32)
    return scale_blocks(E2M1[unpack(packed, order)], s)


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
