"""Collect the tensors of PyTorch programs call by call, and write them as a trace."""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ldmref.backends.named import AGAIN
from ldmref.io.tensors.writer import KINDS, TensorSource, source
from ldmref.trace.files import TraceWriter
from ldmref.trace.model import TraceEntry, tensor_name
from ldmref.trace.selection import Selection

TensorContent = tuple[str, tuple[int, ...], bytes]  # type, shape and digest of a tensor


def copy_tensor(x: Any) -> TensorSource:
    """Copy a tensor or number, which the program may overwrite, to the host in its own type.

    bfloat16 stays bfloat16; types that safetensors files of ldmref do not have become float32.
    """
    if not isinstance(x, torch.Tensor):
        return source(np.asarray(x))
    x = x.detach().to("cpu", copy=True).contiguous()
    if x.dtype == torch.bfloat16:
        bits = x.view(torch.int16).numpy().view(np.uint16)
        return TensorSource("BF16", tuple(x.shape), lambda: bits)
    known = not x.dtype.is_complex and x.dtype in _NUMPY_TYPES
    return source((x if known else x.float()).numpy())


_NUMPY_TYPES = {getattr(torch, dtype.name) for dtype in KINDS if hasattr(torch, dtype.name)}


def find_tensors(value: Any, role: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors in an argument or a result, with a role for each.

    The parts of a mapping are called by their keys, those of a tuple `ROLE.0`, `ROLE.1`.
    """
    if isinstance(value, torch.Tensor):
        yield role, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from find_tensors(part, str(key))
    elif isinstance(value, list | tuple):
        for i, part in enumerate(value):
            yield from find_tensors(part, f"{role}.{i}")


def first_tensor(value: Any) -> torch.Tensor | None:
    """Return the first tensor of a result."""
    return next((tensor for _, tensor in find_tensors(value, "output")), None)


class RecordedCall:
    """One call that is being recorded.

    Args:
        name: The name of the call, "unet.003".
        selection: The layers to record. None: the call is not selected.
        network: The network that runs, if it is a module.
    """

    def __init__(
        self, name: str, selection: Selection | None, network: torch.nn.Module | None = None
    ):
        self.name = name
        self.network = network
        self.entries: dict[str, TraceEntry] = {}
        self._contents: dict[str, TensorContent] = {}
        self._tensors: dict[TensorContent, TensorSource] = {}
        self._selection = selection
        self._seen: Counter[str] = Counter()

    def unique(self, layer: str) -> str:
        """Return a layer's name, with a number if it occurred before in this call."""
        count = self._seen[layer]
        self._seen[layer] += 1
        return f"{layer}{AGAIN}{count}" if count else layer

    def wants(self, layer: str) -> bool:
        """Return whether a layer is recorded."""
        return self._selection is not None and self._selection.takes_layer(layer)

    def add(
        self,
        layer: str,
        kind: str = "",
        inputs: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Record tensors by role; those of a layer that was added before are added to it."""
        if not self.wants(layer):
            return
        before = self.entries.get(layer, TraceEntry(self.name, layer))
        sides = {"input": dict(before.inputs), "output": dict(before.outputs)}
        for side, values in (("input", inputs), ("output", outputs)):
            for role, value in (values or {}).items():
                role = role.replace("/", ".")
                name = tensor_name(self.name, layer, side, role)
                self._store(name, value)
                sides[side][role] = name
        described = {**before.attributes, **(attributes or {})}
        entry = TraceEntry(
            self.name, layer, sides["input"], sides["output"], kind or before.kind, described
        )
        self.entries[layer] = entry

    def resolve(self) -> tuple[dict[str, TensorSource], dict[str, str]]:
        """Return the tensors to store by name, and other names of the same bytes."""
        first: dict[TensorContent, str] = {}
        for name, content in self._contents.items():
            first.setdefault(content, name)
        tensors = {name: self._tensors[content] for content, name in first.items()}
        others = {name: first[content] for name, content in self._contents.items()}
        return tensors, {name: stored for name, stored in others.items() if name != stored}

    def _store(self, name: str, value: Any) -> None:
        """Keep a tensor under a name; equal tensors are kept once, because most are seen twice."""
        tensor = copy_tensor(value)
        data = np.ascontiguousarray(tensor.read()).data
        content = tensor.kind, tensor.shape, hashlib.blake2b(data, digest_size=16).digest()
        self._contents[name] = content
        self._tensors.setdefault(content, tensor)


class TorchTraceWriter:
    """Write the calls of a program to the folder of a trace.

    The tensors of a call stay in memory until it ends. The last call stays open until the next one,
    because programs may go on with its layers (clip skip does).

    Args:
        folder: The folder to write.
        selection: Calls, layers and steps to record. None: all.
        overwrite: Whether an existing trace is replaced.
    """

    def __init__(
        self, folder: str | Path, selection: Selection | None = None, overwrite: bool = False
    ):
        versions = {"torch": torch.__version__, "python": platform.python_version()}
        self.manifest: dict[str, Any] = {"program": "PyTorch", "versions": versions}
        self.last: RecordedCall | None = None
        self._selection = selection or Selection()
        self._writer = TraceWriter(Path(folder), {}, overwrite=overwrite)
        self._counts: Counter[str] = Counter()

    def begin(
        self, name: str, numbered: bool = True, network: torch.nn.Module | None = None
    ) -> RecordedCall:
        """Begin a call: `unet.000`, `unet.001`; or, if not `numbered`, `schedule`, `schedule~1`."""
        count = self._counts[name]
        self._counts[name] += 1
        again = f"{AGAIN}{count}" if count else ""
        full = name + (f".{count:03}" if numbered else again)
        step = self._counts["sampler"] - (name == "sampler") if numbered else None
        taken = self._selection.takes_call(full, step)
        return RecordedCall(full, self._selection if taken else None, network)

    def end(self, call: RecordedCall) -> None:
        """End a call, and write the one before."""
        self.flush()
        self.last = call

    def flush(self) -> None:
        """Write the call that ended last."""
        if self.last is not None and self.last.entries:
            tensors, shared = self.last.resolve()
            entries = self.last.entries.values()
            self._writer.write_call(self.last.name, entries, tensors, shared)
        self.last = None

    def close(self) -> Path:
        """Write the last call and the manifest."""
        self.flush()
        self._writer.manifest = {key: plain(value) for key, value in self.manifest.items()}
        return self._writer.close()


def plain(value: Any) -> Any:
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
