"""Write the tables of docs/targets.md, and its plot, from benchmarks/results/targets.jsonl.

python scripts/compare_targets.py row unet v --seed 0     # each row of the tables
python scripts/compare_targets.py limits
python scripts/make_targets_page.py
python scripts/make_targets_page.py --check    # exit code 1 if the tables are out of date

Rows of the same network, target and budget with other seeds are one line. Its intervals are
bootstrapped: prompts are drawn with replacement, the same for all seeds of a line and for both
lines of a difference; shares have Wilson's interval over prompts and seeds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from compare_targets import CHECKS, RESULTS, RowName, read_rows
from page_tables import fill_tables, table

from ldmref.evaluate.intervals import proportion

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "targets.md"
PLOT = ROOT / "docs" / "images" / "targets.png"
REFERENCE = ("unet", "v")
NAMES = {"unet": "U-Net", "mmdit": "MMDiT"}
COLOURS = {"eps": "#D55E00", "v": "#0072B2", "flow": "#009E73"}
DRAWS = 2000  # of the bootstrap
Row = dict[str, Any]
Line = tuple[str, str]  # network and target


def group(rows: Sequence[Row]) -> dict[int, dict[Line, list[Row]]]:
    """Return the rows of each budget, by network and target, those with all of the same length."""
    budgets: dict[int, dict[Line, list[Row]]] = {}
    for row in rows:
        if "row" in row:
            name = RowName(*row["row"])
            budgets.setdefault(name.steps, {}).setdefault((name.network, name.target), []).append(
                row
            )
    for lines in budgets.values():
        for line in lines.values():
            line.sort(key=lambda row: RowName(*row["row"]).seed)
    return dict(sorted(budgets.items()))


def bootstrap(
    values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]
) -> tuple[float, float]:
    """Return the 95 % interval of a statistic of numbers by prompt, (n,) -> a number."""
    rng = np.random.default_rng(0)
    draws = values[rng.integers(0, len(values), (DRAWS, len(values)))]
    low, high = np.quantile(statistic(draws), (0.025, 0.975))
    return float(low), float(high)


def mean_of(rows: Sequence[Row], key: str) -> np.ndarray:
    """Return a number of each prompt, the mean over the seeds, (n,)."""
    return np.mean([row[key] for row in rows], axis=0)


def format_nats(rows: Sequence[Row], reference: Sequence[Row] | None) -> tuple[str, str, str]:
    """Return the bound of each seed, their mean, and its difference from the reference."""
    nats = mean_of(rows, "nats")
    seeds = ", ".join(f"{np.mean(row['nats']):.4f}" for row in rows)
    if reference is None or reference is rows:
        return seeds, f"{nats.mean():.4f}", ""
    common = {RowName(*row["row"]).seed for row in rows}
    common &= {RowName(*row["row"]).seed for row in reference}
    ours, theirs = (
        mean_of([row for row in some if RowName(*row["row"]).seed in common], "nats")
        for some in (rows, reference)
    )
    difference = ours - theirs
    low, high = bootstrap(difference, lambda draws: draws.mean(axis=1))
    return seeds, f"{nats.mean():.4f}", f"{difference.mean():+.4f} ({low:+.4f} to {high:+.4f})"


def format_share(rows: Sequence[Row], key: str, interval: bool = False) -> str:
    """Return the share of right images, over prompts and seeds."""
    found = proportion(np.concatenate([row[key] for row in rows]))
    share = f"{found.mean:.0%}"
    return f"{share} ({found.low:.1%} to {found.high:.1%})" if interval else share


def format_rms(rows: Sequence[Row]) -> str:
    """Return the distance from the converged latents."""
    squares = mean_of(rows, "squares")
    low, high = bootstrap(squares, lambda draws: np.sqrt(draws.mean(axis=1)))
    return f"{np.sqrt(squares.mean()):.4f} ({low:.4f} to {high:.4f})"


def format_time(rows: Sequence[Row], key: str) -> str:
    """Return the least of the processor times of the seeds."""
    times = [row[key] for row in rows if row[key] is not None]
    return f"{min(times):.1f}" if times else "-"


def make_table(lines: dict[Line, list[Row]]) -> str:
    """Return the table of a budget."""
    first = ("network", "target", "nats of each seed", "mean", "against U-Net, v", "right", *CHECKS,
             "rms of 20 steps")  # fmt: skip
    reference = lines.get(REFERENCE)
    rows = [
        (
            NAMES[network],
            target,
            *format_nats(found, reference),
            format_share(found, "right", interval=True),
            *(format_share(found, check) for check in CHECKS),
            format_rms(found),
        )
        for (network, target), found in ordered(lines)
    ]
    return table(f"| {' | '.join(first)} |", rows)


def ordered(lines: dict[Line, list[Row]]) -> list[tuple[Line, list[Row]]]:
    """Return the lines, the networks and targets in the order of the page."""
    places = [(network, target) for network in NAMES for target in COLOURS]
    return sorted(lines.items(), key=lambda item: places.index(item[0]))


def make_results(rows: Sequence[Row]) -> str:
    """Return a table for each budget, the largest first."""
    parts = []
    for steps, lines in reversed(group(rows).items()):
        parts += [f"{steps:,} steps of training:", make_table(lines)]
    return "\n\n".join(parts)


def make_limits(rows: Sequence[Row]) -> str:
    """Return the shares of the autoencoder's images of the right and of a wrong scene."""
    names = {"ceiling": "of the prompt's scene", "floor": "of another scene of its kind"}
    cells = [
        (name, *(format_share([row["limits"][key]], check) for check in ("right", *CHECKS)))
        for row in rows
        if "limits" in row
        for key, name in names.items()
    ]
    return table(f"| images | right | {' | '.join(CHECKS)} |", cells)


