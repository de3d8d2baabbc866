"""Measure what steps, guidance and samplers are worth: the table behind the defaults of a model.

    python scripts/measure_few_steps.py measure rows.jsonl --prompts 1000 --steps 1 2 4 8 20 \\
        --cfg 1 1.5 2.5 --sampler ddim dpmpp_2m
    python scripts/measure_few_steps.py measure rows.jsonl --model runs/distill/model --steps 1 2 4
    python scripts/measure_few_steps.py table rows.jsonl
    python scripts/measure_few_steps.py plot rows.jsonl -o docs/images/few-steps.webp

A row is one setting on one chunk: two held-out compositions of each of the ten kinds, and four
single words with two seeds each. Rows are appended to a file of JSON lines, and those that it holds
are not measured again, so a run may be stopped, and a larger one continues it. For each image a row
holds whether it is right (`composition_oracle.py`; for a word, whether an emoji of that name is
among the five nearest), and the mean squared distance of its latents from those of two references
with the same noise: the default setting of the base, and the converged run of `CONVERGED` steps
with the guidance of the row. The two seeds of a word give the distance between seeds.

The table has Wilson's intervals, the root mean square of the distances (from the converged run over
the chunks that were measured without `--no-converged`), and the variety of seeds as
a share of that of the default setting. For the chunks that a setting has in common with the
default, it says how many compositions are right in one of the two only, with the probability of the
sign test. The time is that of the process, per image of a chunk drawn at once, decoder included.

The script needs the Debian package fonts-noto-color-emoji.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from composition_oracle import judge
from evaluate_compositions import scenes_and_prompts
from evaluate_emoji import thumbnail
from scipy.stats import binomtest

import ldmref
from ldmref import modes
from ldmref.datasets.emoji.emoji_dataset import STOP_WORDS
from ldmref.datasets.emoji.font import emoji_list, render
from ldmref.datasets.emoji.scene_dataset import SHARES
from ldmref.evaluate.intervals import proportion
from ldmref.models.model import LatentDiffusion

PER_KIND, WORDS, SEEDS = 2, 4, (1, 2)  # of a chunk
CONVERGED = 100
NEAREST = 5
COLUMNS = (
    "compositions", "right", "against the default", "words", "rms to the default",
    "rms to the default, words", "rms to the converged", "variety", "CPU ms",
)  # fmt: skip


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
def compositions(chunks: int) -> dict[str, tuple[list[Any], list[str]]]:
    """Return scenes and prompts of each kind for a number of chunks."""
    return {kind: scenes_and_prompts(kind, PER_KIND * chunks) for kind in SHARES}


@cache
def single_words() -> list[str]:
    """Return the words that occur in two to twelve names, in random order."""
    emoji = [e for e in emoji_list() if not e.has_skin_tone]
    counts = Counter(word for e in emoji for word in set(e.words))
    words = sorted(w for w, n in counts.items() if 2 <= n <= 12 and w not in STOP_WORDS)
    return np.random.default_rng(0).permutation(words).tolist()


def make_chunk(number: int, chunks: int) -> Chunk:
    """Return a chunk; `chunks` is their number in all."""
    part = slice(number * PER_KIND, (number + 1) * PER_KIND)
    found = [(scenes[part], prompts[part]) for scenes, prompts in compositions(chunks).values()]
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
    verdicts = [bool(judge(p, s).right) for p, s in zip(pixels[:count], chunk.scenes, strict=True)]
    words = zip(made.images[count:], chunk.prompts[count:], strict=True)
    distances = [np.mean((made.latents - ref) ** 2, axis=(1, 2, 3)) for ref in references]
    pairs = made.latents[count:].reshape(len(chunk.words), len(SEEDS), -1)
    return {
        "right": verdicts,
        "words": [shows_word(image, word) for image, word in words],
        "to_default": distances[0].tolist(),
        "to_converged": distances[1].tolist() if len(distances) > 1 else None,
        "between_seeds": np.mean((pairs[:, 0] - pairs[:, 1]) ** 2, axis=1).tolist(),
        "cpu_seconds": seconds / len(chunk.prompts),
    }


def reference(
    base: LatentDiffusion, chunk: Chunk, number: int, setting: Setting, folder: Path
) -> np.ndarray:
    """Return the latents of a setting of the base, stored beside the rows."""
    name = f"{setting.sampler}-{setting.steps}-{setting.cfg:g}-{number}.npy"
    path = folder / name
    if not path.exists():
        folder.mkdir(exist_ok=True)
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
    chunks = args.chunks or -(-args.prompts // (PER_KIND * len(SHARES)))
    known = {(*Setting(*row["setting"]), row["chunk"]) for row in read_rows(args.rows)}
    folder = args.rows.with_suffix("")
    for number in range(chunks):
        chunk = make_chunk(number, max(chunks, args.of_chunks))
        for setting in settings:
            if (*setting, number) in known:
                continue
            converged = Setting(start.model, CONVERGED, setting.cfg, own)
            used = (start,) if args.no_converged else (start, converged)
            references = [reference(base, chunk, number, ref, folder) for ref in used]
            row = {"setting": setting, "chunk": number} | measure(model, chunk, setting, references)
            with open(args.rows, "a") as file:
                file.write(json.dumps(row) + "\n")
            print(*setting, "chunk", number, flush=True)


# -- the table -------------------------------------------------------------------------------------


def rms(rows: Sequence[dict[str, Any]], key: str, part: slice = slice(None)) -> float:
    """Return the root of the mean of a list of the rows."""
    return float(np.sqrt(np.mean([value for row in rows for value in row[key][part]])))


def verdicts_of(rows: Sequence[dict[str, Any]], key: str) -> np.ndarray:
    """Return all verdicts of rows in the order of their chunks."""
    ordered = sorted(rows, key=lambda row: row["chunk"])
    return np.asarray([value for row in ordered for value in row[key]], bool)


def rate(verdicts: np.ndarray) -> str:
    """Format a rate with Wilson's interval of 95 %."""
    found = proportion(verdicts)
    return f"{verdicts.mean():.1%} ({found.low:.1%} to {found.high:.1%})"


