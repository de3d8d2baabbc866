"""The recorder of a run: a backend that keeps every layer, and the calls of the host."""

from __future__ import annotations

import inspect
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

from ldmref.backends.base import Backend
from ldmref.backends.named import AGAIN, LayerCall, NamedBackend
from ldmref.io.tensors.writer import TensorSource
from ldmref.models.config import TEXT_ENCODERS, ModelConfig
from ldmref.trace.model import TraceEntry, tensor_name
from ldmref.trace.selection import Selection
from ldmref.trace.store import TensorStore

# The function of a network -> the name of its calls, and of its arguments if they differ.
NUMBERED = ("unet", "controlnet", "guidance", "sampler", "jump", "train")
CALLS: Mapping[str, str] = {
    "text_encoder_pooled": "text_encoder",
    "decode": "vae.decode",
    "encode": "vae.encode",
    "encode_hint": "controlnet.hint",
    "tiny_decode": "taesd.decode",
    "tiny_encode": "taesd.encode",
    "rescaler": "cond_stage",
}
UNET_ROLES = {
    "x": "sample",
    "t": "timestep",
    "context": "encoder_hidden_states",
    "pooled": "text_embeds",
    "sizes": "time_ids",
}
ROLES: Mapping[str, Mapping[str, str]] = {
    "unet": UNET_ROLES,
    "controlnet": UNET_ROLES,
    "text_encoder": {"ids": "input_ids"},
    "text_encoder_pooled": {"ids": "input_ids"},
    "decode": {"z": "latents"},
}
OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "encode": ("mean", "logvar"),
    "text_encoder_pooled": ("", "pooled"),
}


class CallWriter(Protocol):
    """The destination of complete calls: `TraceWriter`, or an estimate."""

    def write_call(
        self,
        call: str,
        entries: list[TraceEntry],
        tensors: Mapping[str, TensorSource],
        shared: Mapping[str, str],
    ) -> None: ...


