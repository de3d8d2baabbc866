"""Put the results of benchmarks/results/MACHINE/*.json into docs/performance.md, between two marks.

    python benchmarks/make_table.py

A table for each machine. Of several measurements of a row, the newest is shown; those of --quick
never are.
"""

from __future__ import annotations

import json
from pathlib import Path

from ldmref.bench.report import markdown
from ldmref.bench.rows import ROWS

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results", HERE.parent / "docs" / "performance.md"
BEGIN, END = "<!-- tables: python benchmarks/make_table.py -->", "<!-- end of tables -->"

Records = dict[str, dict]  # by the row's name, each with the machine that it was measured on


def read(folder: Path) -> dict[str, Records]:
    """The records of each machine, a folder each."""
    return {
        machine.name: newest(sorted(machine.glob("*.json")))
        for machine in sorted(folder.iterdir())
        if machine.is_dir()
    }


def newest(files: list[Path]) -> Records:
    """Each row's newest record."""
    found: Records = {}
    runs = [json.loads(file.read_text()) for file in files]
    for whole in sorted(runs, key=lambda run: run["time"]):
        if not whole.get("quick"):
            for record in whole.get("rows", ()):
                found[record["name"]] = record | {
                    "machine": whole["machine"],
                    "time": whole["time"],
                }
    return found


def machine_line(record: dict) -> str:
    """Where and with what a record was measured."""
    machine = record["machine"]
    threads = ", ".join(f"{name} {n}" for name, n in machine["threads"].items() if n)
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    settings = ", ".join(f"{k}={v}" for k, v in machine.get("environment", {}).items())
    parts = [machine["cpu"], machine.get("gpu", ""), f"threads: {threads}" if threads else ""]
    parts += [f"BLAS kernels {machine['blas_kernels']}" if machine.get("blas_kernels") else ""]
    return "; ".join([*filter(None, [*parts, settings, versions]), record["time"][:10]])


def filled(page: str, machines: dict[str, Records]) -> str:
    """The page with the tables of these records between its marks."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"docs/performance.md has lost its marks {BEGIN} and {END}")
    parts = []
    for name, records in machines.items():
        rows = [row for row in ROWS.values() if row.name in records]
        lines = dict.fromkeys(machine_line(record) for record in records.values())
        said = [f"Measured on: {line}." for line in lines]
        parts += [f"### {name}", markdown(rows, records), *said]
    measured = {name for records in machines.values() for name in records}
    missing = ", ".join(f"`{name}`" for name in ROWS if name not in measured)
    parts += [f"Not measured anywhere: {missing}."] if missing else []
    body = "\n\n".join(parts)
    return f"{head}{BEGIN}\n\n{body}\n\n{END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(), read(RESULTS)))
