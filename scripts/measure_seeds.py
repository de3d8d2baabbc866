"""Measure how much the seed decides of an image of the embedded model, as its card prints it.

    python scripts/measure_seeds.py                  # the lines of the card's table
    python scripts/measure_seeds.py "a face" moon    # or for others

The number is the root mean square difference of two images in units of 1/255, the mean over all
pairs of six seeds.
"""

from __future__ import annotations

import argparse
from itertools import combinations

import numpy as np

import ldmref
from ldmref import modes
from ldmref.models.model import LatentDiffusion

PROMPTS = (
    "a face", "tree", "moon", "a happy face",
    "two blue dogs", "a red cat", "a blue dog", "red heart",
)  # fmt: skip
SEEDS = range(6)
STEPS = 10


def measure_seeds(model: LatentDiffusion, prompt: str) -> float:
    """Return the mean distance of two images of a prompt, in units of 1/255."""
    images = [
        np.asarray(modes.txt2img(model, prompt, seed=seed, steps=STEPS)[0], float) for seed in SEEDS
    ]
    pairs = combinations(images, 2)
    return float(np.mean([np.sqrt(np.mean((a - b) ** 2)) for a, b in pairs]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompts", nargs="*", default=PROMPTS)
    args = parser.parse_args()
    model = ldmref.load("emoji", backend="numpy")
    for prompt in args.prompts:
        print(f"| {prompt} | {measure_seeds(model, prompt):.1f} |", flush=True)


if __name__ == "__main__":
    main()
