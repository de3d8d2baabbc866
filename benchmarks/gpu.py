"""Measure every row that needs a CUDA device, like cpu.py: `python benchmarks/gpu.py MACHINE`."""

from __future__ import annotations

import sys

from cpu import measure

if __name__ == "__main__":
    measure("cuda", sys.argv[1:])
