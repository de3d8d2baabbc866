"""Records as lines for a terminal, and as the table of docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ldmref.bench.rows import Row

Record = Mapping[str, Any]
REACHED = {"aim": "aim reached", "target": "target reached", "above": "not reached"}


def verdict(record: Record) -> str:
    """`aim`, `target`, or `above` where neither is reached; of the median ratio."""
    median, target = record["ratio"]["median"], record["target"]
    if median <= record["aim"]:
        return "aim"
    return "target" if target is not None and median <= target else "above"


def goals(target: float | None, aim: float) -> str:
    """Target and aim in words.

    >>> goals(0.85, 0.7), goals(None, 1)
    ('target 0.85, aim 0.70', 'aim 1.00')
    """
    return f"aim {aim:.2f}" if target is None else f"target {target:.2f}, aim {aim:.2f}"


def amount(value: float, unit: str) -> str:
    """Seconds or bytes with a fitting unit.

    >>> amount(0.0123, "s"), amount(3.5, "s"), amount(2**30, "B")
    ('12.3 ms', '3.5 s', '1.00 GiB')
    """
    if unit == "B":
        small = value < 2**30
        return f"{value / 2**20:.0f} MiB" if small else f"{value / 2**30:.2f} GiB"
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def text(record: Record) -> list[str]:
    """What is printed of a row."""
    ratio = record["ratio"]
    lines = [
        f"{record['name']}: {record['title']}",
        f"  ratio    {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}, "
        f"{record['rounds']} rounds), {goals(record['target'], record['aim'])}: "
        f"{REACHED[verdict(record)]}",
    ]
    names = {"ours": f"ldmref {record['backend']}", "theirs": record["peer_title"]}
    for side, name in names.items():
        line = f"  {name:<32} {amount(record[side]['median'], record['unit']):>10}"
        if "gflops" in record[side]:
            line += f" {record[side]['gflops']:8.1f} GFLOP/s"
        if record[side].get("share"):
            line += f" {record[side]['share']:6.0%} of the peak"
        lines.append(line)
    peak = ", ".join(f"{name} {rate:.0f}" for name, rate in record.get("peak", {}).items())
    if peak:
        lines.append(f"  peak of matrix products here, GFLOP/s: {peak}")
    return [
        *lines,
        f"  outputs differ by {record['error']:.2g} (allowed {record['tolerance']:.2g})",
    ]


def profile_text(found: Record, most: int = 25) -> list[str]:
    """A profile as tables by kind, by kind and shape, and by layer."""
    lines = [f"{found['title']} on {found['backend']}: {amount(found['seconds'], 's')}, "
             f"{found['flops'] / 1e9:.4g} GFLOP, "
             f"{found['flops'] / found['seconds'] / 1e9:.1f} GFLOP/s"]  # fmt: skip
    for title, what in (("kinds", "operation"), ("shapes", "operation"), ("layers", "layer")):
        lines.append(f"\n{'share':>6} {'time':>9} {'calls':>6} {'GFLOP/s':>8}  {what}")
        for line in found[title] if title == "kinds" else found[title][:most]:
            rate = f"{line['gflops']:8.1f}" if line["gflops"] else " " * 8
            lines.append(
                f"{line['share']:6.1%} {amount(line['seconds'], 's'):>9} {line['calls']:6} {rate}  "
                f"{line['name']} {line['shapes']}".rstrip()
            )
        left = len(found[title]) - most
        if title != "kinds" and left > 0:
            lines.append(f"... and {left} more; all are in --json")
    return lines


def point_text(point: Record) -> str:
    """One line of `--grow`."""
    grown = "" if point["exponent"] is None else f"  cost ~ {point['what']}^{point['exponent']:.2f}"
    return (
        f"{point['what']} {point['value']:>5}  {amount(point['seconds'], 's'):>9} "
        f"({amount(point['min'], 's')} to {amount(point['max'], 's')})  "
        f"{point['flops'] / 1e9:10.4g} GFLOP  {point['gflops']:8.1f} GFLOP/s{grown}"
    )


def markdown(rows: Iterable[Row], records: Mapping[str, Record]) -> str:
    """The table of docs/performance.md: every row, measured or not."""
    lines = [
        "| row | what | peer | target | aim | measured | rounds | ldmref | peer | verdict |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        target = "" if row.target is None else f"{row.target:.2f}"
        cells = [f"`{row.name}`", row.title, row.peer_title, target, f"{row.aim:.2f}"]
        record = records.get(row.name)
        if record is None:
            cells += ["not measured"] + [""] * 4
        else:
            ratio, unit = record["ratio"], record["unit"]
            cells += [
                f"**{ratio['median']:.2f}** ({ratio['min']:.2f} to {ratio['max']:.2f})",
                str(record["rounds"]),
                amount(record["ours"]["median"], unit),
                amount(record["theirs"]["median"], unit),
                verdict(record),
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
