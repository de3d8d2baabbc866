"""Measure how well autoencoders reconstruct the drawings of each style.

    python scripts/measure_autoencoder.py --packages FOLDER [--vae MODEL|FOLDER ...]

The PSNR of each image is 10 log10(255^2 / mean squared error), in dB; the table has its mean over
`--images` drawings of each style that training shows, and over all pairs of a name and a style that
it never shows. Without --vae: the embedded model's autoencoder and that of the styles.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

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

    def psnr(self, images: np.ndarray) -> np.ndarray:
        """Return the PSNR of each image (n, 3, h, w) uint8 after the round trip, in dB."""
        found = []
        for start in range(0, len(images), BATCH):
            exact = images[start : start + BATCH].astype(np.float32)
            with self.ops.inference():
                x = self.ops.asarray(exact / 127.5 - 1.0)
                mean, _ = self.kind.encode(self.ops, self.params, self.config, x)
                y = self.ops.to_numpy(self.kind.decode(self.ops, self.params, self.config, mean))
            error = np.rint((y.clip(-1, 1) + 1) * 127.5) - exact
            found.append(10 * np.log10(255**2 / np.maximum((error**2).mean((1, 2, 3)), 1e-3)))
        return np.concatenate(found)


def sample(packages: str, style: str, count: int, held_out: bool) -> np.ndarray:
    """Return some drawings of a style, (n, 3, 128, 128) uint8; skin tones are left out."""
    found: Sequence[tuple[Emoji, str]] = [
        pair
        for pair in pictures(packages, held_out)
        if pair[1] == style and not pair[0].has_skin_tone
    ]
    numbers = np.random.default_rng(0).permutation(len(found))[:count]
    return StyleImages([found[i] for i in numbers], SIZE, packages)[:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", required=True)
    parser.add_argument("--vae", nargs="+", default=[])
    parser.add_argument("--images", type=int, default=100)
    arguments = parser.parse_args()
    paths = arguments.vae or ["emoji", str(embedded_folder("styles-autoencoder"))]
    loaded = {Path(path).name: Autoencoder(path) for path in paths}
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
