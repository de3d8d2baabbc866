"""Measurements as pictures; needs matplotlib, which is optional."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldmref.errors import BackendUnavailable
from ldmref.io.atomic import atomic_write

Record = Mapping[str, Any]


def need_matplotlib() -> Any:
    """matplotlib's figure module.

    Raises:
        BackendUnavailable: it is not installed.
    """
    try:
        return importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise BackendUnavailable(
            "--plot needs matplotlib, which is not installed",
            code="E-PLOT",
            hint="pip install matplotlib, or leave --plot out and use --json",
        ) from error


def plot_rows(records: Sequence[Record], path: Path, *, overwrite: bool = False) -> None:
    """Each row's median ratio with its range, beside target (|) and aim (x)."""
    figure = need_matplotlib().Figure(figsize=(8, 1 + 0.45 * len(records)), layout="constrained")
    axes, places = figure.subplots(), list(range(len(records)))
    medians = [r["ratio"]["median"] for r in records]
    below = [m - r["ratio"]["min"] for m, r in zip(medians, records, strict=True)]
    above = [r["ratio"]["max"] - m for m, r in zip(medians, records, strict=True)]
    axes.barh(places, medians, xerr=[below, above], color="#7aa6c2", label="median, min to max")
    for mark, name in (("|", "target"), ("x", "aim")):
        axes.scatter([r[name] for r in records], places, marker=mark, s=120, c="black", label=name)
    axes.axvline(1.0, color="grey", linewidth=0.8)
    axes.set_yticks(places, [r["name"] for r in records])
    axes.invert_yaxis()
    axes.set_xlabel("ldmref / peer: below 1, ldmref needs less")
    figure.legend(loc="outside upper center", ncols=3)
    save(figure, path, overwrite)


def plot_growth(points: Sequence[Record], path: Path, *, overwrite: bool = False) -> None:
    """Seconds over the value that grows, both logarithmic, with a line proportional to it."""
    figure = need_matplotlib().Figure(figsize=(6, 4), layout="constrained")
    axes, first = figure.subplots(), points[0]
    values, seconds = [p["value"] for p in points], [p["seconds"] for p in points]
    title = f"{first['model']} on {first['backend']}"
    axes.loglog(values, seconds, "o-", label=title)
    straight = [first["seconds"] * value / first["value"] for value in values]
    axes.loglog(values, straight, ":", color="grey", label="proportional")
    axes.set_xlabel(first["what"])
    axes.set_ylabel("seconds")
    axes.set_xticks(values, list(map(str, values)), minor=False)
    axes.legend()
    save(figure, path, overwrite)


def plot_profile(found: Record, path: Path, *, overwrite: bool = False) -> None:
    """The shares of the kinds of operation."""
    lines = found["kinds"]
    figure = need_matplotlib().Figure(figsize=(7, 1 + 0.35 * len(lines)), layout="constrained")
    axes, places = figure.subplots(), list(range(len(lines)))
    axes.barh(places, [100 * line["share"] for line in lines], color="#7aa6c2")
    axes.set_yticks(places, [line["name"] for line in lines])
    axes.invert_yaxis()
    axes.set_xlabel(f"% of {found['seconds']:.3g} s: {found['title']}, {found['backend']}")
    save(figure, path, overwrite)


def save(figure: Any, path: Path, overwrite: bool) -> None:
    """Write a figure in the format of the file's ending."""
    with atomic_write(path, overwrite=overwrite) as file:
        figure.savefig(file, format=path.suffix.lstrip(".").lower(), dpi=120)
