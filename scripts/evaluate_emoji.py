"""Measure how well the embedded model follows prompts; the numbers of its model card.

    python scripts/evaluate_emoji.py [--model emoji] [--backend torch] [--sheet sheet.png]

Four measurements, with prompts sampled by a fixed seed:
1. Names: for 48 emoji names (no skin tones), how often the named emoji is the nearest of all, and
   among the five nearest. The distance is the squared difference of 16 x 16 box averages in RGB
   between the generated image and the emoji in the font (size 109, centred on white in 136 x 136).
2. Fidelity: median PSNR of these images relative to the emoji in the font, at the model's size.
3. Words: for 48 single words that occur in two to twelve names, how often an emoji with that word
   in its name is among the five nearest.
4. Skin tones: for 48 names with a skin tone, the same as 1 among all emoji of every tone.

The script needs the Debian package fonts-noto-color-emoji.
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np
from PIL import Image, ImageDraw

import ldmref
from ldmref import modes
from ldmref.datasets.emoji.emoji_dataset import STOP_WORDS
from ldmref.datasets.emoji.font import emoji_list, render

UNSEEN = [
    "blue dog",
    "cat with hat",
    "green heart with arrow",
    "purple apple",
    "sad pizza",
    "red frog",
    "robot cat",
    "flower house",
]
# of the contact sheet; pixels per image
COLUMNS = 8
CELL = 132


def thumbnail(image: Image.Image) -> np.ndarray:
    """Return the 16 x 16 box averages in RGB."""
    return np.asarray(image.resize((16, 16), Image.Resampling.BOX), np.float64)


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Return the peak signal-to-noise ratio in dB."""
    error = np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2)
    return 10 * np.log10(255**2 / max(error, 1e-9))


def contact_sheet(groups: list[list[Image.Image]], titles: list[str]) -> Image.Image:
    """Return groups of images, each in a column under its title, COLUMNS columns in a row."""
    height = CELL * len(groups[0]) + 14
    page = Image.new("RGB", (COLUMNS * 140, -(-len(groups) // COLUMNS) * height), "white")
    pen = ImageDraw.Draw(page)
    for i, (images, title) in enumerate(zip(groups, titles, strict=True)):
        x = i % COLUMNS * 140
        y = i // COLUMNS * height
        pen.text((x + 2, y), title[:24], "black")
        for j, image in enumerate(images):
            page.paste(image.resize((128, 128), Image.Resampling.NEAREST), (x, y + 13 + j * CELL))
    return page


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--backend", default=None)
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cfg", type=float, default=None)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--sampler", default=None)
    parser.add_argument("--schedule", default=None)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--sheet", default=None)
    args = parser.parse_args()

    model = ldmref.load(args.model, backend=args.backend)
    everything = emoji_list()
    emoji = [e for e in everything if not e.has_skin_tone]
    drawings = {e: thumbnail(render(e)) for e in everything}
    references = np.stack([drawings[e] for e in emoji])

    def generate(prompts: list[str]) -> list[Image.Image]:
        return modes.txt2img(
            model,
            prompts,
            seed=1,
            cfg_scale=args.cfg,
            steps=args.steps,
            sampler=args.sampler,
            schedule=args.schedule,
            batch_size=args.batch,
        ).images

    def nearest(image: Image.Image, references: np.ndarray = references) -> list[int]:
        distance = ((references - thumbnail(image)) ** 2).sum(axis=(1, 2, 3))
        return np.argsort(distance, kind="stable")[:5].tolist()

    rng = np.random.default_rng(args.seed)
    indices = rng.choice(len(emoji), args.prompts, replace=False).tolist()
    names = [emoji[i].name for i in indices]
    named = generate(names)
    size = model.config.defaults.width
    truth = [render(emoji[i], size) for i in indices]
    ranks = [nearest(image) for image in named]
    is_nearest = [i == rank[0] for i, rank in zip(indices, ranks, strict=True)]
    among_five = [i in rank for i, rank in zip(indices, ranks, strict=True)]
    fidelity = np.median([psnr(a, b) for a, b in zip(named, truth, strict=True)])

    counts = Counter(w for e in emoji for w in set(e.words))
    words = sorted(w for w, n in counts.items() if 2 <= n <= 12 and w not in STOP_WORDS)
    words = rng.choice(words, args.prompts, replace=False).tolist()
    worded = generate(words)
    hits = [
        any(word in emoji[i].words for i in nearest(image))
        for word, image in zip(words, worded, strict=True)
    ]

    of_all = np.stack(list(drawings.values()))
    toned = [i for i, e in enumerate(everything) if e.has_skin_tone]
    toned = rng.choice(toned, args.prompts, replace=False).tolist()
    images = generate([everything[i].name for i in toned])
    found = [nearest(image, of_all) for image in images]
    tones = [(i == rank[0], i in rank) for i, rank in zip(toned, found, strict=True)]

    print(
        f"{args.prompts} names: nearest {np.mean(is_nearest):.1%}, among five "
        f"{np.mean(among_five):.1%}, median PSNR {fidelity:.2f} dB; "
        f"{args.prompts} words: {np.mean(hits):.1%}"
    )
    print(
        "{} names with skin tones: nearest {:.1%}, among five {:.1%}".format(
            args.prompts, *np.mean(tones, axis=0)
        )
    )
    print("missed names:", [name for name, hit in zip(names, is_nearest, strict=True) if not hit])
    print("missed words:", [word for word, hit in zip(words, hits, strict=True) if not hit])
    if args.sheet:
        unnamed = worded + generate(UNSEEN)
        groups = [list(pair) for pair in zip(named, truth, strict=True)]
        groups += [[image, render(emoji[nearest(image)[0]], size)] for image in unnamed]
        contact_sheet(groups, names + words + UNSEEN).save(args.sheet)


if __name__ == "__main__":
    main()
