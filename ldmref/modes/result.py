"""`Result`: the images of one call, with everything that generates them again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ldmref.errors import abbreviated
from ldmref.io.images.display import arrange, to_html
from ldmref.io.images.infotext import infotext
from ldmref.io.images.metadata import check_target, encode_png, write_image
from ldmref.modes.record import select_image


@dataclass(frozen=True)
class Result:
    """Images and how they were generated; a sequence of the images.

    Args:
        images: RGB images.
        latents: (n, c, h, w) float32, as the sampler left them at its last noise level, in
            variance-preserving scale: x / sqrt(1 + sigma^2). If that level is not 0
            (`final_sigma="sigma_min"`, as diffusers' Euler may be configured), diffusers' own
            latents are sqrt(1 + sigma^2) times these.
        seeds: One per image.
        params: The resolved parameters: JSON-able values that generate the images again.
        warnings: Warnings, one line each.

    Example:
        >>> import ldmref
        >>> result = ldmref.modes.txt2img(ldmref.random_model("tiny"), "a cat", seed=7, steps=2)
        >>> result, len(result), result.params["steps"]
        (<Result of txt2img: 1 image of 16 x 16, seed 7>, 1, 2)
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
        """Return the parameters that generate image `i` (from 0) alone, JSON-able."""
        return select_image(self.params, self.seeds[i], i)

    def infotext(self, i: int = 0) -> str:
        """Return the parameters of image `i` in A1111's notation."""
        return infotext(self.params_of(i))

    def save(
        self, path: str | Path, *, overwrite: bool = False, metadata: bool = True
    ) -> list[Path]:
        """Write the images and return their paths, one per image.

        Args:
            path: A file name that ends in .png, .webp or .jpg; several images get `-0`, `-1`, ...
                before the ending. Any other path is an existing folder, in which names are made
                from the seeds.
            overwrite: Replace existing files.
            metadata: Record in each file how its image was generated.

        Raises:
            OutputError: A file exists (without `overwrite`) or cannot be written, or its ending is
                that of another format. No file is written then.
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

    def grid(self, columns: int | None = None) -> Image.Image:
        """Return all images as one.

        Args:
            columns: The number of columns; None: one row of up to four images, otherwise about
                square.

        Raises:
            UsageError: The result is empty, or `columns` is not a positive integer.
        """
        return arrange(self.images, columns)

    def _repr_png_(self) -> bytes | None:
        """Return all images as one, for consoles and notebooks without HTML."""
        return encode_png(self.grid()) if self.images else None

    def _repr_html_(self) -> str:
        """Return the images with their seeds, and the warnings, for notebooks."""
        captions = [f"seed {seed}" for seed in self.seeds]
        positions = self.params.get("positions")
        if positions:
            captions = [f"position {position:.3g}" for position in positions]
        records = [
            self.params_of(i) if "mode" in self.params else self.params for i in range(len(self))
        ]
        return to_html(repr(self)[1:-1], self.images, captions, records, self.warnings)
