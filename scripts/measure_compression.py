"""Train KL-regularised first stages of several sizes, and print the table of course chapter 4.

    python scripts/measure_compression.py [--steps N]

The recipe is `kl-f8` on the small emoji, with other downsampling factors f and other numbers of
latent channels. PSNR and divergence are those of the training images.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path

import torch

from ldmref.training import read_recipe, train
from ldmref.training.recipes.schema import Recipe

SIDE = 32  # pixels of an image
WIDTHS = (16, 32, 64, 64, 64, 64)  # channels of the levels, of which f = 2 has two, f = 4 three
SIZES = [(2, 4), (4, 4), (8, 4), (16, 4), (32, 4), (8, 8), (8, 16)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=120)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| f | channels | numbers | PSNR | KL |\n|---|---|---|---|---|")
    for factor, channels in SIZES:
        levels = factor.bit_length()
        changes = {
            "data": {"source": "small-emoji", "size": SIDE},
            "model": {"vae": {"block_out_channels": WIDTHS[:levels], "latent_channels": channels}},
            "autoencoder": {"optimizer": {"warmup": 20}, "budget": {"steps": args.steps}},
        }
        lines: list[str] = []
        recipe = read_recipe("kl-f8", changes)
        assert isinstance(recipe, Recipe)
        with tempfile.TemporaryDirectory() as folder:
            train(recipe, Path(folder), log=lines.append)
        reached = next(line for line in lines if line.startswith("autoencoder: "))
        psnr, kl = (re.search(rf"{name} ([\d.,]+)", reached) for name in ("psnr", "kl"))
        assert psnr and kl, reached
        numbers = channels * (SIDE // factor) ** 2
        row = f"| {factor} | {channels} | {numbers:,} | {float(psnr[1]):.1f} dB |"
        print(f"{row} {float(kl[1].replace(',', '')):,.0f} nats |", flush=True)


if __name__ == "__main__":
    main()
