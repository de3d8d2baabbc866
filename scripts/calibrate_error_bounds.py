"""Compare the errors of all backends with their bounds on random inputs, and print a table.

    python scripts/calibrate_error_bounds.py                      # 10,000 inputs per operation
    python scripts/calibrate_error_bounds.py --cases 300
    python scripts/calibrate_error_bounds.py --write              # and write benchmarks/results

A bound must hold for every input: no ratio may exceed 1. It is useful if the largest ratio of an
operation is at least 1/100. The constants of `ldmref/backends/bounds/rounding.py` were chosen with
these numbers. The second table shows how the ratio falls with the length of a sum, on normal
inputs. The exit code is 1 if a bound is exceeded or more than 100 times too large.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ldmref.backends import get_backend
from ldmref.backends.base import Backend
from ldmref.backends.bounds import OPERATIONS
from ldmref.errors import BackendUnavailable
from ldmref.testing.cases import Case
from ldmref.testing.measured import compare, measure_errors

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "error-bounds.json"
BACKENDS = (
    ("numpy", "float64", "exact"),
    ("numpy", "float32", "exact"),
    ("numpy", "float32", "fast"),
    ("numpy", "float32", "fastest"),
    ("numpy", "float16", "exact"),
    ("torch", "float64", "exact"),
    ("torch", "float32", "exact"),
    ("torch", "float32", "fast"),
    ("torch", "float16", "fast"),
    ("torch", "bfloat16", "exact"),
    ("torch", "bfloat16", "fast"),
)
MOVES = ("embedding", "pad_bottom_right", "upsample2x")  # operations that do not round
LARGEST_FACTOR = 100.0
LENGTHS = (1, 4, 16, 64, 256, 1024, 4096)


def backends() -> Iterator[Backend]:
    """Open the backends that can run here."""
    for name, dtype, speed in BACKENDS:
        try:
            yield get_backend(name, dtype=dtype, speed=speed)
        except BackendUnavailable as error:
            print(f"{name} is left out: {error}", file=sys.stderr)


def label(ops: Backend) -> str:
    return f"{ops.name} {ops.dtype} {ops.speed}"


def sized_case(operation: str, n: int, rng: np.random.Generator) -> Case:
    """Return a call on normal inputs whose sums have n terms."""
    normal = rng.standard_normal
    if operation == "linear":
        return Case(operation, "", (normal((8, n)), normal((16, n))))
    if operation == "layer_norm":
        return Case(operation, "", (normal((4, n)), normal(n), normal(n)), {"eps": 1e-5})
    q, k, v = (normal((1, 1, length, 8)) for length in (8, n, n))
    return Case(operation, "", (q, k, v))


def by_length(opened: list[Backend], cases: int) -> dict[str, dict[str, list[float]]]:
    """Return the largest ratio for each backend, operation and length of its sums."""
    table = {}
    for ops in opened:
        table[label(ops)] = {}
        for operation in ("linear", "layer_norm", "attention"):
            rng = np.random.default_rng(0)
            table[label(ops)][operation] = [
                max(compare(ops, sized_case(operation, n, rng)).ratio for _ in range(cases))
                for n in LENGTHS
            ]
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    opened = list(backends())
    rows = []
    print(f"{'':28} {'basis':10}  {'error':>8}  {'bound':>8}  ratio  worst input")
    for ops in opened:
        for row in measure_errors(ops, OPERATIONS, arguments.cases, arguments.seed):
            rows.append(row.to_dict() | {"backend": label(ops)})
            print(
                f"{label(ops):28} {row.operation:16} {row.basis:10}  {row.error:8.2g}  "
                f"{row.bound:8.2g}  {row.ratio:5.3f}  {row.case} {row.note}",
                flush=True,
            )
    lengths = by_length(opened, max(1, arguments.cases // 100))
    print(f"\nlargest ratio by the length of the sums: {', '.join(map(str, LENGTHS))}")
    for name, operations in lengths.items():
        for operation, ratios in operations.items():
            print(f"{name:28} {operation:12} {'  '.join(f'{r:.4f}' for r in ratios)}")
    if arguments.write:
        report = {"cases": arguments.cases, "seed": arguments.seed, "worst": rows}
        report |= {"lengths": list(LENGTHS), "by_length": lengths}
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    exceeded = [row for row in rows if not row["ok"]]
    loose = []
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        for operation in set(OPERATIONS) - set(MOVES):
            ratios = [
                r["ratio"] for r in rows if (r["operation"], r["dtype"]) == (operation, dtype)
            ]
            if dtype != "float64" or operation != "asarray":  # float64 to float64 is exact
                loose += [(operation, dtype)] * (max(ratios) < 1.0 / LARGEST_FACTOR)
    print(f"exceeded: {len(exceeded)}; more than {LARGEST_FACTOR:g} times too large: {loose}")
    return int(bool(exceeded or loose))


if __name__ == "__main__":
    sys.exit(main())
