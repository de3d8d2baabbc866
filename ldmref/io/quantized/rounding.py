"""Formats of eight and four bits whose files are only read: what they make of weights, in memory.

| name  | a weight becomes                                                                      |
|-------|---------------------------------------------------------------------------------------|
| FP8   | the nearest s c: c of e4m3fn, s = max abs x / 448 of the tensor (Comfy's scaled fp8)   |
| NF4   | the nearest s c: c of the table `NF4`, s = max abs x of 64 weights (bitsandbytes)      |

Sources: Comfy-Org/ComfyUI, QUANTIZATION.md; Dettmers et al. 2023, arXiv:2305.14314, appendix E;
bitsandbytes-foundation/bitsandbytes, functional.py (quantize_4bit), without double quantisation.
"""

from __future__ import annotations

import numpy as np

from ldmref.io.quantized.encode import nearest_e4m3, ratio
from ldmref.io.quantized.float8 import decode_e4m3fn

LARGEST = np.float32(448)
BLOCK = 64
NF4 = np.array(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
     -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
     0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
     0.7229568362236023, 1.0], np.float32,
)  # fmt: skip


def round_fp8(x: np.ndarray) -> np.ndarray:
    """Return weights as scaled fp8 holds them, in the same shape, float32.

    >>> round_fp8(np.float32([448, 1.0625, 0])).tolist()
    [448.0, 1.0, 0.0]
    """
    values = x.astype(np.float32)
    scale = np.abs(values).max(initial=0) / LARGEST
    scaled = values * ratio(np.float32(1), np.asarray(scale))
    codes = nearest_e4m3(np.minimum(np.abs(scaled), LARGEST))
    return np.copysign(decode_e4m3fn(codes) * scale, values)


def round_nf4(x: np.ndarray) -> np.ndarray:
    """Return weights as NF4 holds them, in the same shape, float32; blocks follow the memory.

    >>> round_nf4(np.float32([2, -2, 0.9])).tolist()
    [2.0, -2.0, 0.8814196586608887]
    """
    flat = x.astype(np.float32).reshape(-1)
    blocks = np.zeros((-(-flat.size // BLOCK), BLOCK), np.float32)
    blocks.reshape(-1)[: flat.size] = flat
    scale = np.abs(blocks).max(axis=1, keepdims=True)
    middle = (NF4[1:] + NF4[:-1]) / 2
    rounded = NF4[np.searchsorted(middle, blocks * ratio(np.float32(1), scale))] * scale
    return rounded.reshape(-1)[: flat.size].reshape(x.shape)


IN_MEMORY = {"FP8": round_fp8, "NF4": round_nf4}
"""The formats by name."""

BITS_IN_MEMORY = {"FP8": 8.0, "NF4": 4 + 32 / BLOCK}
"""Bits of a number: four, and a float32 for each block; the one scale of FP8 does not count."""
