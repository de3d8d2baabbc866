"""Generate the images of README and model card with the embedded model, on NumPy.

    python scripts/make_readme_images.py

No image is selected by hand: the prompts are the names listed below, and the first prompts of each
kind in `evaluate_compositions.py`, all with seed 1.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import fill

import numpy as np
from evaluate_compositions import scenes_and_prompts
from PIL import Image, ImageDraw

import ldmref
from ldmref import modes
from ldmref.datasets.emoji.scene_dataset import SHARES

OUT = Path(__file__).parent.parent / "docs" / "images"
NAMES = [
    "red heart", "grinning face", "cat face", "hot dog", "rainbow", "snowman",
    "rocket", "green apple", "octopus", "alien", "birthday cake", "guitar",
    "sunflower", "police car", "penguin", "crown", "pizza", "full moon face",
    "flag: Japan", "mushroom", "soccer ball", "house", "umbrella", "robot",
]  # fmt: skip
WORDS = ["open", "country flag"]  # that many emoji share, which a flow map blurs
SCENES = 3  # prompts of each kind, the first that are not in the training data
# pixels of an image, and of the two lines above it
CELL = 128
LABEL = 28


def sheet(images: list[Image.Image], titles: list[str], columns: int) -> Image.Image:
    """Return a sheet of images under their prompts."""
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (columns * (CELL + 8), rows * (CELL + LABEL + 8)), "white")
    pen = ImageDraw.Draw(page)
    for i, (image, title) in enumerate(zip(images, titles, strict=True)):
        x = i % columns * (CELL + 8)
        y = i // columns * (CELL + LABEL + 8)
        page.paste(image.resize((CELL, CELL), Image.Resampling.BICUBIC), (x + 4, y + LABEL))
        pen.text((x + 6, y + 2), fill(title, 20), "#444444", spacing=1)
    return page


def map_sheet(model: ldmref.LatentDiffusion) -> Image.Image:
    """Return the first prompt of each kind and two words, with 20 steps and by the flow map."""
    flow_map = ldmref.load("emoji-map", backend="numpy")
    prompts = [scenes_and_prompts(kind, 1)[1][0] for kind in SHARES] + WORDS
    seeds = [1] * len(prompts)
    images = list(modes.txt2img(model, prompts, seed=seeds).images)
    titles = prompts[:]
    for steps, title in ((4, "map, 4 steps"), (2, "map, 2 steps"), (1, "map, 1 step")):
        images += modes.txt2img(flow_map, prompts, seed=seeds, steps=steps).images
        titles += [title] * len(prompts)
    return sheet(images, titles, len(prompts))


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    model = ldmref.load(backend="numpy")
    named = modes.txt2img(model, NAMES, seed=[1] * len(NAMES))
    sheet(named.images, NAMES, 8).save(OUT / "names.png", optimize=True)
    rows = zip(*(scenes_and_prompts(kind, SCENES)[1] for kind in SHARES), strict=True)
    prompts = [prompt for row in rows for prompt in row]
    composed = modes.txt2img(model, prompts, seed=[1] * len(prompts))
    sheet(composed.images, prompts, len(SHARES)).save(OUT / "compositions.png", optimize=True)
    map_sheet(model).save(OUT / "flow-map.webp", quality=90, method=6)

    heart = named[0]
    mask = Image.new("L", heart.size, 0)
    mask.paste(255, (0, 0, heart.width // 2, heart.height))
    steps: list[np.ndarray] = []
    modes.txt2img(model, "red heart", seed=1, callback=lambda e: steps.append(e.preview()[0]))
    row = {
        "txt2img: red heart": heart,
        "img2img: blue heart": modes.img2img(model, "blue heart", heart, 0.9, seed=1)[0],
        "img2img: red apple": modes.img2img(model, "red apple", heart, 0.8, seed=1)[0],
        "mask": mask.convert("RGB"),
        "inpaint: blue heart": modes.inpaint(model, "blue heart", heart, mask, seed=1)[0],
        "expected at step 1": steps[0],
        "at step 4": steps[3],
        "at step 8": steps[7],
    }
    sheet(list(row.values()), list(row), 8).save(OUT / "modes.png", optimize=True)


if __name__ == "__main__":
    main()
