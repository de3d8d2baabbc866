"""Measure how well autoencoders reconstruct the drawings of each style.

    python scripts/measure_autoencoder.py --packages FOLDER [--vae MODEL|FOLDER ...]

The PSNR of each image is 10 log10(255^2 / mean squared error), in dB; the table has its mean over
`--images` drawings of each style that training shows, and over all pairs of a name and a style that
it never shows. --sheet writes an image of the first of these pairs, each beside its
reconstruction by the last of the autoencoders. Without --vae: the embedded model's autoencoder and
that of the styles.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import ldmref
from ldmref.backends import get_backend
from ldmref.datasets.emoji.drawings import STYLE_WORDS, pictures
from ldmref.datasets.emoji.font import Emoji
from ldmref.datasets.emoji.style_dataset import StyleImages
from ldmref.io import read_vae
from ldmref.io.embedded import EMBEDDED, embedded_folder
from ldmref.models.autoencoder_kind import autoencoder_of
from ldmref.models.params import tree_map, unflatten

SIZE = 128
BATCH = 16
COLUMNS = 6  # pairs of a style on the sheet


class Autoencoder:
    """An autoencoder on PyTorch: of a model by its name, or of a file or folder."""

    def __init__(self, path: str):
        self.ops = get_backend("torch")
        if path in EMBEDDED:
            model = ldmref.load(path, backend=self.ops)
            self.config, self.params = model.config.vae, model.params.vae
        else:
            file = read_vae(path)
            self.config = file.config
            self.params = tree_map(self.ops.asarray, unflatten(file.tensors))
        self.kind = autoencoder_of(self.config)

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """Return images (n, 3, h, w) uint8 after the round trip, without noise in the latents."""
        found = []
        for start in range(0, len(images), BATCH):
            exact = images[start : start + BATCH].astype(np.float32)
            with self.ops.inference():
                x = self.ops.asarray(exact / 127.5 - 1.0)
                mean, _ = self.kind.encode(self.ops, self.params, self.config, x)
                y = self.ops.to_numpy(self.kind.decode(self.ops, self.params, self.config, mean))
            found.append(np.rint((y.clip(-1, 1) + 1) * 127.5).astype(np.uint8))
        return np.concatenate(found)

    def psnr(self, images: np.ndarray) -> np.ndarray:
        """Return the PSNR of the reconstruction of each image, in dB."""
        error = self.reconstruct(images).astype(np.float64) - images
        return 10 * np.log10(255**2 / np.maximum((error**2).mean((1, 2, 3)), 1e-3))


def sample(packages: str, style: str, count: int, held_out: bool) -> np.ndarray:
    """Return some drawings of a style, (n, 3, 128, 128) uint8; skin tones are left out."""
    found: Sequence[tuple[Emoji, str]] = [
        pair
        for pair in pictures(packages, held_out)
        if pair[1] == style and not pair[0].has_skin_tone
    ]
    numbers = np.random.default_rng(0).permutation(len(found))[:count]
    return StyleImages([found[i] for i in numbers], SIZE, packages)[:]


def draw_sheet(packages: str, autoencoder: Autoencoder) -> Image.Image:
    """Return drawings that training never shows, a row for each style, and reconstructions."""
    rows = []
    for style in STYLE_WORDS:
        images = sample(packages, style, COLUMNS, held_out=True)
        pairs = np.stack([images, autoencoder.reconstruct(images)], axis=1)
        rows.append(pairs.transpose(3, 0, 1, 4, 2).reshape(SIZE, -1, 3))
    return Image.fromarray(np.concatenate(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", required=True)
    parser.add_argument("--vae", nargs="+", default=[])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()
    paths = arguments.vae or ["emoji", str(embedded_folder("styles-autoencoder"))]
    loaded = {Path(path).name: Autoencoder(path) for path in paths}
    if arguments.sheet:
        draw_sheet(arguments.packages, [*loaded.values()][-1]).save(arguments.sheet, quality=90)
        return
    print("| style | images | " + " | ".join(loaded) + " |")
    for held_out in (False, True):
        for style in STYLE_WORDS:
            count = 10_000 if held_out else arguments.images
            images = sample(arguments.packages, style, count, held_out)
            cells = [f"{model.psnr(images).mean():.1f} dB" for model in loaded.values()]
            kind = f"{style}, held out" if held_out else style
            print(f"| {kind} | {len(images)} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
