"""Write the tables of steps, guidance and samplers on the card of `emoji`, and their plot.

python scripts/measure_few_steps.py --steps 8 --cfg 1 1.5    # each group of rows
python scripts/make_few_steps_page.py
python scripts/make_few_steps_page.py --check    # exit code 1 if the tables are out of date

The rows are those of benchmarks/results/few-steps.jsonl. Rates have Wilson's interval of 95 %. The
distances are the root mean square of those of the images: from the default setting with the same
noise, and from the converged trajectory with the same guidance, over the chunks whose rows have it,
if they are enough. The variety of seeds is a share of that of the default setting. "In one only"
says how many compositions are right by a setting alone, and how many by the default alone. The time
is that of the process, per image of a chunk drawn at once, decoder included. A setting without all
chunks is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measure_few_steps import BASE, CHUNKS, PER_KIND, RESULTS, Setting, read_rows
from page_tables import fill_tables, table

from ldmref.datasets.emoji.scene_dataset import SHARES
from ldmref.evaluate.intervals import proportion

ROOT = Path(__file__).parents[1]
CARD = ROOT / "ldmref" / "assets" / "emoji" / "README.md"
PLOT = ROOT / "docs" / "images" / "few-steps.webp"
DEFAULT = Setting(BASE, 20, 2.5, "dpmpp_2m")
SAMPLERS = {"ddim": "DDIM", "unipc": "UniPC"}
SCENES = PER_KIND * len(SHARES)  # of a chunk; its words follow
CONVERGED_CHUNKS = 10  # least number of chunks for the distance from the converged trajectory
LEAST_EVALUATIONS = 4  # of the map's largest setting: what the map is compared with has no more
COLUMNS = (
    "| | evaluations | compositions | in one only | words | distance | of words "
    "| from the converged | variety | time |"
)
Row = Mapping[str, Any]
Groups = Mapping[Setting, Sequence[Row]]


# -- numbers of a setting --------------------------------------------------------------------------


def group(rows: Iterable[Row], chunks: int = CHUNKS) -> dict[Setting, list[Row]]:
    """Return the rows of each setting that has all chunks, in their order."""
    found: dict[Setting, dict[int, Row]] = {}
    for row in rows:
        found.setdefault(Setting(*row["setting"]), {})[row["chunk"]] = row
    return {
        setting: [by_chunk[number] for number in sorted(by_chunk)]
        for setting, by_chunk in sorted(found.items())
        if set(by_chunk) == {*range(chunks)}
    }


def is_map(setting: Setting) -> bool:
    """Return whether the images are those of the flow map."""
    return setting.model != BASE


def evaluations(setting: Setting) -> int:
    """Return the evaluations of the network for an image; guidance takes two a step."""
    return setting.steps * (1 if is_map(setting) or setting.cfg == 1.0 else 2)


def rms(rows: Iterable[Row], key: str, part: slice = slice(None)) -> float:
    """Return the root of the mean of a list of the rows."""
    return float(np.sqrt(np.mean([value for row in rows for value in row[key][part]])))


def verdicts_of(rows: Iterable[Row], key: str) -> np.ndarray:
    """Return all verdicts of rows."""
    return np.asarray([value for row in rows for value in row[key]], bool)


def rate(verdicts: np.ndarray) -> str:
    """Format a rate with Wilson's interval of 95 %."""
    found = proportion(verdicts)
    return f"{verdicts.mean():.1%} ({found.low:.1%} to {found.high:.1%})"


def compare(rows: Sequence[Row], others: Sequence[Row]) -> str:
    """Return how many compositions are right in one of two settings only."""
    if rows is others:
        return ""
    ours, theirs = verdicts_of(rows, "right"), verdicts_of(others, "right")
    return f"{(ours & ~theirs).sum()}, {(theirs & ~ours).sum()}"


# -- tables ----------------------------------------------------------------------------------------


def name_of(setting: Setting) -> str:
    """Return what a setting is called in the tables."""
    steps = f"{setting.steps} step{'s' * (setting.steps != 1)}"
    if is_map(setting):
        return f"map, {steps}"
    guided = "no guidance" if setting.cfg == 1.0 else f"guidance {setting.cfg:g}"
    sampler = SAMPLERS.get(setting.sampler)
    return f"{steps}, {guided}" + (f", {sampler}" if sampler else "")


