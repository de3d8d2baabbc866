"""Several images that become one file: written after the last of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from ldmref.cli.output import STDOUT, Output


class Together(Output):
    """An output that keeps its images until `finish` makes one file of them."""

    mode = ""  # in the file's record

    def __init__(
        self, to: str | None, labels: Sequence[str], seeds: Sequence[int] | None, **files: Any
    ):
        super().__init__(to, [f"{labels[0]} {self.mode}"], seeds and seeds[:1], **files)
        self.pictures, self.labels = 1, list(labels)
        self.images: list[Image.Image] = []
        self.params: list[dict[str, Any]] = []

    @property
    def name(self) -> str:
        """The file that is going to be written."""
        if self.to == STDOUT:
            return STDOUT
        return str(self.files[0] if self.folder is None else self._in_folder(0))

    def write(self, image: Image.Image, i: int, params: dict[str, Any]) -> str:
        """Keep an image; returns its place in the file to be."""
        self.images.append(image)
        self.params.append(params)
        return f"{self.name}[{i + 1}]"

    def finish(self) -> str | None:
        """Write the file, and return its name; None without any image."""
        if not self.images:
            return None
        record = {"mode": self.mode, "images": self.params}
        return super().write(self.whole(), 0, record)

    def whole(self) -> Image.Image:
        """The image to write."""
        raise NotImplementedError
