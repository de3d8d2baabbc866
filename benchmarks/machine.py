"""The machine of a measurement: processor, threads, versions, rate of matrix products."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ldmref.backends.fast import threads
from ldmref.support.version import __version__, describe_python

if TYPE_CHECKING:
    from types import ModuleType

LIBRARIES = (
    "numpy", "scipy", "torch", "diffusers", "transformers", "onnx", "onnxruntime", "openvino",
    "cupy-cuda12x",
)  # fmt: skip
OPENBLAS_OVERRIDES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
VARIABLES = (
    *OPENBLAS_OVERRIDES, "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
    "NPY_DISABLE_CPU_FEATURES", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA",
)  # fmt: skip
GEMM_SIZES = (1024, 2048)


def machine_info() -> dict[str, Any]:
    """Return processor, threads of both libraries, versions and environment variables, for JSON."""
    torch = sys.modules.get("torch")
    versions = {"python": describe_python(), "ldmref": __version__}
    return {
        "cpu": cpu_model(),
        "processors": os.cpu_count(),
        "processors_allowed": available_cpus(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": {"numpy": threads.count(), "torch": torch and torch.get_num_threads()},
        "blas_kernels": threads.blas_kernels(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "gpu": torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "",
        "versions": versions | installed_versions(LIBRARIES),
    }


def openblas_overrides(environment: Mapping[str, str] | None = None) -> str:
    """Return the variables that override OpenBLAS' detection of the processor; "" if none is set.

    >>> openblas_overrides({"OPENBLAS_CORETYPE": "Haswell", "OMP_NUM_THREADS": "2"})
    'OPENBLAS_CORETYPE=Haswell'
    """
    environment = os.environ if environment is None else environment
    return ", ".join(f"{k}={environment[k]}" for k in OPENBLAS_OVERRIDES if k in environment)


def installed_versions(names: Sequence[str]) -> dict[str, str]:
    """Return the versions of the distributions that are installed."""
    versions = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def cpu_model() -> str:
    """Return the processor's name."""
    with contextlib.suppress(OSError):
        match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        if match:
            return match[1]
    return platform.processor() or platform.machine()


def available_cpus() -> int:
    """Return the number of processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def gemm_peaks(dtype: str, device: str, sizes: Sequence[int] = GEMM_SIZES) -> dict[str, float]:
    """Return the peak GFLOP/s of matrix products per library that supports dtype and device.

    NumPy computes float32 and float64 on the CPU; torch is measured if it has been imported.
    """
    peaks = {}
    torch = sys.modules.get("torch")
    if device == "cpu" and dtype in ("float32", "float64"):
        peaks["numpy"] = gemm_peak(lambda n: _numpy_gemm(n, dtype), sizes)
    if torch is not None:
        peaks["torch"] = gemm_peak(lambda n: _torch_gemm(torch, n, dtype, device), sizes)
    return peaks


def gemm_peak(
    make_product: Callable[[int], Callable[[], object]], sizes: Sequence[int], repeat: int = 3
) -> float:
    """Return the highest GFLOP/s of `make_product(n)`, products of n x n matrices."""
    peak = 0.0
    for n in sizes:
        product = make_product(n)
        product()  # warm-up
        for _ in range(repeat):
            start = time.perf_counter()
            product()
            peak = max(peak, 2 * n**3 / (time.perf_counter() - start) / 1e9)
    return peak


def _numpy_gemm(n: int, dtype: str) -> Callable[[], object]:
    a = np.random.default_rng(0).standard_normal((n, n)).astype(dtype)
    out = np.empty_like(a)
    return lambda: np.matmul(a, a, out=out)


def _torch_gemm(torch: ModuleType, n: int, dtype: str, device: str) -> Callable[[], object]:
    a = torch.randn(n, n, device=device).to(getattr(torch, dtype))
    out = torch.empty_like(a)

    def product() -> None:
        torch.matmul(a, a, out=out)
        if device != "cpu":
            torch.cuda.synchronize()

    return product
