"""What a caller sees of a run while it goes on, and how it stops it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from PIL import Image

from ldmref.math.arrays import Array
from ldmref.models.model import LatentDiffusion
from ldmref.modes.networks import Decoder, decode_images


class CancelFlag(Protocol):
    """What `cancel` must offer: a `threading.Event` does."""

    def is_set(self) -> bool: ...


@dataclass(frozen=True)
class Event:
    """What a callback gets after each step: where the sampler stands, and what it expects to draw.

    `latents` is the noisy state in the coordinates x = x0 + sigma eps, `x0` the predicted clean
    latents, both (n, c, h, w) float32 copies; `first` is the index of the batch's first picture.
    """

    model: LatentDiffusion
    step: int
    steps: int
    sigma: float
    first: int
    pictures: int
    _x: Array
    _x0: Array

    @cached_property
    def latents(self) -> np.ndarray:
        return np.array(self.model.backend.to_numpy(self._x), np.float32)

    @cached_property
    def x0(self) -> np.ndarray:
        return np.array(self.model.backend.to_numpy(self._x0), np.float32)

    def preview(self, decoder: Decoder | None = None) -> list[Image.Image]:
        """The predicted pictures, decoded (costs about as much as a step).

        With a `decoder` for the model's latents, such as TAESD (`ldmref.loading.load_taesd`), a
        rougher picture at a fraction of the cost.
        """
        return decode_images(decoder or self.model, self.x0)


Callback = Callable[[Event], None]
