"""Random arrays whose bits are the same on every machine.

A counter-based generator, uniform numbers in float32 and IEEE arithmetic: no logarithm, whose last
bit depends on the library.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ldmref.models.params import AT_ONE, Params, flatten, unflatten

SPREAD = 0.25  # of biases, and of the weights of norms around 1


def random_array(key: str, shape: tuple[int, ...], size: float = 1.0) -> np.ndarray:
    """Return uniform numbers with mean 0 and standard deviation `size`, float32.

    Args:
        key: The name of the array, on which its numbers depend.
        shape: Its shape.
        size: Standard deviation.

    >>> random_array("x", (2,)).dtype
    dtype('float32')
    """
    stream = random_stream(key)
    half = np.float32(size * math.sqrt(3.0))
    return half * (np.float32(2.0) * stream.random(shape, np.float32) - np.float32(1.0))


def random_stream(key: str) -> np.random.Generator:
    """Return the generator of random numbers that belongs to a name."""
    digest = hashlib.sha256(f"ldmref-cases/{key}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def random_parameters(name: str, spec: Mapping[str, Any]) -> Params:
    """Return parameters of all shapes in `spec`; norms and biases are random as well.

    Matrices and kernels have the standard deviation 1/sqrt(fan-in), which keeps the size of what
    they multiply. A bias of 0 or a norm's weight of 1, as after initialization, would hide that a
    program leaves them out.
    """
    return unflatten(
        {path: _parameter(f"{name}/{path}", shape) for path, shape in flatten(spec).items()}
    )


def _parameter(key: str, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) == 1:
        centre = np.float32(key.endswith(AT_ONE))
        return centre + random_array(key, shape, SPREAD)
    if "embedding.weight" in key or "codebook" in key or "quantize" in key:
        return random_array(key, shape)
    return random_array(key, shape, 1.0 / math.sqrt(math.prod(shape[1:])))
