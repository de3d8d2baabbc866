"""Results as terminal text, Markdown table and plot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import BenchmarkCase
from benchmarks.measured import bar_chart, format_quantity, save_figure

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


def plot_results(results: Sequence[CaseResult], path: Path, *, overwrite: bool = False) -> None:
    """Plot each case's median ratio and range with its target (|) and aim (x)."""
    ratios = [result["ratio"] for result in results]
    medians = [ratio["median"] for ratio in ratios]
    errors = [[r["median"] - r["min"] for r in ratios], [r["max"] - r["median"] for r in ratios]]
    figure, axes = bar_chart([result["name"] for result in results], medians, errors)
    for marker, goal in (("|", "target"), ("x", "aim")):
        values = [result[goal] for result in results]
        axes.scatter(values, range(len(values)), marker=marker, s=120, c="black", label=goal)
    axes.axvline(1.0, color="grey", linewidth=0.8)
    axes.set_xlabel("ldmref / peer: below 1, ldmref needs less")
    figure.legend(loc="outside upper center", ncols=3)
    save_figure(figure, path, overwrite)
