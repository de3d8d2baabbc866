"""Measure every row that does not need a GPU: `python -m benchmarks.cpu MACHINE [FLAGS]`.

MACHINE is a name for this machine, for example amd-zen4. The results are written to
results/MACHINE, one file per row. FLAGS are passed to `python -m benchmarks`. Each row runs in its
own process, so memory, threads and compiled code of other rows have no influence.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.cases import CASES
from benchmarks.machine import openblas_overrides

RESULTS = Path(__file__).resolve().parent / "results"


def measure(device: str, arguments: list[str]) -> None:
    """Measure every row of a device; `arguments` are MACHINE and flags."""
    if not arguments or arguments[0].startswith("-"):
        raise SystemExit("name this machine, for example: python -m benchmarks.cpu amd-zen4")
    overrides = openblas_overrides()
    if overrides:
        raise SystemExit(f"OpenBLAS would not detect the processor: unset {overrides}")
    machine, *flags = arguments
    folder = RESULTS / machine
    folder.mkdir(parents=True, exist_ok=True)
    for case in CASES.values():
        if case.device == device:
            file = str(folder / f"{case.name}.json")
            command = [sys.executable, "-m", "benchmarks", case.name, "--json", file]
            subprocess.run([*command, "--overwrite", *flags], check=False)


if __name__ == "__main__":
    measure("cpu", sys.argv[1:])
