"""Files in float8, as Comfy writes them."""

from __future__ import annotations

import numpy as np

from ldmref.io.quantized.float8 import E4M3FN
from ldmref.io.tensors.writer import TensorSource, write_tensors


def save_float8(path, tensors, metadata=None):
    """Write matrices as Comfy does, e4m3fn with a scale; return the numbers that they stand for."""
    sources, want = {}, {}
    for name, x in tensors.items():
        if x.ndim < 2 or not name.endswith("weight"):
            sources[name] = want[name] = x
            continue
        scale = np.float32(np.abs(x).max() / 448)
        codes = np.abs(E4M3FN[:127][:, None] - np.abs(x / scale).reshape(1, -1)).argmin(0)
        codes = codes.reshape(x.shape).astype(np.uint8) | (x < 0).astype(np.uint8) << 7
        sources[name] = ("F8_E4M3", codes)
        sources[name.removesuffix("weight") + "scale_weight"] = scale.reshape(1)
        want[name] = E4M3FN[codes] * scale
    pairs = {k: x if isinstance(x, tuple) else ("F32", x) for k, x in sources.items()}
    write_tensors(path, {k: TensorSource(t, x.shape, lambda x=x: x) for k, (t, x) in pairs.items()})
    return want
