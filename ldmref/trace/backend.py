"""A backend that records every layer of every network that it runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ldmref.backends.base import Backend
from ldmref.backends.named import LayerCall, NamedBackend
from ldmref.families.lookup import find_network, networks_of_run
from ldmref.models.config import ModelConfig
from ldmref.models.declared import DeclaredNetwork
from ldmref.trace.recorder import CallRecord, Recorder


class LayerRecordingBackend(NamedBackend):
    """A backend that records every layer of every network.

    Its results do not change: operations that the inner backend fuses are recorded as what they
    are. Only inputs and outputs are recorded if it compiles networks.

    Args:
        inner: Backend that computes.
        recorder: Where calls are recorded.
        config: The model's configuration, which distinguishes its text encoders.
        whole: Whether to record only inputs and outputs of networks; None: if `inner` compiles.
            With False, networks are computed by the operations of `inner`, uncompiled.
        prefix: What the names of calls begin with: `guide.` for those of a second model.
    """

    def __init__(
        self,
        inner: Backend,
        recorder: Recorder,
        config: ModelConfig,
        whole: bool | None = None,
        prefix: str = "",
    ):
        fused = [name for name in ("group_norm_silu", "geglu") if is_overridden(inner, name)]
        super().__init__(inner, decompose=not fused)
        self.recorder = recorder
        self.networks = networks_of_run(config)
        self.prefix = prefix
        recorder.numbered |= {
            prefix + network.name for network in self.networks if network.numbered
        }
        self.whole = inner.compiles if whole is None else whole
        self.compiled = inner.compiles and self.whole
        self._open: list[tuple[DeclaredNetwork | None, CallRecord | None]] = []

    def compile(self, network: Callable, params: Mapping[str, Any]) -> Callable:
        """Return a network whose calls are recorded."""
        if not self.compiled:
            return super().compile(network, params)
        compiled = self.inner.compile(network, params)
        names = list(inspect.signature(network).parameters)[2:]

        def run(*args: object, **kwargs: object) -> Any:
            arguments = dict(zip(names, args, strict=False)) | kwargs
            self.begin(network.__name__, arguments)
            return self.end(network.__name__, compiled(*args, **kwargs))

        return run

    def begin(self, network: str, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        """Begin the call of a network."""
        found = find_network(self.networks, network, arrays)
        call = self.recorder.begin(self.prefix + (found.name if found else network), self.inner)
        if call is not None:
            inputs: dict[str, Any] = {}
            for name, value in arrays.items():
                inputs |= flatten_arrays(found.role_of(name) if found else name, value)
            others = {name: value for name, value in arrays.items() if name not in inputs}
            for steering in others.pop("steering", ()):
                others |= steering.recorded
            call.add("", network, inputs, others)
        self._open.append((found, call))
        return arrays

    def end(self, network: str, output: object) -> Any:
        """End the call of a network."""
        found, call = self._open.pop()
        if call is not None:
            call.add("", outputs=name_outputs(found, output))
        self.recorder.end(call)
        return output

    def visit(self, call: LayerCall) -> Any:
        """Record a layer with its inputs and its output."""
        current = self._open[-1][1] if self._open else None
        if current is None or self.whole:
            return call.compute(call.inputs)
        current.add(call.name, call.kind, call.inputs, call.attributes)
        output = call.compute(call.inputs)
        current.add(call.name, outputs=flatten_arrays("", output))
        return output

    def abandon(self) -> None:
        """Forget calls that were interrupted."""
        for _, call in self._open:
            if call is not None:
                call.store.close()
        self._open.clear()


def flatten_arrays(role: str, value: object) -> dict[str, Any]:
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


def name_outputs(network: DeclaredNetwork | None, output: object) -> dict[str, Any]:
    """Return the arrays that a network returned by role; "" is the only, or first, output."""
    parts = flatten_arrays("", output)
    if network is None or len(parts) != len(network.outputs):
        return parts
    return dict(zip((role for role, _ in network.outputs), parts.values(), strict=True))
