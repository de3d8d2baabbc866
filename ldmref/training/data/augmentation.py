"""How images of a batch are changed."""

from __future__ import annotations

from typing import NamedTuple


class Augmentation(NamedTuple):
    """How the autoencoder sees a batch: mirrored half of the time, and cropped; 0: whole."""

    flips: bool = True
    crop: int = 0
