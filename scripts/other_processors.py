"""Run the tests with the kernels that NumPy, SciPy and torch choose on other processors.

    python scripts/other_processors.py                        # the numerical packages
    python scripts/other_processors.py --only oldest tests/backends tests/models
    python scripts/other_processors.py --all                  # the whole suite
    python scripts/other_processors.py --list                   # the settings that work here

OpenBLAS, oneMKL, oneDNN, torch and NumPy contain kernels for several generations of processors, and
an environment variable overrides their choice. A small calculation in a separate process shows
which kernels are used. A setting that this processor or these builds do not support is skipped, and
its name is printed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from numpy._core._multiarray_umath import __cpu_dispatch__ as dispatched
from numpy._core._multiarray_umath import __cpu_features__ as features

ROOT = Path(__file__).parents[1]
NUMERICAL = ("backends", "models", "modes", "samplers", "check", "math", "parity")
OPTIONAL = [name for name in dispatched if features[name]]  # NumPy's optional features
AVX2 = ("AVX2", "FMA3")
AVX512 = ("AVX512F", "AVX512BW", "AVX512DQ", "AVX512VL")


class Library(NamedTuple):
    """The variable that selects kernels, and a program that prints which ones are used."""

    variable: str
    probe: str


LIBRARIES = {
    "openblas": Library(
        "OPENBLAS_CORETYPE",
        "import numpy as np, threadpoolctl\n"
        "np.ones((64, 64)) @ np.ones((64, 64))\n"
        "print({x['architecture'] for x in threadpoolctl.threadpool_info()})\n",
    ),
    "torch": Library(
        "ATEN_CPU_CAPABILITY",
        "import torch\n"
        "torch.ones(64).exp()\n"
        "print('capability:', torch.backends.cpu.get_cpu_capability())\n",
    ),
    "onednn": Library(
        "ONEDNN_MAX_CPU_ISA",
        "import os\n"
        "os.environ['ONEDNN_VERBOSE'] = '1'\n"
        "import torch\n"
        "torch.conv2d(torch.ones(2, 64, 64, 64), torch.ones(64, 64, 3, 3))\n",
    ),
    "mkl": Library(
        "MKL_CBWR",
        "import os\n"
        "os.environ['MKL_VERBOSE'] = '1'\n"
        "import torch\n"
        "torch.ones(64, 64) @ torch.ones(64, 64)\n",
    ),
    "numpy": Library(
        "NPY_DISABLE_CPU_FEATURES",
        "import numpy as np\n"
        "from numpy._core._multiarray_umath import __cpu_features__ as features\n"
        "np.exp(np.ones(64))\n"
        f"print('used:', *[name for name in {OPTIONAL!r} if features[name]])\n",
    ),
}


class Kernels(NamedTuple):
    """A value of a library's variable, the features it needs, and the expected output."""

    library: str
    value: str
    needs: tuple[str, ...]
    printed: str

    @property
    def variable(self) -> str:
        return LIBRARIES[self.library].variable


SANDYBRIDGE = Kernels("openblas", "Sandybridge", ("AVX",), "'Sandybridge'")
TORCH_DEFAULT = Kernels("torch", "default", (), "capability: DEFAULT")
ONEDNN_SSE41 = Kernels("onednn", "SSE41", ("SSE41",), r"isa:Intel SSE4\.1\n")
MKL_COMPATIBLE = Kernels("mkl", "COMPATIBLE", (), "CNR:COMPATIBLE")
NUMPY_BASELINE = Kernels("numpy", " ".join(OPTIONAL), (), "used:\n")

