"""How well the embedded model draws what it is asked for; the figures of its model card.

    python scripts/evaluate_emoji.py [--model emoji] [--backend torch] [--sheet sheet.png]

Three questions, with prompts drawn by a fixed seed:
1. Names: of 48 emoji names (no skin tones), how often is the named emoji the nearest of all, and
   among the five nearest? Distance: squared, between 16 x 16 box-averaged RGB of the picture and of
   the font's drawing (size 109, centred on white in 136 x 136).
2. Fidelity: median PSNR of these pictures to the font's drawing at the model's size.
3. Words: of 48 single words that occur in two to twelve names, how often does an emoji with that
   word in its name stand among the five nearest?

Needs the Debian packages fonts-noto-color-emoji and unicode-data.
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np
from PIL import Image, ImageDraw

import ldmref
from ldmref import modes
from ldmref.training.emoji import STOP_WORDS, draw, emoji_list

UNSEEN = ["blue dog", "cat with hat", "green heart with arrow", "purple apple", "sad pizza",
          "red frog", "robot cat", "flower house"]  # fmt: skip


def thumbnail(image: Image.Image) -> np.ndarray:
    """16 x 16 box average, RGB."""
    return np.asarray(image.resize((16, 16), Image.Resampling.BOX), np.float64)


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB."""
    error = np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2)
    return 10 * np.log10(255**2 / max(error, 1e-9))


def sheet(rows: list[list[Image.Image]], titles: list[str], path: str) -> None:
    """Columns of pictures under their titles."""
    columns, cell = 8, 132
    height = cell * len(rows[0]) // max(1, len(rows[0])) * len(rows[0]) + 14
    n = -(-len(rows) // columns)
    page = Image.new("RGB", (columns * 140, n * height), "white")
    pen = ImageDraw.Draw(page)
    for i, (images, title) in enumerate(zip(rows, titles, strict=True)):
        x, y = i % columns * 140, i // columns * height
        pen.text((x + 2, y), title[:24], "black")
        for j, image in enumerate(images):
            page.paste(image.resize((128, 128), Image.Resampling.NEAREST), (x, y + 13 + j * cell))
    page.save(path)


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
    options = {"cfg_scale": args.cfg, "steps": args.steps, "sampler": args.sampler,
               "schedule": args.schedule, "batch_size": args.batch}  # fmt: skip
    emoji = [e for e in emoji_list() if not e.has_skin_tone]
    known = np.stack([thumbnail(draw(e)) for e in emoji])

    def nearest(image: Image.Image) -> list[int]:
        distance = ((known - thumbnail(image)) ** 2).sum(axis=(1, 2, 3))
        return np.argsort(distance, kind="stable")[:5].tolist()

    pick = np.random.default_rng(args.seed)
    chosen = pick.choice(len(emoji), args.prompts, replace=False)
    names = [emoji[i].name for i in chosen]
    drawn = modes.txt2img(model, names, seed=1, **options).images
    truth = [draw(emoji[i], model.config.defaults.width) for i in chosen]
    ranks = [nearest(image) for image in drawn]
    first = np.mean([i == r[0] for i, r in zip(chosen, ranks, strict=True)])
    five = np.mean([i in r for i, r in zip(chosen, ranks, strict=True)])
    fidelity = np.median([psnr(a, b) for a, b in zip(drawn, truth, strict=True)])

    counts = Counter(w for e in emoji for w in set(e.words))
    words = sorted(w for w, n in counts.items() if 2 <= n <= 12 and w not in STOP_WORDS)
    words = list(pick.choice(words, args.prompts, replace=False))
    said = modes.txt2img(model, words, seed=1, **options).images
    hits = [any(w in emoji[i].words for i in nearest(x)) for w, x in zip(words, said, strict=True)]

    print(f"{args.prompts} names: nearest {first:.1%}, among five {five:.1%}, "
          f"median PSNR {fidelity:.2f} dB; {args.prompts} words: {np.mean(hits):.1%}")  # fmt: skip
    print("missed names:", [n for n, i, r in zip(names, chosen, ranks, strict=True) if i != r[0]])
    print("missed words:", [str(w) for w, hit in zip(words, hits, strict=True) if not hit])
    if args.sheet:
        unseen = modes.txt2img(model, UNSEEN, seed=1, **options).images
        rows = [[a, b] for a, b in zip(drawn, truth, strict=True)]
        rows += [[x, emoji_picture(emoji[nearest(x)[0]])] for x in said]
        rows += [[x, emoji_picture(emoji[nearest(x)[0]])] for x in unseen]
        sheet(rows, names + words + UNSEEN, args.sheet)


def emoji_picture(emoji) -> Image.Image:
    """The font's drawing at 64 pixels."""
    return draw(emoji, 64)


if __name__ == "__main__":
    main()
