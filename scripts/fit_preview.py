"""Fit the linear preview of a model's latents, `vae.preview` of its configuration.

    python scripts/fit_preview.py [--model emoji] [--backend torch] [--prompts 200] [--write]

Images of random captions are generated, and the latents of each run are decoded: its predicted x0
at every third step, the first left out, and its final latents. A matrix and a bias are fitted by
least squares from the latents z of a cell to the mean colour of its pixels, in [0, 1]:

    min over M, b of sum |M z + b - RGB|^2

The predictions of the first step are far outside of the range of colours, where the decoder
saturates; with them, the fit is worse at all other steps. The preview is clipped as they are.

A quarter of the prompts is held out. The share of the variance that the clipped preview explains
there, R^2 = 1 - sum |preview - RGB|^2 / sum |RGB - mean RGB|^2, over cells and colours, is printed
for each of these steps. With --write, the model's config.json gets the fit, and its new SHA-256 is
printed, which belongs into `ldmref/io/embedded.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json

import numpy as np

import ldmref
from ldmref import modes
from ldmref.datasets.emoji.captions import scene_caption
from ldmref.datasets.emoji.scene_dataset import training_scene
from ldmref.explore.preview import PreviewMatrix, preview_pixels
from ldmref.io.embedded import embedded_folder
from ldmref.io.native import CONFIG, DIGESTS, SCHEMA, hash_file, read_config
from ldmref.models.model import LatentDiffusion
from ldmref.prompts.emoji import named_emoji

STEPS = 10
EVERY = 3  # steps between the predicted x0 that are kept
DIGITS = 5  # of the numbers in the configuration


def random_prompts(count: int, seed: int = 0) -> list[str]:
    """Return captions of random scenes and names of random emoji, in turn."""
    rng = np.random.default_rng(seed)
    names = [emoji.name for emoji in named_emoji()]
    return [
        scene_caption(training_scene(seed, i), rng) if i % 2 else str(rng.choice(names))
        for i in range(count)
    ]


def sample_latents(model: LatentDiffusion, prompt: str, seed: int) -> np.ndarray:
    """Return the predicted x0 of every third step of a run, and its final latents, (n, c, h, w)."""
    predicted = []

    def keep(progress: modes.Progress) -> None:
        if progress.step % EVERY == 0 and progress.step + 1 < progress.steps:
            predicted.append(progress.x0)

    result = modes.txt2img(model, prompt, seed=seed, steps=STEPS, callback=keep)
    return np.concatenate([*predicted, result.latents])


def cell_colours(model: LatentDiffusion, latents: np.ndarray) -> np.ndarray:
    """Return the mean colour of each cell of decoded latents, (n, h, w, 3) in [0, 1]."""
    n, _, h, w = latents.shape
    f = model.config.vae.factor
    pixels = model.backend.to_numpy(model.decode(model.backend.asarray(latents)))
    colours = (np.clip(pixels, -1, 1) + 1) / 2
    return colours.reshape(n, 3, h, f, w, f).mean(axis=(3, 5)).transpose(0, 2, 3, 1)


def fit(latents: np.ndarray, colours: np.ndarray) -> PreviewMatrix:
    """Return the least-squares fit of colours (n, h, w, 3) by latents (n, c, h, w)."""
    z = latents.transpose(0, 2, 3, 1).reshape(-1, latents.shape[1]).astype(np.float64)
    design = np.concatenate([z, np.ones((len(z), 1))], axis=1)
    solution, *_ = np.linalg.lstsq(design, colours.reshape(-1, 3), rcond=None)
    return PreviewMatrix(solution[:-1].T, solution[-1])


def explained(preview: PreviewMatrix, latents: np.ndarray, colours: np.ndarray) -> float:
    """Return R^2 of the clipped preview."""
    error = preview_pixels(preview, latents) - colours
    return 1 - np.sum(error**2) / np.sum((colours - colours.mean(axis=(0, 1, 2))) ** 2)


def main() -> None:
    """Fit, report, and write on request."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--backend", default="numpy")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    model = ldmref.load(args.model, backend=args.backend)
    prompts = random_prompts(args.prompts)
    runs = np.stack([sample_latents(model, prompt, i) for i, prompt in enumerate(prompts)])
    is_held_out = np.arange(len(runs)) % 4 == 3
    latents = np.concatenate(runs[~is_held_out, 1:])
    preview = fit(latents, cell_colours(model, latents))
    tested = runs[is_held_out]
    for i in range(tested.shape[1]):
        what = "final latents" if i + 1 == tested.shape[1] else f"x0 of step {EVERY * i}"
        r2 = explained(preview, tested[:, i], cell_colours(model, tested[:, i]))
        print(f"{what}: R^2 {r2:.4f}, held out")
    rows = np.concatenate([preview.matrix, preview.bias[:, None]], axis=1)
    numbers = tuple(round(float(value), DIGITS) for value in rows.ravel())
    print(json.dumps(numbers))
    if args.write:
        path = embedded_folder(args.model) / CONFIG
        config = read_config(path)
        config = dataclasses.replace(config, vae=dataclasses.replace(config.vae, preview=numbers))
        recorded = json.loads(path.read_text("utf-8"))[DIGESTS]
        settings = {"schema": SCHEMA, DIGESTS: recorded} | config.to_dict()
        path.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
        print(f"{path}: SHA-256 {hash_file(path)}")


if __name__ == "__main__":
    main()
