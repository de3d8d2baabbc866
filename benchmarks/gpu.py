"""All rows that need a CUDA device, as cpu.py does: `python benchmarks/gpu.py MACHINE`."""

from __future__ import annotations

import sys

from cpu import measure

if __name__ == "__main__":
    measure("cuda", sys.argv[1:])
