"""Write the charts and the table of docs/performance.md from benchmarks/results/MACHINE/*.json.

    python -m benchmarks.make_page

The charts show all machines, the table has the numbers of the newest one. They show the newest
result of each row, without results of --quick and without those of an earlier release: they measure
other code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES
from benchmarks.charts import describe, draw_chart, make_charts
from benchmarks.formatting import markdown_table
from benchmarks.machine import openblas_overrides
from ldmref.support.version import __version__

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "performance.md"
IMAGES = PAGE.parent / "images"
BEGIN = "<!-- results: python -m benchmarks.make_page -->"
END = "<!-- end of results -->"
NEWEST = "amd-zen5"  # the newest processor on which rows were measured

Results = dict[str, dict[str, Any]]  # by row; each result has the `machine` and `time` of its run


def read_results(folder: Path) -> dict[str, Results]:
    """Return the results of each machine, from one folder per machine."""
    machines = sorted(path for path in folder.iterdir() if path.is_dir())
    return {machine.name: newest_results(sorted(machine.glob("*.json"))) for machine in machines}


def newest_results(files: list[Path]) -> Results:
    """Return the newest result of each row that is of this release."""
    newest: Results = {}
    reports = [json.loads(file.read_text()) for file in files]
    for report in sorted(reports, key=lambda report: report["time"]):
        version = report["machine"]["versions"].get("ldmref", "0")
        if not report.get("quick") and release(version) >= release(__version__):
            origin = {"machine": report["machine"], "time": report["time"]}
            newest |= {result["name"]: result | origin for result in report.get("rows", ())}
    return newest


def release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version: (1, 2, 0) for "1.2.0" and for "1.2.0.dev3"."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in numbers[0].split(".")[:3]) if numbers else (0,)


def machine_line(result: Mapping[str, Any]) -> str:
    """Describe hardware, settings, versions and date of a result."""
    machine = result["machine"]
    threads = ", ".join(f"{name} {n}" for name, n in machine["threads"].items() if n)
    settings = ", ".join(f"{k}={v}" for k, v in machine.get("environment", {}).items())
    fields = (
        machine["cpu"],
        machine.get("gpu"),
        f"threads: {threads}" if threads else "",
        f"BLAS kernels {machine['blas_kernels']}" if machine.get("blas_kernels") else "",
        settings,
        ", ".join(f"{name} {version}" for name, version in machine["versions"].items()),
        result["time"][:10],
    )
    return "; ".join(filter(None, fields))


def override_lines(results: Results) -> list[str]:
    """Return one sentence for each set of OpenBLAS overrides that was used."""
    rows: dict[str, list[str]] = {}
    for name, result in results.items():
        overrides = openblas_overrides(result["machine"].get("environment", {}))
        if overrides:
            rows.setdefault(overrides, []).append(f"`{name}`")
    return [
        f"**Measured with {overrides}**, which overrides OpenBLAS' detection of the processor: "
        f"{', '.join(names)}."
        for overrides, names in rows.items()
    ]


def fill(page: str, machines: Mapping[str, Results], newest: str = NEWEST) -> str:
    """Replace the text between the two marks of the page by these results."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"docs/performance.md has lost its marks {BEGIN} and {END}")
    blocks = [f"![{describe(chart)}](images/{chart.name}.svg)" for chart in make_charts(machines)]
    results = machines[newest]
    cases = [case for case in CASES.values() if case.name in results]
    blocks += [f"The numbers of `{newest}`:", markdown_table(cases, results)]
    for name, of_machine in machines.items():
        blocks += override_lines(of_machine)
        lines = dict.fromkeys(machine_line(result) for result in of_machine.values())
        blocks += [f"`{name}`: {line}." for line in lines]
    measured = {name for results in machines.values() for name in results}
    missing = ", ".join(f"`{name}`" for name in CASES if name not in measured)
    blocks += [f"Not measured anywhere: {missing}."] if missing else []
    body = "\n\n".join(blocks)
    return f"{head}{BEGIN}\n\n{body}\n\n{END}{tail}"


def main() -> None:
    machines = read_results(RESULTS)
    PAGE.write_text(fill(PAGE.read_text(), machines))
    for chart in make_charts(machines):
        (IMAGES / f"{chart.name}.svg").write_text(draw_chart(chart, machines), "utf-8")


if __name__ == "__main__":
    main()
