"""Run the first commands of docs/fine-tuning.md, and show the images before and after.

    python scripts/make_fine_tuning_image.py [--folder runs/fine-tuning]

The data set, the command and its settings are those of the page. The script prints the mean loss of
the last 100 steps. If the folder contains a finished training, it is not repeated.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shlex
from pathlib import Path

from PIL import Image

import ldmref
from ldmref import modes
from ldmref.apps.cli.main import main as ldmref_main

PAGE = Path(__file__).parents[1] / "docs" / "fine-tuning.md"
OUT = PAGE.parent / "images" / "fine-tuning.png"
TRAINED = ["dog face", "house", "rocket", "guitar"]
NEW = ["penguin", "umbrella", "a blue tree", "pizza"]
CELL = 96
GAP = 4
COLOURS = 128
LAST = 100  # steps of the mean loss


def make_data(folder: Path) -> None:
    """Run the page's first Python block in a folder."""
    block = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    with contextlib.chdir(folder):
        exec(compile(block[1], PAGE.name, "exec"), {})


def train(folder: Path) -> Path:
    """Run the page's first command in a folder; return the folder in which it trains."""
    command = re.search(r"```sh\nldmref (finetune [^\n]*)", PAGE.read_text())
    assert command is not None
    words = shlex.split(command[1])
    with contextlib.chdir(folder):
        assert ldmref_main(words) == 0
    return folder / words[words.index("-o") + 1]


def last_loss(run: Path) -> float:
    """Return the mean loss of the last `LAST` steps."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    end = lines[-1]["step"]
    losses = [line["loss"] for line in lines if line["step"] > end - LAST]
    return sum(losses) / len(losses)


def generate(prompts: list[str], lora: Path | None) -> list[Image.Image]:
    """Generate the images of prompts with seed 1, with or without the LoRA."""
    model = ldmref.load(lora=[lora] if lora else [])
    return modes.txt2img(model, prompts, seed=[1] * len(prompts)).images


def sheet(rows: list[list[Image.Image]]) -> Image.Image:
    """Write rows of images with few colours."""
    step = CELL + GAP
    size = (len(rows[0]) * step - GAP, len(rows) * step - GAP)
    page = Image.new("RGB", size, "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            cell = image.convert("RGB").resize((CELL, CELL), Image.Resampling.LANCZOS)
            page.paste(cell, (x * step, y * step))
    return page.quantize(COLOURS, dither=Image.Dither.NONE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/fine-tuning"))
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "blueprints").is_dir():
        make_data(folder)
    run = train(folder)
    print(f"mean loss of the last {LAST} steps: {last_loss(run):.3f}")
    prompts = [*TRAINED, *NEW]
    files = [folder / "blueprints" / f"{name}.png" for name in TRAINED]
    files += [path for path in sorted((folder / "blueprints").iterdir()) if path not in files][:4]
    data = [Image.open(path) for path in files]
    rows = [data, generate(prompts, None), generate(prompts, run / "lora.safetensors")]
    sheet(rows).save(OUT, optimize=True)


if __name__ == "__main__":
    main()
