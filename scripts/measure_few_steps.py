"""Measure what steps, guidance and samplers are worth: the rows behind the defaults of a model.

    python scripts/measure_few_steps.py --steps 1 2 4 8 20 --cfg 1 1.5 2.5 --sampler ddim dpmpp_2m
    python scripts/measure_few_steps.py --model emoji-map --baked 2.5 --steps 1 2 4
    python scripts/measure_few_steps.py --model runs/distill/model --steps 1 2 4 --rows rows.jsonl

A row is one setting on one chunk: two held-out compositions of each of the ten kinds, and four
single words with two seeds each. Rows are appended to benchmarks/results/few-steps.jsonl or another
file of JSON lines, and those that it holds are not measured again, so a run may be stopped, and a
larger one continues it. For each image a row holds whether it is right (`composition_oracle.py`;
for a word, whether an emoji of that name is among the five nearest), and the mean squared distance
of its latents from those of two references with the same noise: the default setting of the base,
and the converged run of `CONVERGED` steps with the guidance of the row. The latents of references
are stored in a folder (`--references`), and are not computed again either. The two seeds of a word
give the distance between seeds. `make_few_steps_page.py` makes the tables and the plot.

The script needs the Debian package fonts-noto-color-emoji.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from composition_oracle import judge
from evaluate_compositions import scenes_and_prompts
from evaluate_emoji import thumbnail

import ldmref
from ldmref import modes
from ldmref.datasets.emoji.emoji_dataset import STOP_WORDS
from ldmref.datasets.emoji.font import emoji_list, render
from ldmref.datasets.emoji.scene_dataset import SHARES
from ldmref.models.model import LatentDiffusion

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "few-steps.jsonl"
BASE = "emoji-128"
CHUNKS = 50  # 1,000 compositions, 200 words
PER_KIND, WORDS, SEEDS = 2, 4, (1, 2)  # of a chunk
CONVERGED = 100
NEAREST = 5
DIGITS = 4  # of the numbers of a row


class Setting(NamedTuple):
    """How images are generated; the scale of a flow map is baked in, and stated for the table."""

    model: str
    steps: int
    cfg: float
    sampler: str


# -- the prompts -----------------------------------------------------------------------------------


class Chunk(NamedTuple):
    """The prompts of a row: scenes in the order of their kinds, then each word with each seed."""

    scenes: list[Any]
    words: list[str]
    prompts: list[str]
    seeds: list[int]


@cache
def compositions() -> dict[str, tuple[list[Any], list[str]]]:
    """Return scenes and prompts of each kind for all chunks."""
    return {kind: scenes_and_prompts(kind, PER_KIND * CHUNKS) for kind in SHARES}


@cache
def single_words() -> list[str]:
    """Return the words that occur in two to twelve names, in random order."""
    emoji = [e for e in emoji_list() if not e.has_skin_tone]
    counts = Counter(word for e in emoji for word in set(e.words))
    words = sorted(w for w, n in counts.items() if 2 <= n <= 12 and w not in STOP_WORDS)
    return np.random.default_rng(0).permutation(words).tolist()


def make_chunk(number: int) -> Chunk:
    """Return a chunk by its number, from 0."""
    part = slice(number * PER_KIND, (number + 1) * PER_KIND)
    found = [(scenes[part], prompts[part]) for scenes, prompts in compositions().values()]
    scenes = [scene for some, _ in found for scene in some]
    prompts = [prompt for _, some in found for prompt in some]
    every = single_words()
    words = [every[(number * WORDS + i) % len(every)] for i in range(WORDS)]
    seeds = [1000 * (number + 1) + i for i in range(len(scenes))]
    repeated = [word for word in words for _ in SEEDS]
    return Chunk(scenes, words, prompts + repeated, seeds + [*SEEDS] * len(words))


# -- measuring -------------------------------------------------------------------------------------


@cache
def reference_emoji() -> tuple[list[Any], np.ndarray]:
    """Return all emoji without skin tones and their thumbnails."""
    emoji = [e for e in emoji_list() if not e.has_skin_tone]
    return emoji, np.stack([thumbnail(render(e)) for e in emoji])


def shows_word(image: Any, word: str) -> bool:
    """Return whether an emoji with the word in its name is among the nearest of an image."""
    emoji, drawings = reference_emoji()
    distance = ((drawings - thumbnail(image)) ** 2).sum(axis=(1, 2, 3))
    return any(word in emoji[i].words for i in np.argsort(distance, kind="stable")[:NEAREST])


def generate(model: LatentDiffusion, chunk: Chunk, setting: Setting) -> modes.Result:
    """Return the images of a chunk."""
    is_map = model.config.denoiser.is_flow_map
    return modes.txt2img(
        model,
        chunk.prompts,
        seed=chunk.seeds,
        steps=setting.steps,
        cfg_scale=1.0 if is_map else setting.cfg,
        sampler=setting.sampler,
        batch_size=len(chunk.prompts),
    )


def measure(
    model: LatentDiffusion,
    chunk: Chunk,
    setting: Setting,
    references: Sequence[np.ndarray],
) -> dict[str, Any]:
    """Return the numbers of a row: lists with an element for each image."""
    start = time.process_time()
    made = generate(model, chunk, setting)
    seconds = time.process_time() - start
    count = len(chunk.scenes)
    pixels = [np.asarray(image.convert("RGB")) for image in made.images]
    verdicts = [int(judge(p, s).right) for p, s in zip(pixels[:count], chunk.scenes, strict=True)]
    words = zip(made.images[count:], chunk.prompts[count:], strict=True)
    distances = [np.mean((made.latents - ref) ** 2, axis=(1, 2, 3)) for ref in references]
    pairs = made.latents[count:].reshape(len(chunk.words), len(SEEDS), -1)
    return {
        "right": verdicts,
        "words": [int(shows_word(image, word)) for image, word in words],
        "to_default": _short(distances[0]),
        "to_converged": _short(distances[1]) if len(distances) > 1 else None,
        "between_seeds": _short(np.mean((pairs[:, 0] - pairs[:, 1]) ** 2, axis=1)),
        "cpu_seconds": _short([seconds / len(chunk.prompts)])[0],
    }


def _short(numbers: Iterable[float]) -> list[float]:
    """Return numbers with as many digits as rows have."""
    return [float(f"{number:.{DIGITS}g}") for number in numbers]


def reference(
    base: LatentDiffusion, chunk: Chunk, number: int, setting: Setting, folder: Path
) -> np.ndarray:
    """Return the latents of a setting of the base, stored in a folder."""
    name = f"{setting.sampler}-{setting.steps}-{setting.cfg:g}-{number}.npy"
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        latents = generate(base, chunk, setting).latents
        part = path.with_suffix(".part.npy")
        np.save(part, latents)
        part.rename(path)
    return np.load(path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file; a line that was cut off is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def measure_all(args: argparse.Namespace) -> None:
    """Append the rows that are missing to the file, chunk by chunk."""
    model = ldmref.load(args.model, backend=args.backend)
    base = ldmref.load(args.base, backend=args.backend)
    defaults = base.config.defaults
    is_map = model.config.denoiser.is_flow_map
    samplers = args.sampler or [model.config.scheduler.sampler]
    scales = [args.baked or defaults.cfg_scale] if is_map else args.cfg
    own = base.config.scheduler.sampler
    start = Setting(base.config.name, defaults.steps, defaults.cfg_scale, own)
    name = args.name or model.config.name
    settings = [Setting(name, n, c, s) for n in args.steps for c in scales for s in samplers]
    known = {(*Setting(*row["setting"]), row["chunk"]) for row in read_rows(args.rows)}
    for number in range(min(args.chunks, CHUNKS)):
        chunk = make_chunk(number)
        for setting in settings:
            if (*setting, number) in known:
                continue
            converged = Setting(start.model, CONVERGED, setting.cfg, own)
            used = (start,) if args.no_converged else (start, converged)
            references = [reference(base, chunk, number, ref, args.references) for ref in used]
            row = {"setting": setting, "chunk": number} | measure(model, chunk, setting, references)
            with open(args.rows, "a") as file:
                file.write(json.dumps(row, separators=(",", ":")) + "\n")
            print(*setting, "chunk", number, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, default=RESULTS)
    parser.add_argument("--references", type=Path, default=Path("few-steps-references"))
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--name", default=None, help="of the model in the rows")
    parser.add_argument("--base", default="emoji", help="the model of the references")
    parser.add_argument("--baked", type=float, default=None, help="guidance of a flow map")
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--chunks", type=int, default=CHUNKS, help="the first of all")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8, 20])
    parser.add_argument("--cfg", type=float, nargs="+", default=[1.0, 1.5, 2.5])
    parser.add_argument("--sampler", nargs="+", default=None)
    parser.add_argument("--no-converged", action="store_true", help="leave that reference out")
    measure_all(parser.parse_args())


if __name__ == "__main__":
    main()