SETTINGS: dict[str, tuple[Kernels, ...]] = {
    "oldest": (SANDYBRIDGE, TORCH_DEFAULT, ONEDNN_SSE41, MKL_COMPATIBLE, NUMPY_BASELINE),
    "openblas-sandybridge": (SANDYBRIDGE,),
    "openblas-haswell": (Kernels("openblas", "Haswell", AVX2, "'Haswell'"),),
    "openblas-skylakex": (Kernels("openblas", "SkylakeX", AVX512, "'SkylakeX'"),),
    "openblas-zen": (Kernels("openblas", "Zen", AVX2, "'Zen'"),),
    "torch-default": (TORCH_DEFAULT,),
    "torch-avx2": (Kernels("torch", "avx2", AVX2, "capability: AVX2"),),
    "torch-avx512": (Kernels("torch", "avx512", AVX512, "capability: AVX512"),),
    "onednn-sse41": (ONEDNN_SSE41,),
    "onednn-avx2": (Kernels("onednn", "AVX2", AVX2, r"isa:Intel AVX2\n"),),
    "mkl-compatible": (MKL_COMPATIBLE,),
    "numpy-baseline": (NUMPY_BASELINE,),
}


def environment(setting: tuple[Kernels, ...] = ()) -> dict[str, str]:
    """Return the environment with the variables of one setting, and without those of others."""
    variables = {library.variable for library in LIBRARIES.values()}
    kept = {key: value for key, value in os.environ.items() if key not in variables}
    return kept | {kernels.variable: kernels.value for kernels in setting}


def obstacle(kernels: Kernels) -> str:
    """Return why these kernels are not available here; "" if they are."""
    missing = [name for name in kernels.needs if not features.get(name)]
    if missing:
        return f"this processor has no {', '.join(missing)}"
    if not kernels.value:
        return "NumPy uses nothing here beyond its baseline"
    command = [sys.executable, "-c", LIBRARIES[kernels.library].probe]
    ran = subprocess.run(command, env=environment((kernels,)), capture_output=True, text=True)
    if ran.returncode:
        last = (ran.stderr.strip().splitlines() or [""])[-1]
        return f"the trial ended with code {ran.returncode}: {last}"
    if not re.search(kernels.printed, ran.stdout):
        lines = [line for line in ran.stdout.splitlines() if re.search("'|:", line)]
        used = next((line for line in lines if "isa:" in line or "CNR:" in line), "".join(lines))
        return f"the library takes other kernels: {used or 'it is not used'}"
    return ""


def run(setting: tuple[Kernels, ...], arguments: list[str]) -> tuple[bool, str]:
    """Run pytest; return whether all tests passed, and the last line of its output."""
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    env = environment(setting) | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    last = ""
    for line in process.stdout:
        if re.match("(FAILED|ERROR|SKIPPED) ", line):
            print(f"    {line.rstrip()}", flush=True)
        last = line.strip() or last
    return process.wait() == 0, last


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="*", help="tests; default: those of the numerical packages")
    parser.add_argument("--all", action="store_true", help="the whole suite")
    parser.add_argument(
        "--only", action="append", choices=SETTINGS, help="this setting; repeatable"
    )
    parser.add_argument("--workers", default="auto", help="processes of pytest (default: auto)")
    parser.add_argument("--list", action="store_true", help="print the settings, run nothing")
    args = parser.parse_args()
    whole = ["tests"] if args.all else [f"tests/{name}" for name in NUMERICAL]
    paths = args.paths or whole
    skipped = []
    failed = []
    for name in args.only or SETTINGS:
        setting = SETTINGS[name]
        variables = " ".join(f'{kernels.variable}="{kernels.value}"' for kernels in setting)
        why = "; ".join(filter(None, map(obstacle, setting)))
        if why:
            skipped.append(f"{name}: {why}")
            print(f"{name}: NOT TESTED HERE, {why}", flush=True)
            continue
        print(f"{name}: {variables}", flush=True)
        if args.list:
            continue
        start = time.monotonic()
        passed, last = run(setting, ["-n", args.workers, *paths])
        print(f"    {'passed' if passed else 'FAILED'} in {time.monotonic() - start:.0f} s: {last}")
        if not passed:
            failed.append(name)
    for line in skipped:
        print(f"NOT TESTED HERE: {line}")
    if failed:
        print(f"FAILED: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
