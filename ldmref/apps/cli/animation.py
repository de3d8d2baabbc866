"""Write the images of a command as one animated WebP or GIF."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

from PIL import Image

from ldmref.apps.cli.combined import CombinedOutput
from ldmref.io.images.metadata import save_image

FORMATS = {".webp": "WEBP", ".gif": "GIF"}


def is_animated(flag: bool | None, to: str | None) -> bool:
    """Return whether an animation was asked for, by `--animate` or a name that ends in .gif.

    `flag` is None for commands without `--animate`.
    """
    return flag is not None and (flag or (to or "").lower().endswith(".gif"))


class Animation(CombinedOutput):
    """An animation that repeats without end; the other arguments are those of `Output`.

    Args:
        duration: Time in milliseconds for which each image is shown.
    """

    mode = "animation"
    formats = FORMATS
    default_kind = "webp"

    def __init__(
        self,
        to: str | None,
        labels: Sequence[str],
        seeds: Sequence[int] | None,
        *,
        duration: int,
        **files: object,
    ):
        super().__init__(to, labels, seeds, **files)
        self.duration = duration

    def combine(self) -> Image.Image:
        """Return the first image; `encode` adds the others."""
        return self.images[0]

    def encode(
        self, file: BinaryIO, image: Image.Image, kind: str, params: dict[str, Any] | None
    ) -> None:
        """Encode all images into an open file; a GIF does not record how they were made."""
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