def compare(rows: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> str:
    """Return how many compositions are right in one of two settings only, and a sign test."""
    common = {row["chunk"] for row in rows} & {row["chunk"] for row in others}
    ours, theirs = (
        verdicts_of([row for row in some if row["chunk"] in common], "right")
        for some in (rows, others)
    )
    more, less = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    p = binomtest(more, more + less).pvalue if more + less else 1.0
    return f"+{more} -{less} (p = {p:.2g})"


def group_rows(paths: Sequence[Path]) -> dict[Setting, list[dict[str, Any]]]:
    """Return the rows of files by setting; the first of two rows of the same chunk counts."""
    groups: dict[Setting, dict[int, dict[str, Any]]] = {}
    for path in paths:
        for row in read_rows(path):
            groups.setdefault(Setting(*row["setting"]), {}).setdefault(row["chunk"], row)
    return {setting: [*rows.values()] for setting, rows in groups.items()}


def rows_of_default(groups: dict[Setting, list[dict[str, Any]]], name: str) -> list[dict[str, Any]]:
    """Return the rows of the setting that others are compared with, "model,steps,cfg,sampler"."""
    return groups[{",".join(map(str, setting)): setting for setting in groups}[name]]


def print_table(args: argparse.Namespace) -> None:
    """Print the table of files of rows, and the rates of each kind below it."""
    groups = group_rows(args.rows)
    default = rows_of_default(groups, args.default)
    base = rms(default, "between_seeds")
    count = PER_KIND * len(SHARES)
    kinds = [kind for kind in SHARES for _ in range(PER_KIND)]
    print("| " + " | ".join([*Setting._fields, *COLUMNS]) + " |")
    print("|" + "---|" * (len(Setting._fields) + len(COLUMNS)))
    for setting, rows in sorted(groups.items()):
        right = verdicts_of(rows, "right")
        near = [row for row in rows if row["to_converged"] is not None]
        cells = [
            *(f"{value}" for value in setting),
            f"{len(right)}",
            rate(right),
            compare(rows, default),
            rate(verdicts_of(rows, "words")),
            f"{rms(rows, 'to_default', slice(count)):.3f}",
            f"{rms(rows, 'to_default', slice(count, None)):.3f}",
            f"{rms(near, 'to_converged'):.3f} ({len(near)} chunks)" if near else "-",
            f"{rms(rows, 'between_seeds') / base:.0%}",
            f"{1000 * np.mean([row['cpu_seconds'] for row in rows]):.0f}",
        ]
        print("| " + " | ".join(cells) + " |")
    print("\n| " + " | ".join([*Setting._fields, *SHARES]) + " |")
    print("|" + "---|" * (len(Setting._fields) + len(SHARES)))
    for setting, rows in sorted(groups.items()):
        by_kind = np.asarray([row["right"] for row in rows])
        shares = [f"{by_kind[:, [k == kind for k in kinds]].mean():.0%}" for kind in SHARES]
        print("| " + " | ".join([*(f"{value}" for value in setting), *shares]) + " |")


# -- the plot --------------------------------------------------------------------------------------


def evaluations(setting: Setting, is_map: bool) -> int:
    """Return the evaluations of the network for an image; guidance takes two a step."""
    return setting.steps * (1 if is_map or setting.cfg == 1.0 else 2)


def draw_plot(args: argparse.Namespace) -> None:
    """Draw what each setting gives against the evaluations of the network that it takes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = group_rows(args.rows)
    default = rows_of_default(groups, args.default)
    chunks = len(default)
    groups = {setting: rows for setting, rows in groups.items() if len(rows) >= args.least}
    base = rms(default, "between_seeds")
    count = PER_KIND * len(SHARES)
    lines: dict[str, list[tuple[int, list[dict[str, Any]]]]] = {}
    for setting, rows in sorted(groups.items()):
        is_map = setting.model != default[0]["setting"][0]
        label = "flow map" if is_map else f"guidance {setting.cfg:g}"
        if not is_map and setting.sampler != default[0]["setting"][3]:
            label += f", {setting.sampler}"
        lines.setdefault(label, []).append((evaluations(setting, is_map), rows))
    panels = [
        ("compositions right, %", lambda r: 100 * verdicts_of(r, "right").mean()),
        ("words right, %", lambda r: 100 * verdicts_of(r, "words").mean()),
        ("distance from the default", lambda r: rms(r, "to_default", slice(count))),
        ("variety of seeds, %", lambda r: 100 * rms(r, "between_seeds") / base),
    ]
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), sharex=True, layout="constrained")
    for axis, (title, value) in zip(axes.flat, panels, strict=True):
        for label, points in lines.items():
            found = [(n, value(rows)) for n, rows in sorted(points, key=lambda point: point[0])]
            style = "o-" if "," not in label else "x"
            axis.plot(*zip(*found, strict=True), style, label=label, markersize=5)
        axis.set_title(title, fontsize=11)
        axis.set_xscale("log", base=2)
        axis.grid(alpha=0.3)
    for axis, key in zip(axes[0], ("right", "words"), strict=True):
        found = proportion(verdicts_of(default, key))
        axis.axhspan(100 * found.low, 100 * found.high, alpha=0.12, color="gray")
    ticks = [1, 2, 4, 8, 16, 40]
    for axis in axes[1]:
        axis.set_xlabel("evaluations of the network")
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axes[0, 1].legend(fontsize=9, loc="lower right")
    prompts = chunks * count
    figure.suptitle(f"{prompts} held-out compositions; gray: the default's interval of 95 %")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("measure", help="append rows")
    one.add_argument("rows", type=Path)
    one.add_argument("--model", default="emoji")
    one.add_argument("--name", default=None, help="of the model in the rows")
    one.add_argument("--base", default="emoji", help="the model of the references")
    one.add_argument("--baked", type=float, default=None, help="guidance of a flow map")
    one.add_argument("--backend", default="torch")
    one.add_argument("--prompts", type=int, default=1000, help="compositions in all")
    one.add_argument("--chunks", type=int, default=None, help="instead of --prompts")
    one.add_argument("--of-chunks", type=int, default=50, help="of which the chunks are the first")
    one.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8, 20])
    one.add_argument("--cfg", type=float, nargs="+", default=[1.0, 1.5, 2.5])
    one.add_argument("--sampler", nargs="+", default=None)
    one.add_argument("--no-converged", action="store_true", help="leave that reference out")
    one.set_defaults(function=measure_all)
    two = commands.add_parser("table", help="print the table")
    two.set_defaults(function=print_table)
    three = commands.add_parser("plot", help="draw the table")
    three.add_argument("-o", "--output", type=Path, required=True)
    three.add_argument("--least", type=int, default=50, help="chunks of a setting that is drawn")
    three.set_defaults(function=draw_plot)
    for command in (two, three):
        command.add_argument("rows", type=Path, nargs="+")
        command.add_argument(
            "--default", default="emoji-128,20,2.5,dpmpp_2m", help="compared with others"
        )
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
