"""A backend that records every layer of every network that it runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ldmref.backends.base import Backend
from ldmref.backends.named import LayerCall, NamedBackend
from ldmref.models.config import TEXT_ENCODERS, ModelConfig
from ldmref.trace.recorder import CallRecord, Recorder

# the function of a network -> the names of its calls, arguments and outputs, where they differ
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


def _index_of(config: Any, configs: tuple[Any, ...]) -> int:
    return next((i for i, known in enumerate(configs) if known is config), 0)
