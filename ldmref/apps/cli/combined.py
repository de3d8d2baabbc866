"""Outputs that combine all images into one file, written after the last image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from ldmref.apps.cli.output import STDOUT, Output

DESCRIBED_KEYS = (
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


class CombinedOutput(Output):
    """An output that keeps its images until `finish` combines them into one file."""

    mode = ""  # as the file records it

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
        """The name of the file that `finish` will write."""
        if self.to == STDOUT:
            return STDOUT
        return str(self.files[0] if self.folder is None else self._in_folder(0))

    def write(self, image: Image.Image, i: int, params: dict[str, Any]) -> str:
        """Keep an image, and return its place in the file to write."""
        self.images.append(image)
        self.params.append(params)
        return f"{self.name}[{i + 1}]"

    def finish(self) -> str | None:
        """Write the file, and return its name; None if there are no images."""
        if not self.images:
            return None
        record = {"mode": self.mode, "images": self.params}
        return super().write(self.combine(), 0, record)

    def combine(self) -> Image.Image:
        """Return the image to write."""
        raise NotImplementedError


def describe_images(record: dict[str, Any]) -> list[str]:
    """Describe each image of a sheet or an animation in one line of parameters."""
    images = record.get("images")
    images = (
        [image for image in images if isinstance(image, dict)] if isinstance(images, list) else []
    )
    lines = [f"{record['mode']} of {len(images)} images"]
    for i, image in enumerate(images):
        shown = {key: image.get(key) for key in DESCRIBED_KEYS if image.get(key) not in (None, "")}
        lines.append(f"{i + 1}: " + ", ".join(f"{key} {value!r}" for key, value in shown.items()))
    return lines
