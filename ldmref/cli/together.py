"""Several images that become one file: written after the last of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from ldmref.cli.output import STDOUT, Output

TOGETHER_KEYS = (
    "mode",
    "prompt",
    "prompt_b",
    "positions",
    "negative_prompt",
    "seed",
    "steps",
    "sampler",
    "cfg_scale",
    "strength",
)


class Together(Output):
    """An output that keeps its images until `finish` makes one file of them."""

    mode = ""  # in the file's record

    def __init__(
        self, to: str | None, labels: Sequence[str], seeds: Sequence[int] | None, **files: Any
    ):
        super().__init__(to, [f"{labels[0]} {self.mode}"], seeds and seeds[:1], **files)
        self.count = 1
        self.labels = list(labels)
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


def together_lines(record: dict[str, Any]) -> list[str]:
    """A line for each image of a sheet or an animation: what makes it again."""
    images = record.get("images")
    images = (
        [image for image in images if isinstance(image, dict)] if isinstance(images, list) else []
    )
    lines = [f"{record['mode']} of {len(images)} images"]
    for i, image in enumerate(images):
        shown = {key: image.get(key) for key in TOGETHER_KEYS if image.get(key) not in (None, "")}
        lines.append(f"{i + 1}: " + ", ".join(f"{key} {value!r}" for key, value in shown.items()))
    return lines
