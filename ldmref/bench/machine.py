"""What a measurement was made on: processor, threads, versions, and the peak of matrix products."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import ldmref
from ldmref.backends.fast import threads
from ldmref.bench.measure import gemm_peak

LIBRARIES = (
    "numpy", "scipy", "torch", "diffusers", "transformers", "onnx", "onnxscript", "onnxruntime",
    "cupy-cuda12x",
)  # fmt: skip
VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
SIZES = (1024, 2048)


def facts() -> dict[str, Any]:
    """Processor, threads of both sides, versions and the variables that change them; JSON-able."""
    return {
        "cpu": cpu_model(),
        "processors": os.cpu_count(),
        "processors_allowed": processors(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": {"numpy": threads.count(), "torch": _torch("get_num_threads")},
        "blas_kernels": threads.blas_kernels(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "gpu": gpu(),
        "versions": {"python": platform.python_version(), "ldmref": ldmref.__version__}
        | versions(LIBRARIES),
    }


def versions(names: tuple[str, ...]) -> dict[str, str]:
    """The installed ones of these distributions, with their versions."""
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def cpu_model() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError):
        match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        if match:
            return match[1]
    return platform.processor() or platform.machine()


def processors() -> int:
    """How many processors this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def gpu() -> str:
    """The name of the CUDA device that torch sees, "" without."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return ""
    return str(torch.cuda.get_device_name())


def _torch(name: str) -> Any:
    torch = sys.modules.get("torch")
    return getattr(torch, name)() if torch is not None else None


def peaks(dtype: str, device: str, sizes: tuple[int, ...] = SIZES) -> dict[str, float]:
    """The best GFLOP/s of matrix products in each library that has the type on that device.

    NumPy on the cpu in float32 and float64; torch where it has been imported.
    """
    found, torch = {}, sys.modules.get("torch")
    if device == "cpu" and dtype in ("float32", "float64"):
        found["numpy"] = gemm_peak(lambda n: _numpy_product(n, dtype), sizes)
    if torch is not None:
        found["torch"] = gemm_peak(lambda n: _torch_product(torch, n, dtype, device), sizes)
    return found


def _numpy_product(n: int, dtype: str) -> Callable[[], object]:
    a = np.random.default_rng(0).standard_normal((n, n)).astype(dtype)
    out = np.empty_like(a)
    return lambda: np.matmul(a, a, out=out)


def _torch_product(torch: Any, n: int, dtype: str, device: str) -> Callable[[], object]:
    a = torch.randn(n, n, device=device).to(getattr(torch, dtype))
    out = torch.empty_like(a)

    def product() -> None:
        torch.matmul(a, a, out=out)
        if device != "cpu":
            torch.cuda.synchronize()

    return product
