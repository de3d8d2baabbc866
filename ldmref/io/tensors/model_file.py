"""`ModelFile`: what the formats of single files have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.support.lazy_mapping import LazyMapping

MAX_VALUES = 2**59  # of a tensor


class ModelFile(LazyMapping[np.ndarray]):
    """The tensors of one file by name, each read when it is used.

    Attributes:
        path: The file.
        kinds: How each tensor is stored, by the format's name of the type.
        shapes: The shape of each tensor.
        metadata: The metadata of the header.
        identity: Device, inode, size and time of change, which differ between contents.
        warnings: What a user should know of the file.
        squeezed: Whether `shapes` may lack axes of length 1, as those of ggml do.
    """

    path: Path
    kinds: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    metadata: dict[str, Any]
    identity: tuple[int, ...]
    warnings: Sequence[str] = ()
    squeezed: bool = False

    @property
    def names(self) -> Collection[str]:
        """The names of all tensors."""
        return self.shapes

    @abstractmethod
    def sha256(self) -> str:
        """Return the SHA-256 of the whole file, in hexadecimal."""


def is_possible_shape(shape: Sequence[int]) -> bool:
    """Return whether NumPy could have an array of this shape.

    NumPy multiplies the other axes also if one is 0.

    >>> is_possible_shape((2, 3)), is_possible_shape((0, 2**60))
    (True, False)
    """
    return math.prod(max(size, 1) for size in shape) < MAX_VALUES
