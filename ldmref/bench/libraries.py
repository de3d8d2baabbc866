"""What a row needs of this machine: the peer's libraries, and its device."""

from __future__ import annotations

import importlib
import os
from typing import Any

from ldmref.bench.rows import Row
from ldmref.errors import BackendUnavailable

QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
ONNX = ("onnx", "onnxscript", "onnxruntime")


def need(library: str) -> Any:
    """A peer's library.

    Raises:
        BackendUnavailable: it is not installed.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module(library)
    except ImportError as error:
        others = ONNX if library in ONNX else ("torch", "diffusers", "transformers")
        raise BackendUnavailable(
            f"the peer of this row needs {library}, which cannot be imported",
            code="E-PEER",
            hint=f"pip install {' '.join(others)}",
        ) from error


def require(row: Row) -> None:
    """Refuse a row that cannot run here, before anything is computed.

    Raises:
        BackendUnavailable: a library of the peer is missing, or the device.
    """
    need("torch")
    if row.work != "text":
        need("diffusers")
    if row.work in ("text", "picture"):
        need("transformers")
    if row.peer == "onnx":
        for library in ONNX:
            need(library)
    if row.device == "cuda" and not need("torch").cuda.is_available():
        raise BackendUnavailable(
            "this row needs a CUDA device, and torch sees none",
            code="E-DEVICE",
            hint="run it on a machine with an NVIDIA GPU and a CUDA build of torch",
        )
