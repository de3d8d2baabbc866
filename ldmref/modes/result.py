"""`Result`: the images of one call, with everything that is needed to make them again."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ldmref.errors import abbreviated
from ldmref.io.images.infotext import infotext
from ldmref.io.images.metadata import check_target, write_image
from ldmref.modes.embeddings import NAMES as EMBEDDINGS


@dataclass(frozen=True)
class Result:
    """Images and their provenance; behaves as the sequence of its images.

    images: list of RGB images; latents: (n, c, h, w) float32, as the sampler left them, at the
    last noise level of its grid and in variance-preserving scale: where that level is not 0
    (`final_sigma="sigma_min"`, as diffusers' Euler may be configured) they hold x / sqrt(1 +
    sigma^2), and diffusers' own latents are sqrt(1 + sigma^2) times these; seeds: one per image;
    params: fully resolved, JSON-able, replayable; warnings: one line each.
    """

    images: list[Image.Image]
    latents: np.ndarray
    seeds: list[int]
    params: dict[str, Any]
    warnings: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        n = len(self.images)
        warned = len(self.warnings)
        parts = ["1 image" if n == 1 else f"{n} images"]
        if n:
            parts[0] += f" of {self.images[0].width} x {self.images[0].height}"
            parts.append("seed " + abbreviated([str(seed) for seed in self.seeds], 4))
        if warned:
            parts.append("1 warning" if warned == 1 else f"{warned} warnings")
        return f"<Result of {self.params.get('mode', '?')}: {', '.join(parts)}>"

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Image.Image:
        return self.images[i]

    def __iter__(self) -> Iterator[Image.Image]:
        return iter(self.images)

    def params_of(self, i: int) -> dict[str, Any]:
        """The parameters that make image `i` alone."""
        return params_of_image(self.params, self.seeds[i], i)

    def infotext(self, i: int = 0) -> str:
        """The parameters of image `i` in A1111's notation."""
        return infotext(self.params_of(i))

    def save(
        self, path: str | Path, *, overwrite: bool = False, metadata: bool = True
    ) -> list[Path]:
        """Write the images and return their paths.

        A path that ends in .png, .webp or .jpg names the file; several images get `-0`, `-1`, ...
        before the ending. Any other path is an existing folder; names are made from the seeds.

        Raises:
            OutputError: one of the files exists (unless `overwrite`) or cannot be written, or the
                ending is that of another format; then none is written.
        """
        targets = [self._target(Path(path), i) for i in range(len(self))]
        for target in targets:
            check_target(target, overwrite=overwrite)
        for i, image in enumerate(self.images):
            params = self.params_of(i) if metadata else None
            write_image(targets[i], image, params, overwrite=overwrite)
        return targets

    def _target(self, path: Path, i: int) -> Path:
        if path.is_dir() or not path.suffix:
            return path / f"{self.params['mode']}-{self.seeds[i]}-{i}.png"
        return path if len(self) == 1 else path.with_stem(f"{path.stem}-{i}")

    def _repr_png_(self) -> bytes:
        """Shown by notebooks: all images side by side."""
        width = sum(image.width for image in self.images)
        sheet = Image.new("RGB", (width, max(image.height for image in self.images)))
        x = 0
        for image in self.images:
            sheet.paste(image, (x, 0))
            x += image.width
        buffer = io.BytesIO()
        sheet.save(buffer, "PNG")
        return buffer.getvalue()


def params_of_image(params: dict[str, Any], seed: int, i: int) -> dict[str, Any]:
    """The parameters that make image `i` of a run alone."""
    single = copy.deepcopy(params) | {"seed": seed, "count": 1, "index": i}
    for key in ("prompt", "negative_prompt", "truncated"):
        if isinstance(params.get(key), list):
            single[key] = params[key][i]
    for key in ("positions", "latents", *EMBEDDINGS):
        if key in params:
            single[key] = params[key][i : i + 1]
    return single
