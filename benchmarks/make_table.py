"""Put the results of benchmarks/results/*.json into docs/performance.md: a table between two marks.

    python benchmarks/make_table.py            # or with other JSON files of `ldmref bench`

Of several measurements of a row, the newest is shown; those of --quick never are.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ldmref.bench.report import markdown
from ldmref.bench.rows import ROWS

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results", HERE.parent / "docs" / "performance.md"
BEGIN, END = "<!-- table: python benchmarks/make_table.py -->", "<!-- end of table -->"


def read(files: list[Path]) -> dict[str, dict]:
    """Each row's newest record, with the machine that it was measured on."""
    found: dict[str, dict] = {}
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


def filled(page: str, records: dict[str, dict]) -> str:
    """The page with the table of these records between its marks."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"docs/performance.md has lost its marks {BEGIN} and {END}")
    places = dict.fromkeys(machine_line(record) for record in records.values())
    said = "".join(f"\nMeasured on: {place}.\n" for place in places)
    return f"{head}{BEGIN}\n{markdown(ROWS.values(), records)}\n{said}{END}{tail}"


if __name__ == "__main__":
    given = [Path(name) for name in sys.argv[1:]] or sorted(RESULTS.glob("*.json"))
    PAGE.write_text(filled(PAGE.read_text(), read(given)))