def make_costs(rows: Sequence[Row]) -> str:
    """Return the sizes and times of both networks, over all rows."""
    heading = (
        "| network | parameters | an evaluation | time of an evaluation | of a training step |"
    )
    cells = []
    for network, name in NAMES.items():
        found = [row for row in rows if "row" in row and RowName(*row["row"]).network == network]
        if found:
            cells.append(
                (
                    name,
                    f"{found[0]['parameters']:,}",
                    f"{1000 * found[0]['gigaflops']:.0f} MFLOP",
                    f"{format_time(found, 'evaluation_ms')} ms",
                    f"{format_time(found, 'step_ms')} ms",
                )
            )
    return table(heading, cells)


def draw_plot(rows: Sequence[Row]) -> Any:
    """Return the plot of the largest budget: nats by level, and as a share of those of U-Net, v."""
    from matplotlib.figure import Figure

    lines = list(group(rows).values())[-1]
    base = mean_of(lines[REFERENCE], "by_level")
    figure = Figure(figsize=(9, 3.4), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    for (network, target), found in ordered(lines):
        style = {"color": COLOURS[target], "linestyle": "-" if network == "unet" else "--"}
        label = f"{NAMES[network]}, {target}"
        left.plot(found[0]["levels"], mean_of(found, "by_level"), label=label, **style)
        right.plot(found[0]["levels"], mean_of(found, "by_level") / base, **style)
    left.set_ylabel("nats per dimension and unit of log-SNR")
    right.set_ylabel("as a share of U-Net, v")
    right.set_yscale("log")
    left.legend(fontsize=8)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("noise level sigma")
        axes.grid(alpha=0.3)
    return figure


TABLES = {"results": make_results, "limits": make_limits, "costs": make_costs}


def fill(text: str, rows: Sequence[Row]) -> str:
    """Return the text of the page with its tables."""
    return fill_tables(text, {name: partial(make, rows) for name, make in TABLES.items()})


def main() -> int:
    rows = read_rows(RESULTS)
    text = fill(PAGE.read_text("utf-8"), rows)
    if "--check" in sys.argv[1:]:
        return PAGE.read_text("utf-8") != text
    PAGE.write_text(text, "utf-8")
    draw_plot(rows).savefig(PLOT, metadata={"Software": None})
    return 0


if __name__ == "__main__":
    sys.exit(main())
