"""Write the tables of docs/evidence.md from benchmarks/results and the faults of tests/faults.

python scripts/calibrate_error_bounds.py --write                     # error-bounds.json
ldmref check images "red heart" --seed 1 --json > benchmarks/results/images.jsonl
python scripts/make_evidence_page.py
python scripts/make_evidence_page.py --check    # exit code 1 if the page is out of date
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from page_tables import fill_tables, table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "evidence.md"
RESULTS = ROOT / "benchmarks" / "results"
sys.path[:0] = [str(ROOT / "tests" / "faults"), str(ROOT / "tests")]
DTYPES = ("float64", "float32", "float16", "bfloat16")


MEASURED = (
    ("{cases} bad inputs and {procedures} procedures for {rows} faults, {runs} runs",
     "as listed [below](#faults)", "`pytest tests/faults`"),
    ("1,000 images in one process, with six samplers and settings in turn",
     "resident memory from 63.0 to 63.3 MiB; slope in the second half 0 bytes per image "
     "(bound 1,024)", "`python scripts/soak.py --images 1000`"),
    ("200 images by four threads that share a model, with six samplers and settings in turn",
     "each image equals that of a single thread, bit for bit",
     "`python scripts/soak.py --images 200 --threads 4`"),
    ("1,000 jobs over HTTP, a third of them with an event stream that half of the clients leave",
     "resident memory from 80.6 MiB after 200 jobs to 81.2 MiB after 1,000 (bound 8 MiB more)",
     "`pytest -m slow tests/server/test_load_process.py`"),
    ("1,000 idle event streams and 50 that nobody reads",
     "other requests are answered; each of the 1,000 streams gets the end of its job",
     "`pytest tests/server/test_load_process.py -k streams`"),
    ("400 kills by SIGKILL, SIGTERM or SIGINT at random moments of generation, conversion (to a "
     "file and to a folder) and training",
     "no file was incomplete, lost or changed; 99 times the next run reached the usual result, "
     "pixel for pixel and weight for weight; one Ctrl-C during Python's imports printed a "
     "traceback (since fixed)",
     "`python scripts/kill.py --kills 200 --seed 11`, and `--seed 12`"),
    ("training killed 213 times by SIGKILL at random moments, and resumed",
     "every checkpoint was complete and no saved step was lost; nine trainings finished, each "
     "equal to an uninterrupted training in every byte",
     "`KILLS=200 pytest -m slow tests/training/test_kills.py`"),
    ("four settings of locale, time zone, hash seed, terminal and number of threads",
     "the same images, models and listings, byte for byte",
     "`pytest tests/faults -k environment`"),
    ("the whole suite five times and the property tests twenty times, in random order and with "
     "fresh seeds",
     "no failure in 12,099 tests each time, and in 5,474 (ten of the twenty runs: 5,212, at an "
     "earlier commit)",
     "`make test`; `pytest -n 2 tests/math tests/samplers tests/check`"),
    ("the numerical tests with the kernels of old processors: OpenBLAS for Sandy Bridge, torch and "
     "NumPy without AVX, oneDNN with SSE 4.1, oneMKL in compatible mode",
     "8,289 passed; 25 tests of torch's random numbers had a tolerance for newer kernels only "
     "(since fixed)", "`make processors`"),
    ("34 readers of files, prompts and settings fuzzed for 13,791,143 executions",
     "50 failures found, fixed and kept as tests ([fuzzing](#fuzzing))",
     "`python -m tests.fuzz all --seconds 600`"),
)  # fmt: skip


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
    """Return the largest ratios on normal inputs by the length of the sums, over all backends."""
    report = json.loads((RESULTS / "error-bounds.json").read_text())
    largest: dict[tuple[str, str], list[float]] = {}
    for backend, operations in report["by_length"].items():
        dtype = backend.split()[1]
        for operation, ratios in operations.items():
            before = largest.get((operation, dtype)) or ratios
            largest[operation, dtype] = [max(pair) for pair in zip(before, ratios, strict=True)]
    heading = f"| operation | type | {' | '.join(map(str, report['lengths']))} |"
    ordered = sorted(largest, key=lambda key: (key[0], DTYPES.index(key[1])))
    cells = [(f"`{o}`", d, *(f"{ratio:.2g}" for ratio in largest[o, d])) for o, d in ordered]
    return table(heading, cells)


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


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def fault_rows(first: int, last: int) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a block of faults."""
    from fault_all import CASES
    from fault_cases import PROCEDURES
    from fault_interfaces import INTERFACES, interfaces_of
    from fault_remaining import REMAINING
    from fault_rows import ROWS

    for number in (n for n in ROWS if first <= n <= last):
        cases = [case for case in CASES if case.row == number]
        procedures = [procedure for procedure in PROCEDURES if procedure.row == number]
        codes = sorted({x.code for x in [*cases, *procedures] if x.code})
        counts = {
            name: sum(name in interfaces_of(case) for case in cases)
            + sum(name in procedure.interfaces for procedure in procedures)
            for name in INTERFACES
        }
        tests = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
        wrong = sum(name.startswith(f"test_answer[{number}-") for name in REMAINING)
        answer = ROWS[number].answer + (f" (not yet in {wrong} of the tests)" if wrong else "")
        yield (str(number), ROWS[number].fault, answer, ", ".join(map(code, codes)), tests)


def measurements() -> str:
    """Return the results of the scripts, and how many faults are tried."""
    from fault_all import CASES
    from fault_cases import PROCEDURES
    from fault_interfaces import interfaces_of
    from fault_rows import ROWS

    runs = sum(len(interfaces_of(case)) for case in CASES) + len(PROCEDURES)
    counts = {"cases": len(CASES), "procedures": len(PROCEDURES), "rows": len(ROWS), "runs": runs}
    rows = ([cell.format(**counts) for cell in line] for line in MEASURED)
    return table("| test | result | command |", rows)


def faults() -> str:
    """Return the faults with the behaviour of ldmref, block by block."""
    from fault_rows import BLOCKS

    heading = "| | fault | behaviour | codes | tests |"
    return "\n\n".join(
        f"### {BLOCKS[first]}\n\n{table(heading, fault_rows(first, last - 1))}"
        for first, last in pairwise([*BLOCKS, 1000])
    )


TABLES = {
    "ratios": worst_ratios,
    "lengths": ratios_by_length,
    "images": image_differences,
    "measurements": measurements,
    "faults": faults,
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
