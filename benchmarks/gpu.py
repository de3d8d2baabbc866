"""Measure every row that needs a CUDA device, like cpu.py: `python -m benchmarks.gpu MACHINE`."""

from __future__ import annotations

import sys

from benchmarks.cpu import measure

if __name__ == "__main__":
    measure("cuda", sys.argv[1:])
