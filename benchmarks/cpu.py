"""All rows that need no GPU, each into a file of its own: `python benchmarks/cpu.py MACHINE`.

MACHINE is a name for this machine, such as amd-zen4: the results go to results/MACHINE, and further
flags to `ldmref bench`. A process per row, so that no row finds another's memory, threads or
compiled code.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ldmref.bench.rows import ROWS

RESULTS = Path(__file__).resolve().parent / "results"


def measure(device: str, arguments: list[str]) -> None:
    """Every row of a device, with the flags of `ldmref bench` handed on."""
    if not arguments or arguments[0].startswith("-"):
        raise SystemExit("give this machine a name, such as: python benchmarks/cpu.py amd-zen4")
    machine, *flags = arguments
    folder = RESULTS / machine
    folder.mkdir(parents=True, exist_ok=True)
    for row in (row for row in ROWS.values() if row.device == device):
        file = folder / f"{row.name}.json"
        command = [sys.executable, "-m", "ldmref", "bench", row.name, "--json", str(file)]
        subprocess.run([*command, "--overwrite", *flags], check=False)


if __name__ == "__main__":
    measure("cpu", sys.argv[1:])
