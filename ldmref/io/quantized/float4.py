"""Floating-point numbers of four bits (e2m1) with a scale for each block: MXFP4 and NVFP4.

A code is a sign, two bits of exponent and one of mantissa: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their
negatives. The formats differ in the block, the scale and, as files, in the order of codes:

| format         | block | scale of a block  | second scale | order of codes | order of scales |
|----------------|-------|-------------------|--------------|----------------|-----------------|
| MXFP4 of ggml  | 32    | e8m0              | none         | halves         | in the block    |
| NVFP4 of ggml  | 16    | e4m3, no sign     | none         | halves         | 4 for 64 weights |
| NVFP4 of Black Forest Labs, ModelOpt | 16 | e4m3fn | float32 | low first | rows            |
| NVFP4 of Comfy | 16    | e4m3fn            | float32      | high first     | tiles, 128 x 4  |

Sources: OCP Microscaling Formats (MX) Specification v1.0, sections 5.3.3 and 6.3;
NVIDIA, "Introducing NVFP4"; ggml-org/ggml, ggml-common.h; huggingface/diffusers,
quantizers/bfl/utils.py; Comfy-Org/comfy-kitchen, backends/eager/quantization.py.
"""

from __future__ import annotations

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
