"""Values of arrays as files of ldmref have them."""

from __future__ import annotations

import numpy as np

from ldmref.io.tensors.writer import KINDS


def storable(x: np.ndarray) -> np.ndarray:
    """Return an array in C order of a type that safetensors files of ldmref have.

    Other types, such as bfloat16 and those of eight bits, become float32; complex numbers of other
    sizes become complex64.

    Args:
        x: An array of any shape and type.

    >>> storable(np.ones((2, 3), np.uint16).T).dtype
    dtype('float32')
    """
    if np.issubdtype(x.dtype, np.complexfloating):
        kept = x.dtype in (np.complex64, np.complex128)
        return np.ascontiguousarray(x if kept else x.astype(np.complex64)).reshape(x.shape)
    kept = x.dtype.newbyteorder("<") in KINDS
    return np.ascontiguousarray(x if kept else x.astype(np.float32)).reshape(x.shape)
