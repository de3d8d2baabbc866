"""Record the tensors of PyTorch programs call by call, and write them as a trace."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ldmref.io.tensors.writer import KINDS
from ldmref.trace.program_calls import ProgramTraceWriter
from ldmref.trace.selection import Selection


class TensorCopies:
    """Copies tensors, which the program may overwrite, to the host.

    Types that safetensors files of ldmref do not have, and bfloat16, become float32; complex
    numbers of 32 bits become those of 64.
    """

    @staticmethod
    def to_numpy(x: object) -> np.ndarray:
        """Return a tensor's values, or those of a list or number."""
        if not isinstance(x, torch.Tensor):
            return np.asarray(x)
        if x.layout != torch.strided or x.is_quantized or x.is_meta:
            kind = "a meta tensor" if x.is_meta else "quantized" if x.is_quantized else x.layout
            raise TypeError(f"its values are not those of a dense tensor: {kind}")
        x = x.detach().to("cpu", copy=True).contiguous().resolve_conj().resolve_neg()
        if x.dtype.is_complex:
            return (x if x.dtype in _COMPLEX else x.to(torch.complex64)).numpy()
        return (x if x.dtype in _NUMPY_TYPES else x.float()).numpy()


_COMPLEX = (torch.complex64, torch.complex128)
_NUMPY_TYPES = {getattr(torch, dtype.name) for dtype in KINDS if hasattr(torch, dtype.name)}


class TorchTraceWriter(ProgramTraceWriter):
    """Write the calls of a program of PyTorch to the folder of a trace.

    Args:
        folder: The folder to write.
        selection: Calls, layers and steps to record. None: all.
        overwrite: Whether an existing trace is replaced.
    """

    def __init__(
        self, folder: str | Path, selection: Selection | None = None, overwrite: bool = False
    ):
        program = "PyTorch", {"torch": torch.__version__}
        super().__init__(folder, selection, overwrite, TensorCopies(), program)


def describe_parameters(modules: Iterable[torch.nn.Module]) -> dict[str, Any]:
    """Return dtype and device of the first parameter of some modules, for the manifest."""
    parameter = next((p for module in modules for p in module.parameters()), None)
    if parameter is None:
        return {}
    dtype = str(parameter.dtype).removeprefix("torch.")
    backend = {"name": "torch", "version": torch.__version__, "device": str(parameter.device)}
    return {"dtype": dtype, "backend": backend}
