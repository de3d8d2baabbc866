"""Record the tensors of PyTorch programs call by call, and write them as a trace."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ldmref.io.tensors.writer import KINDS
from ldmref.trace.files import TraceWriter
from ldmref.trace.left_out import LEFT_OUT, LeftOut
from ldmref.trace.recorder import CallRecord, Recorder
from ldmref.trace.selection import Selection
from ldmref.trace.store import EmptyStore, SpooledStore


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


class TorchTraceWriter:
    """Write the calls of a program to the folder of a trace.

    The last call stays open until the next one, because programs may continue with its layers (clip
    skip does).

    Args:
        folder: The folder to write.
        selection: Calls, layers and steps to record. None: all.
        overwrite: Whether an existing trace is replaced.

    Attributes:
        manifest: The manifest, which may be extended.
        last: The last call, which stays open.
        left_out: What could not be recorded; the manifest says it, and a warning at the end.
    """

    def __init__(
        self, folder: str | Path, selection: Selection | None = None, overwrite: bool = False
    ):
        versions = {"torch": torch.__version__, "python": platform.python_version()}
        self.manifest: dict[str, Any] = {"program": "PyTorch", "versions": versions}
        if selection is not None:
            self.manifest["selection"] = dict(selection.record)
        self.last: CallRecord | None = None
        self.left_out = LeftOut()
        path = Path(folder)
        self._writer = TraceWriter(path, {}, overwrite=overwrite)
        store = partial(SpooledStore, path)
        self._recorder = Recorder(self._writer, store, selection, left_out=self.left_out)

    def begin(
        self, name: str, numbered: bool = True, network: torch.nn.Module | None = None
    ) -> CallRecord:
        """Begin a call: `unet.000`, `unet.001`; or, if not `numbered`, `schedule`, `schedule~1`."""
        recorder = self._recorder
        recorder.step = None
        if numbered:
            recorder.numbered.add(name)
            recorder.step = recorder.count("sampler")
        full = recorder.next_name(name)
        call = recorder.begin(name, TensorCopies(), network=network)
        return call or CallRecord(full, TensorCopies(), EmptyStore(), None, network)

    def end(self, call: CallRecord) -> None:
        """End a call, and write the one before."""
        self.flush()
        self.last = call

    def flush(self) -> None:
        """Write the call that ended last."""
        last, self.last = self.last, None
        if last is not None and last.entries:
            self._recorder.end(last)

    def close(self) -> Path:
        """Write the last call and the manifest, and warn of what is not in the trace.

        Raises:
            OutputError: The manifest cannot be written.
        """
        self.flush()
        written: dict[str, Any] = {}
        for key, value in self.manifest.items():
            with self.left_out.guard(f"{key} of the manifest"):
                written[key] = plain(value)
        if self.left_out.reasons:
            written[LEFT_OUT] = self.left_out.reasons
        self._writer.manifest = written
        path = self._writer.close()
        self.left_out.warn(self._writer.is_empty)
        return path


def plain(value: object) -> Any:
    """Return a value that JSON can hold; other objects become text."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(part) for part in value]
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return plain(value.tolist())
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def describe_parameters(modules: Iterable[torch.nn.Module]) -> dict[str, Any]:
    """Return dtype and device of the first parameter of some modules, for the manifest."""
    parameter = next((p for module in modules for p in module.parameters()), None)
    if parameter is None:
        return {}
    dtype = str(parameter.dtype).removeprefix("torch.")
    backend = {"name": "torch", "version": torch.__version__, "device": str(parameter.device)}
    return {"dtype": dtype, "backend": backend}
