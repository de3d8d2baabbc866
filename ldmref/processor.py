"""What Linux says of the processor: decides whose kernels compute. Imports nothing large."""

from __future__ import annotations

from functools import cache
from pathlib import Path

# Zen 5 is too new for the OpenBLAS in NumPy's wheels, which then takes its AVX2 kernels.
FIRST_UNKNOWN_AMD = 26
AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


def openblas_kernels(cpuinfo: str) -> str:
    """OpenBLAS' kernels for a processor that it does not know; "" where it chooses well itself.

    `cpuinfo`: the text of Linux' /proc/cpuinfo.
    """
    facts = _facts(cpuinfo)
    family = facts.get("cpu family", "")
    unknown = family.isdecimal() and int(family) >= FIRST_UNKNOWN_AMD
    if facts.get("vendor_id") == "AuthenticAMD" and unknown:
        return "SkylakeX" if set(facts.get("flags", "").split()) >= AVX512 else ""
    return ""


@cache
def is_intel() -> bool:
    """Whether MKL, which torch takes for matrix products, is at home here."""
    return _facts(cpuinfo()).get("vendor_id") == "GenuineIntel"


def cpuinfo() -> str:
    """The text of /proc/cpuinfo; "" where there is none."""
    try:
        return Path("/proc/cpuinfo").read_text("ascii", "replace")
    except OSError:
        return ""


def _facts(cpuinfo: str) -> dict[str, str]:
    """Of the first core."""
    first, _, _ = cpuinfo.partition("\n\n")
    lines = (line.replace("\t", "") for line in first.split("\n"))
    return dict(line.split(": ", 1) for line in lines if ": " in line)
