"""The BLAS kernels are chosen before NumPy is imported, and only where OpenBLAS would err."""

import os
import subprocess
import sys

import pytest

from ldmref import processor

FLAGS = "fpu sse2 avx2 avx512f avx512dq avx512cd avx512bw avx512vl avx512_bf16"


def cpuinfo(vendor="AuthenticAMD", family=26, flags=FLAGS):
    one = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nflags\t\t: {flags}\n"
    return one + "\n" + one.replace("processor\t: 0", "processor\t: 1")


@pytest.mark.parametrize(
    ("text", "kernels"),
    [
        (cpuinfo(), "SkylakeX"),  # Zen 5
        (cpuinfo(family=25), ""),  # Zen 4, which OpenBLAS knows
        (cpuinfo(vendor="GenuineIntel"), ""),
        (cpuinfo(flags="fpu sse2 avx2"), ""),
        (cpuinfo(flags=FLAGS.replace(" avx512vl", "")), ""),
        ("", ""),
        ("Processor: ARMv8", ""),
    ],
)
def test_kernels_by_processor(text, kernels):
    assert processor.openblas_kernels(text) == kernels


@pytest.mark.parametrize(
    ("text", "intel"), [(cpuinfo("GenuineIntel", 6), True), (cpuinfo(), False), ("", False)]
)
def test_intel_by_processor(monkeypatch, text, intel):
    monkeypatch.setattr(processor, "cpuinfo", lambda: text)
    assert processor.is_intel.__wrapped__() == intel


@pytest.mark.parametrize(("given", "seen"), [(None, "SkylakeX"), ("Haswell", "Haswell")])
def test_they_are_chosen_before_numpy_is_imported(given, seen):
    code = (
        "import os, sys\n"
        "import ldmref.cli.start as start\n"
        "assert 'numpy' not in sys.modules, 'too late'\n"
        f"start.cpuinfo = lambda: {cpuinfo()!r}\n"
        "start.main(['--version'])\n"
        "assert 'numpy' in sys.modules\n"
        "print(os.environ.get('OPENBLAS_CORETYPE'))\n"
    )
    environ = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"}
    environ |= {"OPENBLAS_CORETYPE": given} if given else {}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert done.stdout.split()[-1] == seen, done.stderr
