"""Benchmark results as terminal text, Markdown table and plots."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ldmref.bench.cases import BenchmarkCase
from ldmref.errors import BackendUnavailable
from ldmref.io.atomic import atomic_write

CaseResult = Mapping[str, Any]
VERDICTS = {"aim": "aim reached", "target": "target reached", "above": "not reached"}
TABLE_HEADER = (
    "| row | what | peer | target | aim | measured | rounds | ldmref | peer | verdict | date |",
    "|---|---|---|---|---|---|---|---|---|---|---|",
)


def verdict(result: CaseResult) -> str:
    """Return `aim` or `target`, whichever the median ratio reaches, otherwise `above`."""
    median = result["ratio"]["median"]
    target = result["target"]
    if median <= result["aim"]:
        return "aim"
    return "target" if target is not None and median <= target else "above"


def format_goals(target: float | None, aim: float) -> str:
    """Format target and aim in words.

    >>> format_goals(0.85, 0.7), format_goals(None, 1)
    ('target 0.85, aim 0.70', 'aim 1.00')
    """
    return f"aim {aim:.2f}" if target is None else f"target {target:.2f}, aim {aim:.2f}"


def format_quantity(value: float, unit: str) -> str:
    """Format seconds or bytes in a unit of suitable size.

    >>> format_quantity(0.0123, "s"), format_quantity(3.5, "s"), format_quantity(2**30, "B")
    ('12.3 ms', '3.5 s', '1.00 GiB')
    """
    if unit == "B":
        small = value < 2**30
        return f"{value / 2**20:.0f} MiB" if small else f"{value / 2**30:.2f} GiB"
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def format_result(result: CaseResult) -> list[str]:
    """Return the lines that are printed for a measured case."""
    ratio = result["ratio"]
    spread = f"{ratio['min']:.2f} to {ratio['max']:.2f}, {result['rounds']} rounds"
    goals = f"{format_goals(result['target'], result['aim'])}: {VERDICTS[verdict(result)]}"
    lines = [
        f"{result['name']}: {result['title']}",
        f"  ratio    {ratio['median']:.2f} ({spread}), {goals}",
        f"  least    {ratio['least']:.2f}, the ratio of the least measurements of both sides",
    ]
    names = {"ours": f"ldmref {result['backend']}", "theirs": result["peer_title"]}
    for side, name in names.items():
        samples = result[side]
        line = f"  {name:<32} {format_quantity(samples['median'], result['unit']):>10}"
        if "gflops" in samples:
            line += f" {samples['gflops']:8.1f} GFLOP/s"
        if samples.get("share"):
            line += f" {samples['share']:6.0%} of the peak"
        lines.append(line)
    peaks = ", ".join(f"{name} {gflops:.0f}" for name, gflops in result.get("peak", {}).items())
    if peaks:
        lines.append(f"  peak of matrix products here, GFLOP/s: {peaks}")
    lines.append(f"  outputs differ by {result['error']:.2g} (allowed {result['tolerance']:.2g})")
    return lines


def format_profile(profile: CaseResult, limit: int = 25) -> list[str]:
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


def format_scaling_point(point: CaseResult) -> str:
    """Format one line of `--grow`."""
    variable = point["what"]
    exponent = point["exponent"]
    seconds, low, high = (format_quantity(point[key], "s") for key in ("seconds", "min", "max"))
    cost = "" if exponent is None else f"  cost ~ {variable}^{exponent:.2f}"
    return (
        f"{variable} {point['value']:>5}  {seconds:>9} ({low} to {high})  "
        f"{point['flops'] / 1e9:10.4g} GFLOP  {point['gflops']:8.1f} GFLOP/s{cost}"
    )


def markdown_table(cases: Iterable[BenchmarkCase], results: Mapping[str, CaseResult]) -> str:
    """Return the table of docs/performance.md: every case, measured or not.

    `results` may hold the `time` of their measurement.
    """
    lines: list[str] = [*TABLE_HEADER]
    for case in cases:
        target = "" if case.target is None else f"{case.target:.2f}"
        cells = [f"`{case.name}`", case.title, case.peer_title, target, f"{case.aim:.2f}"]
        result = results.get(case.name)
        if result is None:
            cells += ["not measured", "", "", "", "", ""]
        else:
            ratio = result["ratio"]
            measured = f"**{ratio['median']:.2f}** ({ratio['min']:.2f} to {ratio['max']:.2f})"
            medians = [result[side]["median"] for side in ("ours", "theirs")]
            quantities = [format_quantity(median, result["unit"]) for median in medians]
            goals = {"target": case.target, "aim": case.aim}  # of today, not of the measurement
            cells += [measured, str(result["rounds"]), *quantities, verdict({**result, **goals})]
            cells.append(result.get("time", "")[:10])
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


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


def plot_results(results: Sequence[CaseResult], path: Path, *, overwrite: bool = False) -> None:
    """Plot each case's median ratio and range with its target (|) and aim (x)."""
    ratios = [result["ratio"] for result in results]
    medians = [ratio["median"] for ratio in ratios]
    errors = [[r["median"] - r["min"] for r in ratios], [r["max"] - r["median"] for r in ratios]]
    figure, axes = _bar_chart([result["name"] for result in results], medians, errors)
    for marker, goal in (("|", "target"), ("x", "aim")):
        values = [result[goal] for result in results]
        axes.scatter(values, range(len(values)), marker=marker, s=120, c="black", label=goal)
    axes.axvline(1.0, color="grey", linewidth=0.8)
    axes.set_xlabel("ldmref / peer: below 1, ldmref needs less")
    figure.legend(loc="outside upper center", ncols=3)
    _save(figure, path, overwrite)


def plot_profile(profile: CaseResult, path: Path, *, overwrite: bool = False) -> None:
    """Plot the shares of the kinds of operation."""
    lines = profile["kinds"]
    figure, axes = _bar_chart([x["name"] for x in lines], [100 * x["share"] for x in lines])
    axes.set_xlabel(f"% of {profile['seconds']:.3g} s: {profile['title']}, {profile['backend']}")
    _save(figure, path, overwrite)


def plot_scaling(points: Sequence[CaseResult], path: Path, *, overwrite: bool = False) -> None:
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
    _save(figure, path, overwrite)


def _bar_chart(
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


def _save(figure: Any, path: Path, overwrite: bool) -> None:
    with atomic_write(path, overwrite=overwrite) as file:
        figure.savefig(file, format=path.suffix.lstrip(".").lower(), dpi=120)
