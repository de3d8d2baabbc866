"""Where the process `ldmref` starts: what must be settled before NumPy is imported."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

# Zen 5 is too new for the OpenBLAS in NumPy's wheels, which then takes its AVX2 kernels.
FIRST_UNKNOWN_AMD = 26
AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


def main(argv: Sequence[str] | None = None) -> int:
    """Choose the BLAS kernels, then run one command line; returns the exit code."""
    if "OPENBLAS_CORETYPE" not in os.environ:
        kernels = openblas_kernels(_cpuinfo())
        if kernels:
            os.environ["OPENBLAS_CORETYPE"] = kernels
    from ldmref.cli.main import main

    return main(argv)


def openblas_kernels(cpuinfo: str) -> str:
    """OpenBLAS' kernels for a processor that it does not know; "" where it chooses well itself.

    `cpuinfo`: the text of Linux' /proc/cpuinfo.
    """
    first, _, _ = cpuinfo.partition("\n\n")
    facts = dict(
        line.replace("\t", "").split(": ", 1) for line in first.split("\n") if ": " in line
    )
    family = facts.get("cpu family", "")
    unknown = family.isdecimal() and int(family) >= FIRST_UNKNOWN_AMD
    if facts.get("vendor_id") == "AuthenticAMD" and unknown:
        return "SkylakeX" if set(facts.get("flags", "").split()) >= AVX512 else ""
    return ""


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text("ascii", "replace")
    except OSError:
        return ""
