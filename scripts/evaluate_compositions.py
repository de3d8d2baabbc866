"""Measure how well a model generates combinations that training never showed, by kind.

    python scripts/evaluate_compositions.py --model runs/scenes/model [--sheet sheets/] [--trained]
    python scripts/evaluate_compositions.py --validate

Kinds: colour ("a blue dog"), count ("two cats"), pair ("a dog and a cat"), place ("a dog above a
cat"), size ("a small dog", "a big dog and a small cat"), small ("a small blue dog on yellow"),
background ("a dog on yellow"), bound ("a green cat and a red apple", sometimes on a background),
triple ("two blue dogs on yellow"), many ("five cats", "nine blue dogs on yellow"). Scenes
with a held-out combination of that kind are sampled with fixed seeds, phrased at random as in
training, and their images generated with seed 1. `composition_oracle.py` judges them; an image is
right if everything in it is right. The intervals are Wilson's, 95 %. `--trained` instead measures
combinations that training shows; a much higher share for these means that they are memorised.

`--validate` measures the oracle itself: on rendered scenes, on the same scenes blurred and with
noise at 24 dB, and on renderings of wrong scenes.

The script needs the Debian package fonts-noto-color-emoji.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from composition_oracle import Verdict, judge
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from ldmref.datasets.emoji.captions import scene_caption
from ldmref.datasets.emoji.colours import BACKGROUNDS, COLOURS
from ldmref.datasets.emoji.nouns import nouns
from ldmref.datasets.emoji.rendering import render_scene
from ldmref.datasets.emoji.scene import ABOVE, BESIDE, FRAME, ROWS, Scene
from ldmref.datasets.emoji.scene_dataset import SHARES, held_out_scene, training_scene
from ldmref.evaluate.intervals import proportion

SEED = 1
DECIBELS = 24.0  # PSNR of the degraded renderings
# of the contact sheets; pixels per image
COLUMNS = 8
CELL = 150
CHECKS = ("shape", "colour", "layout", "background")


def interval(right: int, n: int) -> tuple[float, float]:
    """Return Wilson's interval of a rate."""
    rate = proportion(np.arange(n) < right)
    return rate.low, rate.high


def scenes_and_prompts(kind: str, n: int, trained: bool = False) -> tuple[list[Scene], list[str]]:
    """Return the first `n` different scenes of a kind, held out or trained, and their prompts."""
    prompts: dict[Scene, str] = {}
    for index in range(1000 * n):
        scene = training_scene(0, index) if trained else held_out_scene(kind, SEED, index)
        if scene.kind == kind and scene not in prompts:
            prompts[scene] = scene_caption(scene, np.random.default_rng([SEED, index]))
        if len(prompts) == n:
            break
    return list(prompts), list(prompts.values())


def report(kind: str, verdicts: list[Verdict]) -> str:
    """Format a line: the rate with its interval, and the kinds of errors."""
    n = len(verdicts)
    right = sum(v.right for v in verdicts)
    low, high = interval(right, n)
    wrong = Counter(check for v in verdicts for check in CHECKS if not getattr(v, check))
    failures = ", ".join(f"{check} {count}" for check, count in wrong.items())
    return f"{kind:12} {right / n:6.1%}  ({low:.1%} to {high:.1%}, n = {n})  wrong: {failures}"


