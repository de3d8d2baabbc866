"""Train every autoencoder that has a recipe, and print its row of docs/training.md.

    python scripts/measure_first_stages.py [--steps N] [NAME ...]

The time is the processor time of one thread, which can also be measured on a busy machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from ldmref.training.recipes.file import SHIPPED, read_recipe
from ldmref.training.recipes.schema import STAGES, Recipe
from ldmref.training.training_run import train


def first_stages() -> list[str]:
    """Return the names of the shipped recipes that train only a first stage."""
    recipes = {path.stem: read_recipe(path.stem) for path in sorted(SHIPPED.glob("*.toml"))}
    return [n for n, r in recipes.items() if isinstance(r, Recipe) and r.stages == STAGES[:1]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", metavar="NAME", help="recipes; default: all")
    parser.add_argument("--steps", type=int, help="fewer steps than the recipe's")
    args = parser.parse_args()
    torch.set_num_threads(1)
    changes = {"autoencoder": {"budget": {"steps": args.steps}}} if args.steps else {}
    for name in args.names or first_stages():
        recipe = read_recipe(name, changes)
        lines = []
        start = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            train(recipe, Path(folder), log=lines.append)
        seconds = time.process_time() - start
        reached = next(line for line in lines if line.startswith("autoencoder: "))
        row = f"| `{name}` | {recipe.autoencoder.budget.steps} | {seconds:.0f} s |"
        print(f"{row} {reached.partition(': ')[2]} |", flush=True)


if __name__ == "__main__":
    main()
