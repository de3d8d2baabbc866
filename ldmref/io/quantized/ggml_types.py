"""The types of ggml by number: their blocks, and how they become arrays.

Source: ggml-org/ggml, include/ggml.h (ggml_type); the package `gguf`, constants.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ldmref.errors import BackendUnavailable
from ldmref.io.quantized.float4 import dequantize_ggml_nvfp4, dequantize_mxfp4
from ldmref.io.quantized.ggml_blocks import (
    dequantize_q4_0,
    dequantize_q4_1,
    dequantize_q5_0,
    dequantize_q5_1,
    dequantize_q8_0,
)
from ldmref.io.quantized.ggml_k_blocks import (
    dequantize_q2_k,
    dequantize_q3_k,
    dequantize_q4_k,
    dequantize_q5_k,
    dequantize_q6_k,
)
from ldmref.support.bfloat16 import decode_bfloat16

VALUES_AT_ONCE = 1 << 20  # so that a large tensor needs little more memory than its result


class GGMLType(NamedTuple):
    """A type of ggml.

    Attributes:
        name: Its name.
        values: Numbers of a block.
        nbytes: Bytes of a block.
        dtype: The type of the numbers, if a block is one number as NumPy knows it.
        dequantize: From blocks (n, nbytes) to float32 (n, values). None: the package `gguf` does.
    """

    name: str
    values: int
    nbytes: int
    dtype: str = ""
    dequantize: Callable[[np.ndarray], np.ndarray] | None = None


GGML_TYPES = {
    0: GGMLType("F32", 1, 4, "<f4"),
    1: GGMLType("F16", 1, 2, "<f2"),
    2: GGMLType("Q4_0", 32, 18, dequantize=dequantize_q4_0),
    3: GGMLType("Q4_1", 32, 20, dequantize=dequantize_q4_1),
    6: GGMLType("Q5_0", 32, 22, dequantize=dequantize_q5_0),
    7: GGMLType("Q5_1", 32, 24, dequantize=dequantize_q5_1),
    8: GGMLType("Q8_0", 32, 34, dequantize=dequantize_q8_0),
    10: GGMLType("Q2_K", 256, 84, dequantize=dequantize_q2_k),
    11: GGMLType("Q3_K", 256, 110, dequantize=dequantize_q3_k),
    12: GGMLType("Q4_K", 256, 144, dequantize=dequantize_q4_k),
    13: GGMLType("Q5_K", 256, 176, dequantize=dequantize_q5_k),
    14: GGMLType("Q6_K", 256, 210, dequantize=dequantize_q6_k),
    16: GGMLType("IQ2_XXS", 256, 66),
    17: GGMLType("IQ2_XS", 256, 74),
    18: GGMLType("IQ3_XXS", 256, 98),
    19: GGMLType("IQ1_S", 256, 50),
    20: GGMLType("IQ4_NL", 32, 18),
    21: GGMLType("IQ3_S", 256, 110),
    22: GGMLType("IQ2_S", 256, 82),
    23: GGMLType("IQ4_XS", 256, 136),
    24: GGMLType("I8", 1, 1, "i1"),
    25: GGMLType("I16", 1, 2, "<i2"),
    26: GGMLType("I32", 1, 4, "<i4"),
    27: GGMLType("I64", 1, 8, "<i8"),
    28: GGMLType("F64", 1, 8, "<f8"),
    29: GGMLType("IQ1_M", 256, 56),
    30: GGMLType("BF16", 1, 2, dequantize=lambda blocks: decode_bfloat16(blocks.view("<u2"))),
    34: GGMLType("TQ1_0", 256, 54),
    35: GGMLType("TQ2_0", 256, 66),
    39: GGMLType("MXFP4", 32, 17, dequantize=dequantize_mxfp4),
    40: GGMLType("NVFP4", 64, 36, dequantize=dequantize_ggml_nvfp4),
}


# Types of ggml that are read by nobody here. Q8_1 and Q8_K are those of activations in products.
UNREAD = {
    4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 15: "Q8_K", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8",
    36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8", 41: "Q1_0",
}  # fmt: skip


def read_ggml(raw: np.ndarray, kind: GGMLType, label: str) -> np.ndarray:
    """Return the numbers of a tensor: floats and integers as they are, all others as float32.

    Args:
        raw: The bytes of the tensor, one axis.
        kind: Its type.
        label: The name of the tensor, for errors.

    Returns:
        One axis.

    Raises:
        BackendUnavailable: The type needs the package `gguf`.

    >>> one = np.array([0x00, 0x3C, *range(32)], np.uint8)  # d = 1 in float16
    >>> read_ggml(one, GGML_TYPES[8], "a")[:4].tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    if kind.dtype:
        return raw.view(kind.dtype)
    dequantize = kind.dequantize or _import_dequantize(kind, label)
    blocks = raw.reshape(-1, kind.nbytes)
    values = np.empty((len(blocks), kind.values), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # scales may be infinite
        step = VALUES_AT_ONCE // kind.values
        for begin in range(0, len(blocks), step):
            values[begin : begin + step] = dequantize(blocks[begin : begin + step])
    return values.reshape(-1)


def _import_dequantize(kind: GGMLType, label: str) -> Callable[[np.ndarray], np.ndarray]:
    try:
        from gguf import quants
    except ImportError as error:
        message = f"{label} is stored as {kind.name}, which needs the package gguf"
        hint = "pip install ldmref[gguf]"
        raise BackendUnavailable(message, code="E-GGUF", hint=hint) from error
    module: Any = quants
    number = module.GGMLQuantizationType[kind.name]
    return lambda blocks: module.dequantize(blocks, number)
