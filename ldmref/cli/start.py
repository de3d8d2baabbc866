"""Where the process `ldmref` starts: what must be settled before NumPy is imported."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ldmref.processor import cpuinfo, openblas_kernels


def main(argv: Sequence[str] | None = None) -> int:
    """Choose the BLAS kernels, then run one command line; returns the exit code."""
    if "OPENBLAS_CORETYPE" not in os.environ:
        kernels = openblas_kernels(cpuinfo())
        if kernels:
            os.environ["OPENBLAS_CORETYPE"] = kernels
    from ldmref.cli.main import main

    return main(argv)
