"""Compare classifier guidance and classifier-free guidance in one image.

    python scripts/compare_guidance.py FOLDER [--out guidance.png]

FOLDER is empty, or contains the training of an earlier call: discs, squares, triangles and stripes
in random colours, a class-conditional model of them, and a classifier of noisy latents. Each row
has a kind of guidance and a scale, each column a class and a seed, the same in all rows. The number
on the right is the share of images in which the classifier recognises the class.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import ldmref
from ldmref.io.images.pil import to_images
from ldmref.modes.classifier import LatentClassifier, classifier_denoiser
from ldmref.samplers import get_sampler, make_schedule, sample
from ldmref.samplers.interfaces import Denoiser
from ldmref.training.recipes.file import recipe_from_dict
from ldmref.training.training_run import train

CLASSES = ("disc", "square", "stripes", "triangle")
SIZE = 16
SEEDS = 6
STEPS = 25
ZOOM = 3
ROWS = [("none", 0.0)] + [("classifier", s) for s in (1.0, 4.0, 12.0)]
ROWS += [("classifier-free", s) for s in (1.0, 2.0, 5.0)]


def draw_shape(kind: str, rng: np.random.Generator) -> Image.Image:
    """Return an image of a shape with a random colour, place and size on white."""
    big = Image.new("RGB", (4 * SIZE, 4 * SIZE), "white")
    pen = ImageDraw.Draw(big)
    r = int(rng.integers(16, 26))
    x, y = (int(rng.integers(r + 2, 4 * SIZE - r - 2)) for _ in range(2))
    colour = tuple(int(c) for c in rng.integers(0, 200, 3))
    box = (x - r, y - r, x + r, y + r)
    if kind == "disc":
        pen.ellipse(box, colour)
    elif kind == "square":
        pen.rectangle(box, colour)
    elif kind == "triangle":
        pen.polygon([(x - r, y + r), (x + r, y + r), (x, y - r)], colour)
    else:
        for i in range(-r, r, r // 2):
            pen.rectangle((x - r, y + i, x + r, y + i + r // 5), colour)
    return big.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def trained(folder: Path) -> Path:
    """Train in `folder`, or complete the training in it; return the model's folder."""
    rng = np.random.default_rng(0)
    for kind in CLASSES:
        place = folder / "images" / kind
        place.mkdir(parents=True, exist_ok=True)
        for i in range(60):
            image = draw_shape(kind, rng)
            file = place / f"{i:02}.png"
            if not file.exists():
                image.save(file)
    recipe = recipe_from_dict(
        {
            "stages": ["autoencoder", "diffusion", "classifier"],
            "data": {"source": str(folder / "images")},
            "model": {
                "preset": "tiny",
                "scheduler": {
                    "beta_schedule": "cosine",
                    "prediction_type": "v",
                    "spacing": "trailing",
                    "final_sigma": "zero",
                    "steps_offset": 0,
                    "sigma_max": 40.0,
                },
            },
            "autoencoder": {
                "optimizer": {"batch_size": 16, "learning_rate": 3e-3},
                "budget": {"steps": 500},
            },
            "diffusion": {
                "objective": {"condition": "class", "caption_dropout": 0.2},
                "optimizer": {
                    "batch_size": 16,
                    "learning_rate": 3e-3,
                    "warmup": 50,
                    "ema_decay": 0.99,
                },
                "budget": {"steps": 600},
            },
            "classifier": {
                "optimizer": {
                    "batch_size": 16,
                    "learning_rate": 1e-3,
                    "warmup": 20,
                    "ema_decay": 0.98,
                },
                "budget": {"steps": 250},
            },
        }
    )
    return train(recipe, folder / "run", on_progress=print, log=print)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", default="guidance.png")
    args = parser.parse_args()
    folder = trained(args.folder)
    model = ldmref.load(folder, backend="torch")
    guide = LatentClassifier.load(folder, model)
    ops = model.backend
    sampler = get_sampler("dpmpp_2m")
    config = model.config.scheduler
    sigmas = make_schedule(config, sampler, None, STEPS).sigmas.tolist()

    def run(denoise: Denoiser) -> np.ndarray:
        shape = (SEEDS, *model.latent_shape(SIZE, SIZE))
        noise = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        x = ops.asarray(noise * np.hypot(1.0, sigmas[0]))
        for state in sample(denoise, x, sigmas, sampler.make()):
            x = state.x
        return ops.to_numpy(x)

    width = len(CLASSES) * (SEEDS * SIZE * ZOOM + 8)
    page = Image.new("RGB", (150 + width + 90, 20 + len(ROWS) * (SIZE * ZOOM + 4)), "white")
    pen = ImageDraw.Draw(page)
    for j, name in enumerate(CLASSES):
        pen.text((150 + j * (SEEDS * SIZE * ZOOM + 8), 4), name, "black")
    for i, (kind, scale) in enumerate(ROWS):
        y = 20 + i * (SIZE * ZOOM + 4)
        hits = []
        pen.text((4, y + 12), "no guidance" if kind == "none" else f"{kind} {scale:g}", "black")
        for j, name in enumerate(CLASSES):
            label = guide.label(name)
            if kind == "classifier-free":
                denoise = ldmref.denoiser(model, name, cfg_scale=scale)
            else:
                free = ldmref.denoiser(model, "", cfg_scale=0.0)
                denoise = classifier_denoiser(free, guide, label, scale)
            latents = run(denoise)
            log_p = guide.log_probabilities(ops.asarray(latents), sigmas[-2])
            hits += (ops.to_numpy(log_p).argmax(axis=1) == label).tolist()
            for k, image in enumerate(to_images(ops.to_numpy(model.decode(ops.asarray(latents))))):
                zoomed = image.resize((SIZE * ZOOM, SIZE * ZOOM), Image.Resampling.NEAREST)
                page.paste(zoomed, (150 + j * (SEEDS * SIZE * ZOOM + 8) + k * SIZE * ZOOM, y))
        pen.text((154 + width, y + 12), f"{np.mean(hits):.0%} right", "black")
        print(f"{kind} {scale:g}: {np.mean(hits):.0%}")
    page.save(args.out)


if __name__ == "__main__":
    main()
