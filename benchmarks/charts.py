"""The charts of docs/performance.md: the ratio of each row on every machine."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.cases import CASES, BenchmarkCase
from benchmarks.engines import ENGINES

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
from drawings.shapes import Drawing  # pyright: ignore[reportMissingImports]

sys.path.pop(0)

TICKS = (0.2, 0.5, 1.0, 2.0)
LEAST, MOST = 0.17, 4.0  # ends of the axis, which is logarithmic
LEFT, RIGHT = 186.0, 386.0  # of the axis, in units of the drawing
ROW = 24.0  # height of a row
SHIFT = 3.0  # between the machines of a row


class Look(NamedTuple):
    """How a machine is drawn."""

    tone: str
    hollow: bool


LOOKS = {
    "amd-zen5": Look("data", False),
    "amd-zen5-avx2": Look("data", True),
    "amd-zen4": Look("text", False),
    "amd-zen3": Look("noise", False),
    "amd-zen1": Look("noise", True),
    "intel-xeon": Look("red", False),
}
OTHER = Look("muted", False)


class Chart(NamedTuple):
    """One chart: the name of its file, its title, and its rows."""

    name: str
    title: str
    cases: tuple[BenchmarkCase, ...]


def make_charts(machines: Mapping[str, Mapping[str, Any]]) -> list[Chart]:
    """Return the charts, each with the rows that were measured somewhere.

    Args:
        machines: The results of each machine, by row.
    """
    measured = {name for results in machines.values() for name in results}
    kinds: dict[str, list[BenchmarkCase]] = {"networks": [], "small": [], "blocks": []}
    for case in CASES.values():
        if case.name in measured:
            kinds[kind_of(case)].append(case)
    titles = {
        "networks": "Networks of Stable Diffusion 1.5",
        "small": "The embedded model, engines and threads",
        "blocks": "Blocks of SD3 and Flux.1, and memory",
    }
    return [Chart(f"performance-{kind}", titles[kind], tuple(kinds[kind])) for kind in kinds]


def kind_of(case: BenchmarkCase) -> str:
    """Return the chart of a row."""
    if case.is_block or case.measured == "memory":
        return "blocks"
    small = case.model.startswith("emoji") or case.peer in (*ENGINES, "one_thread")
    return "small" if small else "networks"


def describe(chart: Chart) -> str:
    """Return the text of a chart for readers who do not see it."""
    return (
        f"{chart.title}: a dot for each row and machine, at the median of ldmref / peer on a "
        "logarithmic axis; left of 1, ldmref needs less."
    )


def draw_chart(chart: Chart, machines: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a chart as an SVG file.

    Args:
        chart: The chart.
        machines: The results of each machine, by row.
    """
    known = sorted(machines, key=[*LOOKS, *machines].index)
    shown = [name for name in known if any(case.name in machines[name] for case in chart.cases)]
    top = 44 + 20 * math.ceil(len(shown) / 2)
    bottom = top + ROW * len(chart.cases)
    drawing = Drawing(chart.title, describe(chart), bottom + 44)
    drawing.text(14, 24, chart.title, size=15, anchor="start", strong=True)
    for i, name in enumerate(shown):
        x, y = (20, 180)[i % 2], 44 + 20 * (i // 2)
        _mark(drawing, x, y, LOOKS.get(name, OTHER))
        drawing.text(x + 12, y + 4.5, name, anchor="start")
    for tick in TICKS:
        x = place(tick)
        drawing.curve([(x, top), (x, bottom)], "muted", thin=True, dashed=tick != 1.0)
        drawing.text(x, bottom + 17, f"{tick:g}", tone="muted")
    drawing.text((LEFT + RIGHT) / 2, bottom + 35, "ldmref / peer", tone="muted")
    for k, case in enumerate(chart.cases):
        y = top + ROW * (k + 0.5)
        drawing.text(LEFT - 10, y + 4.5, case.name, anchor="end")
        _draw_row(drawing, y, case.name, shown, machines)
    return drawing.svg(chart.name)


def _draw_row(
    drawing: Drawing,
    y: float,
    row: str,
    shown: Sequence[str],
    machines: Mapping[str, Mapping[str, Any]],
) -> None:
    """Draw the median and the range of a row on each machine."""
    found = [name for name in shown if row in machines[name]]
    for i, name in enumerate(found):
        ratio = machines[name][row]["ratio"]
        at = y + SHIFT * (i - (len(found) - 1) / 2)
        look = LOOKS.get(name, OTHER)
        ends = place(ratio["min"]), place(ratio["max"])
        if ends[1] - ends[0] > 1:
            drawing.curve([(ends[0], at), (ends[1], at)], look.tone, thin=True)
        _mark(drawing, place(ratio["median"]), at, look)


def _mark(drawing: Drawing, x: float, y: float, look: Look) -> None:
    drawing.dot(x, y, look.tone, radius=3.2, hollow=look.hollow)


def place(ratio: float) -> float:
    """Return where a ratio is on the axis.

    >>> place(LEAST), place(MOST)
    (186.0, 386.0)
    """
    share = math.log(ratio / LEAST) / math.log(MOST / LEAST)
    return LEFT + (RIGHT - LEFT) * share
