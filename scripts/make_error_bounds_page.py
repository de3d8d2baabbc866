"""Write the tables of docs/error-bounds.md from benchmarks/results.

python scripts/calibrate_error_bounds.py --write                     # error-bounds.json
ldmref check images "red heart" --seed 1 --json > benchmarks/results/images.jsonl
python scripts/make_error_bounds_page.py
python scripts/make_error_bounds_page.py --check    # exit code 1 if the page is out of date
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from page_tables import fill_tables, table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "error-bounds.md"
RESULTS = ROOT / "benchmarks" / "results"
DTYPES = ("float64", "float32", "float16", "bfloat16")


def worst_ratios() -> str:
    """Return the largest ratio of each operation and dtype, over all backends."""
    report = json.loads((RESULTS / "error-bounds.json").read_text())
    rows = report["worst"]

    def cells() -> Iterator[tuple[Any, ...]]:
        for operation in dict.fromkeys(row["operation"] for row in rows):
            of_it = [row for row in rows if row["operation"] == operation]
            largest = (
                max(row["ratio"] for row in of_it if row["dtype"] == dtype) for dtype in DTYPES
            )
            yield (f"`{operation}`", of_it[0]["basis"], *(f"{r:.2g}" for r in largest))

    heading = f"| operation | basis | {' | '.join(DTYPES)} |"
    backends = ", ".join(dict.fromkeys(row["backend"] for row in rows))
    return f"{table(heading, cells())}\n\nBackends: {backends}; {report['cases']:,} inputs each."


def ratios_by_length() -> str:
    """Return the largest ratios on normal inputs by the length of the sums."""
    report = json.loads((RESULTS / "error-bounds.json").read_text())

    def cells() -> Iterator[tuple[Any, ...]]:
        for backend, operations in report["by_length"].items():
            for operation, ratios in operations.items():
                yield (backend, f"`{operation}`", *(f"{ratio:.2g}" for ratio in ratios))

    heading = f"| backend | operation | {' | '.join(map(str, report['lengths']))} |"
    return table(heading, cells())


def image_differences() -> str:
    """Return the differences of images for each backend, dtype and speed, by sampler."""
    rows = [json.loads(line) for line in (RESULTS / "images.jsonl").read_text().splitlines()]
    measured = [row for row in rows if "reason" not in row]
    samplers = list(dict.fromkeys(row["sampler"] for row in measured))

    def cells() -> Iterator[tuple[Any, ...]]:
        groups: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
        for row in measured:
            key = (row["backend"], row["dtype"], row["speed"])
            groups.setdefault(key, {})[row["sampler"]] = row
        for key, by_sampler in groups.items():
            yield (*key, *(_difference(by_sampler[sampler]) for sampler in samplers))

    heading = f"| backend | dtype | speed | {' | '.join(f'`{name}`' for name in samplers)} |"
    left_out = [row for row in rows if "reason" in row]
    notes = [
        f"- {' '.join(filter(None, (row['backend'], row['dtype'], row['speed'])))}: "
        f"{row['reason'].partition(';')[0].partition(' (')[0]}"
        for row in left_out
    ]
    return table(heading, cells()) + "\n\nLeft out:\n\n" + "\n".join(notes)


def _difference(row: dict[str, Any]) -> str:
    if row["psnr"] is None:
        return "0"
    return f"{row['largest']}, {row['mean']:.2g}, {row['psnr']:.0f} dB"


TABLES = {
    "ratios": worst_ratios,
    "lengths": ratios_by_length,
    "images": image_differences,
}


def page() -> str:
    """Return the text of the page with its tables."""
    return fill_tables(PAGE.read_text("utf-8"), TABLES)


def main() -> int:
    text = page()
    if "--check" in sys.argv[1:]:
        return PAGE.read_text("utf-8") != text
    PAGE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