def contact_sheet(images: list[np.ndarray], prompts: list[str], marks: list[bool]) -> Image.Image:
    """Return a sheet of all images under their prompts; wrong images have a red frame."""
    height = CELL + 26
    page = Image.new("RGB", (COLUMNS * CELL, -(-len(images) // COLUMNS) * height), (235,) * 3)
    pen = ImageDraw.Draw(page)
    for i, (image, prompt, right) in enumerate(zip(images, prompts, marks, strict=True)):
        x = i % COLUMNS * CELL
        y = i // COLUMNS * height
        lines = prompt[:24].rpartition(" ") if len(prompt) > 24 else (prompt, "", "")
        rest = prompt
        first = lines[0] if len(prompt) > 24 and lines[0] else prompt[:24]
        pen.text((x + 10, y + 2), first, "black")
        pen.text((x + 10, y + 13), rest[len(first) :].strip()[:24], "black")
        if not right:
            pen.rectangle((x + 7, y + 25, x + 12 + FRAME, y + 30 + FRAME), fill=(200, 0, 0))
        page.paste(Image.fromarray(image), (x + 10, y + 28))
    return page


def degraded(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an image blurred and with smooth noise, at a PSNR of `DECIBELS`."""
    x = image.astype(float)
    blurred = gaussian_filter(x, (0.8, 0.8, 0))
    noise = gaussian_filter(rng.standard_normal(x.shape), (0.7, 0.7, 0))
    left = max(255**2 / 10 ** (DECIBELS / 10) - ((blurred - x) ** 2).mean(), 1.0)
    noisy = blurred + noise * math.sqrt(left / (noise**2).mean())
    return np.clip(noisy, 0, 255).astype(np.uint8)


def wrong_scenes(scene: Scene, rng: np.random.Generator) -> Iterator[tuple[str, Scene]]:
    """Yield scenes that differ from this one in one attribute, each with its name."""
    things = scene.things
    first = scene.things[0]

    def other(options, *present):
        rest = [option for option in options if option not in present]
        return rest[int(rng.integers(len(rest)))]

    def with_first(**changes) -> Scene:
        return replace(scene, things=(replace(first, **changes), *things[1:]))

    names = [noun.singular for noun in nouns()]
    yield "other noun", with_first(noun=other(names, *(thing.noun for thing in things)))
    yield (
        "other background",
        replace(scene, background=other(["", *BACKGROUNDS], scene.background, first.colour)),
    )
    if first.colour:
        yield "other colour", with_first(colour=other(COLOURS, first.colour, scene.background))
    if len(things) == 1 and not first.size:
        yield "other count", with_first(count=other(ROWS, first.count))
    if len(things) == 1 and first.count == 1:
        yield "other size", with_first(size="" if first.size else "small")
    if len(things) == 2:
        a, b = things
        yield "other place", replace(scene, things=(b, a))
        yield (
            "other relation",
            replace(scene, relation=BESIDE if scene.relation == ABOVE else ABOVE),
        )
        yield "one missing", replace(scene, things=(a,))
        if not a.size:
            yield "same twice", replace(scene, things=(a, a))
        if a.colour and b.colour:
            swapped = replace(a, colour=b.colour), replace(b, colour=a.colour)
            yield "swapped colours", replace(scene, things=swapped)
        if a.size and b.size:
            yield (
                "swapped sizes",
                replace(scene, things=(replace(a, size=b.size), replace(b, size=a.size))),
            )


def validate(n: int) -> dict[str, tuple[int, int]]:
    """Measure the oracle on right, degraded and wrong renderings: (right, total) by name."""
    rng = np.random.default_rng(0)
    results: dict[str, list[bool]] = {}
    for kind in SHARES:
        scenes, _ = scenes_and_prompts(kind, n)
        for scene in scenes:
            image = render_scene(scene)
            results.setdefault(f"{kind}, true", []).append(judge(image, scene).right)
            bad = degraded(image, rng)
            results.setdefault(f"{kind}, 24 dB", []).append(judge(bad, scene).right)
            for name, wrong in wrong_scenes(scene, rng):
                rejected = not judge(render_scene(wrong), scene).right
                results.setdefault(f"{name}, rejected", []).append(rejected)
    return {name: (sum(values), len(values)) for name, values in results.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--backend", default=None)
    parser.add_argument("--prompts", type=int, default=100, help="of each kind")
    parser.add_argument("--kinds", nargs="*", default=list(SHARES))
    parser.add_argument("--cfg", type=float, default=None)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--sampler", default=None)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--sheet", type=Path, default=None, help="folder of a sheet for each kind")
    parser.add_argument("--trained", action="store_true", help="scenes that training shows")
    parser.add_argument("--validate", action="store_true")
    args = parser.parse_args()
    if args.validate:
        for name, (right, n) in validate(args.prompts).items():
            print(f"{name:32} {right / n:6.1%}  ({right} of {n})", flush=True)
        return

    import ldmref
    from ldmref import modes

    model = ldmref.load(args.model, backend=args.backend)
    for kind in args.kinds:
        scenes, prompts = scenes_and_prompts(kind, args.prompts, args.trained)
        generated = modes.txt2img(
            model,
            prompts,
            seed=SEED,
            cfg_scale=args.cfg,
            steps=args.steps,
            sampler=args.sampler,
            batch_size=args.batch,
        ).images
        images = [np.asarray(i.convert("RGB").resize((FRAME, FRAME))) for i in generated]
        verdicts = [judge(p, scene) for p, scene in zip(images, scenes, strict=True)]
        print(report(kind, verdicts), flush=True)
        if args.sheet:
            args.sheet.mkdir(parents=True, exist_ok=True)
            sheet = contact_sheet(images, prompts, [v.right for v in verdicts])
            sheet.save(args.sheet / f"{kind}.webp", quality=75)


if __name__ == "__main__":
    main()