class CallRecord:
    """One call while it is recorded.

    Args:
        name: Its name, `unet.003`.
        ops: Backend of the arrays.
        store: Where the tensors are kept.
        selection: The layers to keep.
    """

    def __init__(self, name: str, ops: Backend, store: TensorStore, selection: Selection):
        self.name = name
        self.ops = ops
        self.store = store
        self.selection = selection
        self.entries: list[TraceEntry] = []

    def add(
        self,
        layer: str,
        kind: str,
        inputs: Mapping[str, Any],
        attributes: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> int | None:
        """Add a layer, and return its index for `add_outputs`; None if it is not selected."""
        if not self.selection.takes_layer(layer):
            return None
        named = self._store(layer, "input", inputs)
        kept = {k: v for k, v in (attributes or {}).items() if v is not None and is_json(v)}
        self.entries.append(TraceEntry(self.name, layer, named, {}, kind, kept))
        index = len(self.entries) - 1
        self.add_outputs(index, outputs or {})
        return index

    def add_outputs(self, index: int | None, outputs: Mapping[str, Any]) -> None:
        """Add the outputs of a layer after its computation."""
        if index is not None and outputs:
            entry = self.entries[index]
            named = self._store(entry.layer, "output", outputs)
            self.entries[index] = replace(entry, outputs={**entry.outputs, **named})

    def _store(self, layer: str, side: str, arrays: Mapping[str, Any]) -> dict[str, str]:
        names = {}
        for role, array in arrays.items():
            name = tensor_name(self.name, layer, side, role)
            self.store.add(self.ops, name, array)
            names[role or side] = name
        return names


class Recorder:
    """The calls of a run, in order; each is written when it has ended.

    Args:
        writer: Where complete calls go.
        new_store: Makes the store of a call.
        selection: What to record.

    Attributes:
        step: Index of the sampler's step that is being taken; None outside of steps.
        visited: Indices of the steps so far.
        paused: Whether nothing is recorded, not even counted.
    """

    def __init__(
        self,
        writer: CallWriter,
        new_store: Callable[[], TensorStore],
        selection: Selection | None = None,
    ):
        self.writer = writer
        self.new_store = new_store
        self.selection = selection or Selection()
        self.step: int | None = None
        self.visited: set[int] = set()
        self.paused = False
        self._counts: Counter[str] = Counter()

    def count_call(self, kind: str) -> str:
        """Return the name of the next call of a kind, and count it."""
        name = self.next_name(kind)
        self._counts[kind] += 1
        return name

    def count(self, kind: str) -> int:
        """Return the number of calls of a kind so far."""
        return self._counts[kind]

    def next_name(self, kind: str) -> str:
        """Return the name of the next call of a kind: `unet.000`, `vae.decode`, `vae.decode~1`."""
        count = self._counts[kind]
        if kind in NUMBERED:
            return f"{kind}.{count:03}"
        return f"{kind}{AGAIN}{count}" if count else kind

    def begin(self, kind: str, ops: Backend, number: int | None = None) -> CallRecord | None:
        """Begin a call; None if it is not selected. `number` is its number; None: the next one."""
        if self.paused:
            return None
        name = self.count_call(kind) if number is None else f"{kind}.{number:03}"
        if not self.selection.takes_call(name, self.step):
            return None
        return CallRecord(name, ops, self.new_store(), self.selection)

    def end(self, call: CallRecord | None) -> None:
        """End a call: write it."""
        if call is None:
            return
        try:
            store = call.store
            self.writer.write_call(call.name, call.entries, store.sources, store.shared)
        finally:
            call.store.close()

    @contextmanager
    def call(
        self, kind: str, ops: Backend, number: int | None = None
    ) -> Iterator[CallRecord | None]:
        """Record a call; one that fails is not written."""
        call = self.begin(kind, ops, number)
        try:
            yield call
        except BaseException:
            if call is not None:
                call.store.close()
            raise
        self.end(call)


class LayerRecordingBackend(NamedBackend):
    """A backend that records every layer of every network.

    Its results do not change: operations that the inner backend fuses are recorded as what they
    are. Only inputs and outputs are recorded if it compiles networks.

    Args:
        inner: Backend that computes.
        recorder: Where calls are recorded.
        config: The model's configuration, which distinguishes its text encoders.
        whole: Whether to record only inputs and outputs of networks; None: if `inner` compiles.
    """

    def __init__(
        self, inner: Backend, recorder: Recorder, config: ModelConfig, whole: bool | None = None
    ):
        fused = [name for name in ("group_norm_silu", "geglu") if is_overridden(inner, name)]
        super().__init__(inner, decompose=not fused)
        self.recorder = recorder
        self.config = config
        self.whole = inner.compiles if whole is None else whole
        self._open: list[tuple[CallRecord | None, int | None]] = []

    def compile(self, network: Callable, params: Mapping[str, Any]) -> Callable:
        """Return a network whose calls are recorded."""
        if not self.inner.compiles:
            return super().compile(network, params)
        compiled = self.inner.compile(network, params)
        names = list(inspect.signature(network).parameters)[2:]

        def run(*args: Any, **kwargs: Any) -> Any:
            arguments = dict(zip(names, args, strict=False)) | kwargs
            self.begin(network.__name__, arguments)
            return self.end(network.__name__, compiled(*args, **kwargs))

        return run

    def begin(self, network: str, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        """Begin the call of a network."""
        kind = CALLS.get(network, network)
        if kind == "text_encoder":
            kind = TEXT_ENCODERS[_index_of(arrays.get("config"), self.config.text_encoders)]
        call = self.recorder.begin(kind, self.inner)
        index = None
        if call is not None:
            roles = ROLES.get(network, {})
            inputs: dict[str, Any] = {}
            for name, value in arrays.items():
                inputs |= flatten_arrays(roles.get(name, name), value)
            others = {name: value for name, value in arrays.items() if name not in inputs}
            index = call.add("", network, inputs, others)
        self._open.append((call, index))
        return arrays

    def end(self, network: str, output: Any) -> Any:
        """End the call of a network."""
        call, index = self._open.pop()
        if call is not None:
            roles = OUTPUTS.get(network)
            parts = flatten_arrays("", output)
            if roles is not None:
                parts = dict(zip(roles, output, strict=True))
            call.add_outputs(index, parts)
        self.recorder.end(call)
        return output

    def visit(self, call: LayerCall) -> Any:
        """Record a layer with its inputs and its output."""
        current = self._open[-1][0] if self._open else None
        if current is None or self.whole:
            return call.compute(call.inputs)
        index = current.add(call.name, call.kind, call.inputs, call.attributes)
        output = call.compute(call.inputs)
        if index is not None:
            current.add_outputs(index, flatten_arrays("", output))
        return output

    def abandon(self) -> None:
        """Forget calls that were interrupted."""
        for call, _ in self._open:
            if call is not None:
                call.store.close()
        self._open.clear()


def flatten_arrays(role: str, value: Any) -> dict[str, Any]:
    """Return the arrays of an argument by role: those of tuples as `control.down.0`."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return {role: value}
    if isinstance(value, list | tuple):
        names = getattr(value, "_fields", None) or [str(i) for i in range(len(value))]
        parts: dict[str, Any] = {}
        for name, part in zip(names, value, strict=True):
            parts |= flatten_arrays(f"{role}.{name}" if role else name, part)
        return parts
    return {}


def is_overridden(backend: Backend, operation: str) -> bool:
    """Return whether a backend has its own version of a composition."""
    return getattr(type(backend), operation) is not getattr(Backend, operation)


def is_json(value: Any) -> bool:
    """Return whether a value can be written as JSON."""
    if isinstance(value, float):
        return math.isfinite(value)
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _index_of(config: Any, configs: tuple[Any, ...]) -> int:
    return next((i for i, known in enumerate(configs) if known is config), 0)