def cells_of(setting: Setting, groups: Groups) -> tuple[object, ...]:
    """Return the cells of a setting in a table with `COLUMNS`."""
    rows, default = groups[setting], groups[DEFAULT]
    near = [row for row in rows if row["to_converged"] is not None]
    variety = rms(rows, "between_seeds") / rms(default, "between_seeds")
    return (
        name_of(setting),
        evaluations(setting),
        rate(verdicts_of(rows, "right")),
        compare(rows, default),
        rate(verdicts_of(rows, "words")),
        f"{rms(rows, 'to_default', slice(SCENES)):.3f}",
        f"{rms(rows, 'to_default', slice(SCENES, None)):.3f}",
        f"{rms(near, 'to_converged', slice(SCENES)):.3f}" if len(near) >= CONVERGED_CHUNKS else "",
        f"{variety:.0%}",
        f"{1000 * np.mean([row['cpu_seconds'] for row in rows]):.0f} ms",
    )


def order(setting: Setting) -> tuple[object, ...]:
    """Return what settings are sorted by: the default, the map, then by guidance and steps."""
    other_sampler = setting.sampler in SAMPLERS and not is_map(setting)
    distance = abs(setting.cfg - DEFAULT.cfg)
    return setting != DEFAULT, not is_map(setting), other_sampler, distance, -setting.steps


def make_map_table(groups: Groups) -> str:
    """Return the table of the map and of the settings with as few evaluations."""
    kept = [s for s in groups if s == DEFAULT or evaluations(s) <= LEAST_EVALUATIONS]
    return table(COLUMNS, (cells_of(s, groups) for s in sorted(kept, key=order)))


def make_settings_table(groups: Groups) -> str:
    """Return the table of steps, guidance and samplers."""
    kept = [s for s in groups if s == DEFAULT or evaluations(s) > LEAST_EVALUATIONS]
    return table(COLUMNS, (cells_of(s, groups) for s in sorted(kept, key=order)))


def make_kinds_table(groups: Groups) -> str:
    """Return the share of right compositions of each kind in percent, for all settings."""
    kinds = [kind for kind in SHARES for _ in range(PER_KIND)]
    cells = []
    for setting in sorted(groups, key=order):
        right = np.asarray([row["right"] for row in groups[setting]], float)
        shares = [right[:, [k == kind for k in kinds]].mean() for kind in SHARES]
        cells.append((name_of(setting), *(f"{100 * share:.0f}" for share in shares)))
    return table(f"| | {' | '.join(SHARES)} |", cells)


# -- the plot --------------------------------------------------------------------------------------


def label_of(setting: Setting) -> str:
    """Return the label of a setting's line."""
    if is_map(setting):
        return "flow map"
    sampler = SAMPLERS.get(setting.sampler)
    guided = "no guidance" if setting.cfg == 1.0 else f"guidance {setting.cfg:g}"
    return guided + (f", {sampler}" if sampler else "")


def draw_plot(groups: Groups) -> Any:
    """Return the plot of what each setting gives against the evaluations that it takes."""
    from matplotlib.figure import Figure

    default = groups[DEFAULT]
    base = rms(default, "between_seeds")
    lines: dict[str, list[Setting]] = {}
    for setting in sorted(groups, key=evaluations):
        lines.setdefault(label_of(setting), []).append(setting)
    panels: list[tuple[str, Callable[[Sequence[Row]], float]]] = [
        ("compositions right, %", lambda rows: 100 * verdicts_of(rows, "right").mean()),
        ("words right, %", lambda rows: 100 * verdicts_of(rows, "words").mean()),
        ("distance from the default", lambda rows: rms(rows, "to_default", slice(SCENES))),
        ("variety of seeds, %", lambda rows: 100 * rms(rows, "between_seeds") / base),
    ]
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    for axis, (title, value) in zip(axes.flat, panels, strict=True):
        for label, settings in lines.items():
            style = "x" if "," in label else "o-"
            x = [evaluations(setting) for setting in settings]
            y = [value(groups[setting]) for setting in settings]
            axis.plot(x, y, style, label=label, markersize=5)
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
    shown = axes[0, 1].get_legend_handles_labels()
    figure.legend(*shown, fontsize=9, loc="outside lower center", ncols=5)
    scenes = f"{len(default) * SCENES:,} held-out compositions"
    figure.suptitle(f"{scenes}; gray: the default's interval of 95 %")
    return figure


TABLES = {"map": make_map_table, "settings": make_settings_table, "kinds": make_kinds_table}


def fill(text: str, groups: Groups) -> str:
    """Return the text of the card with its tables."""
    return fill_tables(text, {name: partial(make, groups) for name, make in TABLES.items()})


def main() -> int:
    groups = group(read_rows(RESULTS))
    text = fill(CARD.read_text("utf-8"), groups)
    if "--check" in sys.argv[1:]:
        return CARD.read_text("utf-8") != text
    CARD.write_text(text, "utf-8")
    draw_plot(groups).savefig(PLOT, dpi=100)
    return 0


if __name__ == "__main__":
    sys.exit(main())
