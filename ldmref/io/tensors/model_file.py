"""`ModelFile`: what the formats of single files have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


class ModelFile(Mapping[str, np.ndarray]):
    """The tensors of one file by name, each read when it is used.

    Attributes:
        path: The file.
        kinds: How each tensor is stored, by the format's name of the type.
        shapes: The shape of each tensor.
        metadata: The metadata of the header.
        identity: Device, inode, size and time of change, which differ between contents.
    """

    path: Path
    kinds: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    metadata: dict[str, Any]
    identity: tuple[int, ...]

    @abstractmethod
    def sha256(self) -> str:
        """Return the SHA-256 of the whole file, in hexadecimal."""
