"""The image that a model reads beside the latents, as Flux.1 [Canny] and [Depth] do."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ldmref.errors import UsageError
from ldmref.io.images.pil import read_image
from ldmref.models.config import ModelConfig
from ldmref.modes.sizing import resize_image

CODE = "E-CONTROL-IMAGE"


@dataclass(frozen=True)
class ControlImage:
    """A control image.

    Args:
        source: As it was read.
        image: At the size of the generated image.
    """

    source: Image.Image
    image: Image.Image

    @property
    def warning(self) -> str:
        """A warning if the size was changed, or ""."""
        if self.source.size == self.image.size:
            return ""
        sizes = [f"{image.width} x {image.height}" for image in (self.source, self.image)]
        return f"the control image is {sizes[0]}; cropped and scaled to {sizes[1]}"

    @property
    def sha256(self) -> str:
        """The digest of the image as the model reads it."""
        return hashlib.sha256(np.asarray(self.image).tobytes()).hexdigest()

    def at(self, size: tuple[int, int]) -> ControlImage:
        """Return the control image for generated images of another size."""
        same = self.source.size == size
        image = self.source if same else resize_image(self.source, size, "crop")
        return ControlImage(self.source, image)

    def crop(
        self, whole: tuple[int, int], box: tuple[int, int, int, int], size: tuple[int, int]
    ) -> ControlImage:
        """Return the control image of a region.

        Args:
            whole: Size of the whole image, to which the whole control image belongs.
            box: Left, top, right and bottom of the region.
            size: Size of the result.
        """
        part = self.at(whole).image.crop(box)
        return ControlImage(part, part.resize(size, Image.Resampling.LANCZOS))


def read_control_image(
    config: ModelConfig, source: Any, size: tuple[int, int]
) -> ControlImage | None:
    """Return the control image that a model needs, at the size of the generated image.

    Raises:
        UsageError: The model needs one and there is none, or the other way round.
        ImageError: It cannot be read.
    """
    needed = config.concat == "control"
    if needed and source is None:
        raise UsageError(
            f"{config.name!r} generates images only with a control image, such as edges or depths",
            code=CODE,
            hint="give the image as control_image= (--control-image)",
        )
    if source is None:
        return None
    if not needed:
        raise UsageError(
            f"{config.name!r} reads no control image",
            code=CODE,
            hint="leave it out; for a ControlNet, give Control(net, image) (--control NET:IMAGE)",
        )
    whole = read_image(source)
    return ControlImage(whole, whole).at(size)
