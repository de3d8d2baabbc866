"""The errors of outputs: each layer of the first model's run, computed again with other weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ldmref.backends.base import Backend
from ldmref.backends.named import OPERATIONS, LayerCall, NamedBackend
from ldmref.families.lookup import find_network, networks_of_run
from ldmref.ledger.weights import ChangedWeights, perturb, relative, squared
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.trajectory import RunObserver


class OutputErrors(NamedTuple):
    """The relative errors of a layer's output: of the other weights, the controls, the floor."""

    other: float
    control: tuple[float, ...]
    floor: float


class OutputBackend(NamedBackend):
    """A backend that computes layers of the denoiser again, and adds up their errors.

    Its results are those of the backend inside.

    Args:
        inner: The backend that computes.
        config: The configuration of the model.
        changed: The weights that differ, by name within the denoiser.
        seeds: The seeds of the controls.
        floor: A backend in the format of the floor.
    """

    def __init__(
        self,
        inner: Backend,
        config: ModelConfig,
        changed: ChangedWeights,
        seeds: Sequence[int],
        floor: Backend,
    ):
        super().__init__(inner)
        self._networks = networks_of_run(config)
        self._denoiser = config.denoiser.network
        self._open: list[bool] = []
        self._changed = {_layer(name): name for name in changed}
        self._weights = changed
        self._seeds = seeds
        self._floor = floor
        self._others: dict[str, list[Any]] = {}
        self._size: dict[str, float] = defaultdict(float)
        self._errors: dict[str, np.ndarray] = {}

    def begin(self, network: str, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        """Note whether the network is the denoiser."""
        found = find_network(self._networks, network, arrays)
        self._open.append(found is not None and found.name == self._denoiser)
        return arrays

    def end(self, network: str, output: object) -> Any:
        """Note that a network has ended."""
        self._open.pop()
        return output

    def visit(self, call: LayerCall) -> Any:
        """Compute a layer, and with the other weights if it has any."""
        output = call.compute(call.inputs)
        inside = bool(self._open) and self._open[-1]
        if inside and call.kind in OPERATIONS and call.parameters and call.layer in self._changed:
            self._add(call, output)
        return output

    def results(self) -> dict[str, OutputErrors]:
        """Return the errors so far, by the name of the weight."""
        found = {}
        for name, errors in self._errors.items():
            other, floor, *control = (relative(error, self._size[name]) for error in errors)
            found[name] = OutputErrors(other, tuple(control), floor)
        return found

    def _add(self, call: LayerCall, output: Any) -> None:
        name = self._changed[call.layer]
        role = name.rpartition(".")[2]
        if role not in call.parameters:
            return
        y = self.inner.to_numpy(output).astype(np.float64)
        found = []
        for weight in self._read(name):
            z = recompute(self.inner, call, {**call.parameters, role: weight})
            found.append(squared(self.inner.to_numpy(z).astype(np.float64) - y))
        found.insert(1, squared(self._in_floor(call) - y))
        self._size[name] += squared(y)
        self._errors[name] = self._errors.get(name, np.zeros(len(found))) + found

    def _read(self, name: str) -> list[Any]:
        """Return the other weights and the controls, which stay in memory for the next call."""
        if name not in self._others:
            first, second = self._weights[name]
            arrays = [second, *(perturb(first, second, name, seed) for seed in self._seeds)]
            self._others[name] = [self.inner.weight(x.astype(np.float32)) for x in arrays]
        return self._others[name]

    def _in_floor(self, call: LayerCall) -> np.ndarray:
        """Return the output of a layer in the format of the floor, from the same inputs."""
        ops = self._floor

        def convert(arrays: Mapping[str, Any], bring: Any) -> dict[str, Any]:
            return {role: bring(self.inner.to_numpy(x)) for role, x in arrays.items()}

        moved = LayerCall(
            call.name,
            call.kind,
            convert(call.inputs, ops.asarray),
            convert(call.parameters, ops.weight),
            call.attributes,
            call.compute,
        )
        return ops.to_numpy(recompute(ops, moved, moved.parameters)).astype(np.float64)


def recompute(ops: Backend, call: LayerCall, parameters: Mapping[str, Any]) -> Any:
    """Return what an operation computes from the inputs of a call with other parameters."""
    inputs = dict(call.inputs)
    first = inputs.pop("input")
    return getattr(ops, call.kind)(first, **inputs, **parameters, **call.attributes)


class OutputObserver(RunObserver):
    """Watches the run of the first model with an `OutputBackend`.

    Args:
        changed, seeds, floor: As for `OutputBackend`.
    """

    def __init__(self, changed: ChangedWeights, seeds: Sequence[int], floor: Backend):
        self._arguments = changed, seeds, floor
        self.backend: OutputBackend

    def watch(self, model: LatentDiffusion) -> LatentDiffusion:
        """Return a copy of the model whose layers are computed again."""
        self.backend = OutputBackend(model.backend, model.config, *self._arguments)
        return model.with_backend(self.backend)


def _layer(name: str) -> str:
    return name.rpartition(".")[0]
