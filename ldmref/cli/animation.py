"""An animated WebP or GIF of the images of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

from PIL import Image

from ldmref.cli.together import Together
from ldmref.io.images.metadata import save_image

FORMATS = {".webp": "WEBP", ".gif": "GIF"}


def is_animated(flag: bool | None, to: str | None) -> bool:
    """Whether an animation is asked for: by `--animate`, or by a name that ends in .gif.

    `flag` is None for commands that make none.
    """
    return flag is not None and (flag or (to or "").lower().endswith(".gif"))


class Animation(Together):
    """An animation, which repeats for ever.

    Args:
        duration: milliseconds for which each image is shown.
    """

    mode = "animation"
    formats = FORMATS
    usual = "webp"

    def __init__(
        self,
        to: str | None,
        labels: Sequence[str],
        seeds: Sequence[int] | None,
        *,
        duration: int,
        **files: Any,
    ):
        super().__init__(to, labels, seeds, **files)
        self.duration = duration

    def whole(self) -> Image.Image:
        """The first image; `encode` adds the others."""
        return self.images[0]

    def encode(
        self, file: BinaryIO, image: Image.Image, kind: str, params: dict[str, Any] | None
    ) -> None:
        """Encode all images into an open file. A GIF has no record."""
        save_image(
            file,
            image,
            kind,
            params,
            save_all=True,
            append_images=self.images[1:],
            duration=self.duration,
            loop=0,
        )
