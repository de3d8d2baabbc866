"""Measurements as terminal text and plots."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.machine import machine_info
from ldmref.errors import BackendUnavailable, OutputError, UsageError
from ldmref.io.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class OutputFiles:
    """The --json and --plot files; both are checked before anything is measured."""

    def __init__(self, json_file: str | None, plot_file: str | None, overwrite: bool):
        self.json = Path(json_file) if json_file else None
        self.plot = Path(plot_file) if plot_file else None
        self.overwrite = overwrite
        for path in filter(None, (self.json, self.plot)):
            if os.path.lexists(path) and not overwrite:
                raise OutputError(f"{str(path)!r} exists", code="E-EXISTS", hint="add --overwrite")
            if not path.absolute().parent.is_dir():
                raise OutputError(f"no folder {str(path.parent)!r}", code="E-FOLDER")
        if self.plot:
            if self.plot.suffix.lower() not in (".png", ".svg", ".pdf"):
                raise UsageError(
                    f"cannot plot into {str(self.plot)!r}",
                    code="E-FORMAT",
                    hint="a plot's name ends in .png, .svg or .pdf",
                )
            require_matplotlib()

    def write(self, report: dict[str, Any], plot: Callable[..., None], data: object) -> None:
        """Write `report` with time and machine to the JSON file, and plot `data` unless empty."""
        if self.json:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            report = {"time": now, "machine": machine_info()} | report
            with atomic_write(self.json, overwrite=self.overwrite) as file:
                file.write(json.dumps(report, indent=1).encode() + b"\n")
        if self.plot and data:
            plot(data, self.plot, overwrite=self.overwrite)


def format_quantity(value: float, unit: str) -> str:
    """Format seconds or bytes in a unit of suitable size.

    >>> format_quantity(0.0123, "s"), format_quantity(3.5, "s"), format_quantity(2**30, "B")
    ('12.3 ms', '3.5 s', '1.00 GiB')
    """
    if unit == "B":
        small = value < 2**30
        return f"{value / 2**20:.0f} MiB" if small else f"{value / 2**30:.2f} GiB"
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def format_time(measured: Mapping[str, Any]) -> str:
    """Format the line of one piece of work."""
    median, low, high = (format_quantity(measured[key], "s") for key in ("seconds", "min", "max"))
    rounds = f"({low} to {high}, {len(measured['values'])} rounds)"
    share = measured["share"]
    peak = "" if share is None else f", {share:.0%} of the peak"
    rate = f"{measured['gflops']:.1f} GFLOP/s{peak}"
    return f"{measured['title']} on {measured['backend']}\n  {median} {rounds}, {rate}"


def format_profile(profile: Mapping[str, Any], limit: int = 25) -> list[str]:
    """Return tables by kind, by kind and shape, and by layer; the last two of `limit` lines."""
    seconds = profile["seconds"]
    flops = profile["flops"]
    lines = [
        f"{profile['title']} on {profile['backend']}: {format_quantity(seconds, 's')}, "
        f"{flops / 1e9:.4g} GFLOP, {flops / seconds / 1e9:.1f} GFLOP/s"
    ]
    for table, label in (("kinds", "operation"), ("shapes", "operation"), ("layers", "layer")):
        shown = len(profile[table]) if table == "kinds" else limit
        lines.append(f"\n{'share':>6} {'time':>9} {'calls':>6} {'GFLOP/s':>8}  {label}")
        for line in profile[table][:shown]:
            gflops = f"{line['gflops']:8.1f}" if line["gflops"] else " " * 8
            lines.append(
                f"{line['share']:6.1%} {format_quantity(line['seconds'], 's'):>9} "
                f"{line['calls']:6} {gflops}  {line['name']} {line['shapes']}".rstrip()
            )
        if len(profile[table]) > shown:
            lines.append(f"... and {len(profile[table]) - shown} more; all are in --json")
    return lines


def format_scaling_point(point: Mapping[str, Any]) -> str:
    """Format one line of `--grow`."""
    variable = point["what"]
    exponent = point["exponent"]
    seconds, low, high = (format_quantity(point[key], "s") for key in ("seconds", "min", "max"))
    cost = "" if exponent is None else f"  cost ~ {variable}^{exponent:.2f}"
    return (
        f"{variable} {point['value']:>5}  {seconds:>9} ({low} to {high})  "
        f"{point['flops'] / 1e9:10.4g} GFLOP  {point['gflops']:8.1f} GFLOP/s{cost}"
    )


def require_matplotlib() -> Any:
    """Import matplotlib's figure module.

    Raises:
        BackendUnavailable: matplotlib is not installed.
    """
    try:
        return importlib.import_module("matplotlib.figure")
    except ImportError as error:
        message = "--plot needs matplotlib, which is not installed"
        hint = "pip install matplotlib, or leave --plot out and use --json"
        raise BackendUnavailable(message, code="E-PLOT", hint=hint) from error


def plot_times(times: Sequence[Mapping[str, Any]], path: Path, *, overwrite: bool = False) -> None:
    """Plot the median and the range of each piece of work."""
    medians = [found["seconds"] for found in times]
    errors = [
        [found["seconds"] - found["min"] for found in times],
        [found["max"] - found["seconds"] for found in times],
    ]
    figure, axes = bar_chart([found["work"] for found in times], medians, errors)
    axes.set_xlabel(f"seconds: {times[0]['model']} on {times[0]['backend']}")
    save_figure(figure, path, overwrite)


def plot_profile(profile: Mapping[str, Any], path: Path, *, overwrite: bool = False) -> None:
    """Plot the shares of the kinds of operation."""
    lines = profile["kinds"]
    figure, axes = bar_chart([x["name"] for x in lines], [100 * x["share"] for x in lines])
    axes.set_xlabel(f"% of {profile['seconds']:.3g} s: {profile['title']}, {profile['backend']}")
    save_figure(figure, path, overwrite)


def plot_scaling(
    points: Sequence[Mapping[str, Any]], path: Path, *, overwrite: bool = False
) -> None:
    """Plot seconds over the value on logarithmic axes, with linear growth for comparison."""
    figure = require_matplotlib().Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    first = points[0]
    values = [point["value"] for point in points]
    label = f"{first['model']} on {first['backend']}"
    axes.loglog(values, [point["seconds"] for point in points], "o-", label=label)
    linear = [first["seconds"] * value / first["value"] for value in values]
    axes.loglog(values, linear, ":", color="grey", label="proportional")
    axes.set_xlabel(first["what"])
    axes.set_ylabel("seconds")
    axes.set_xticks(values, list(map(str, values)), minor=False)
    axes.legend()
    save_figure(figure, path, overwrite)


def bar_chart(
    names: Sequence[str], values: Sequence[float], errors: Sequence[Sequence[float]] | None = None
) -> tuple[Any, Any]:
    """Make a figure and axes with one horizontal bar per name, from the top."""
    size = (8, 1 + 0.45 * len(names))
    figure = require_matplotlib().Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    positions = list(range(len(names)))
    label = "median, min to max" if errors else None
    axes.barh(positions, values, xerr=errors, color="#7aa6c2", label=label)
    axes.set_yticks(positions, names)
    axes.invert_yaxis()
    return figure, axes


def save_figure(figure: Figure, path: Path, overwrite: bool) -> None:
    """Write a figure in the format that the name of the file says."""
    with atomic_write(path, overwrite=overwrite) as file:
        figure.savefig(file, format=path.suffix.lstrip(".").lower(), dpi=120)
