"""Ports in NumPy: networks of random models, recorded, with layers that compute something else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import ldmref
from ldmref.backends import get_backend
from ldmref.backends.named import LayerCall, NamedBackend
from ldmref.locate.recorded.precision import round_to
from ldmref.models.declared import NetworkInput
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import tree_map
from ldmref.trace import tensor_name

SIZES = {"batch": 2, "timesteps": 2, "height": 8, "width": 4, "tokens": 5}
Change = Callable[[LayerCall, Mapping[str, Any]], Any]


class NumpyPort(NamedBackend):
    """A port that records its layers, and computes some of them in another way.

    Args:
        call: The call, "unet.000".
        wrong: For names or kinds of layers, functions of the call and of its arrays.
        hidden: Kinds of layers that are not recorded.
        dtype: The number format; narrower ones than float32 round what each layer returns.
    """

    def __init__(
        self,
        call: str,
        wrong: Mapping[str, Change],
        hidden: Sequence[str] = (),
        dtype: str = "float32",
    ):
        self.stored = "float64" if dtype == "float64" else "float32"
        super().__init__(get_backend("numpy", dtype=self.stored))
        self.rounded = dtype
        self.call = call
        self.wrong = wrong
        self.hidden = hidden
        self.tensors: dict[str, np.ndarray] = {}
        self.layers: dict[str, LayerCall] = {}  # those of one operation

    def visit(self, call: LayerCall) -> Any:
        if not call.composite:
            self.layers[call.name] = call
        change = self.wrong.get(call.name, self.wrong.get(call.kind))
        if change is None:
            output = call.compute(call.inputs)
        else:
            output = change(call, {**call.parameters, **call.inputs})
        several = isinstance(output, tuple)
        parts = [self.store(part) for part in (output if several else (output,))]
        if call.kind not in self.hidden:
            for role, x in call.inputs.items():
                self.tensors[tensor_name(self.call, call.name, "input", role)] = np.asarray(x)
            for i, part in enumerate(parts):
                role = str(i) if several else ""
                self.tensors[tensor_name(self.call, call.name, "output", role)] = part
        return tuple(parts) if several else parts[0]

    def store(self, x: Any) -> np.ndarray:
        """Return an array in the port's number format."""
        return round_to(np.asarray(x, self.stored), self.rounded)


def make_model(name: str) -> LatentDiffusion:
    """Return a random model whose biases and norms are random, so that leaving one out shows."""
    model = ldmref.random_model(name, seed=3)
    rng = np.random.default_rng(0)
    for network in model.params.values():
        shake(network, rng)
    return model


def shake(tree: Any, rng: np.random.Generator) -> None:
    for key, value in tree.items():
        if isinstance(value, dict):
            shake(value, rng)
        elif np.ndim(value) == 1:
            tree[key] = (value + 0.3 * rng.standard_normal(value.shape)).astype(np.float32)


def run_port(
    model: LatentDiffusion,
    wrong: Mapping[str, Change] | None = None,
    network: str = "unet",
    hidden: Sequence[str] = (),
    given: Mapping[str, np.ndarray] | None = None,
    dtype: str = "float32",
    **changed: Any,
) -> dict[str, np.ndarray]:
    """Return what a port records of one call of a network.

    Args:
        model: The model.
        wrong: The layers that compute something else, as `NumpyPort` takes them.
        network: The network.
        hidden: Kinds of layers that are not recorded.
        given: Arguments that are not random.
        dtype: The port's number format.
        **changed: Arguments with which the network runs, instead of those recorded.
    """
    return _run(model, wrong, network, hidden, given or {}, changed, dtype).tensors


def layers_of(model: LatentDiffusion, network: str = "unet") -> dict[str, LayerCall]:
    """Return a LayerCall of each operation, by name."""
    return _run(model, None, network, (), {}, {}).layers


def _run(
    model: LatentDiffusion,
    wrong: Mapping[str, Change] | None,
    network: str,
    hidden: Sequence[str],
    given: Mapping[str, np.ndarray],
    changed: Mapping[str, Any],
    dtype: str = "float32",
) -> NumpyPort:
    name = "vae.encode" if network == "encode" else network
    (declared,) = (found for found in model.family.networks(model.config) if found.name == name)
    call = f"{name}.000" if declared.numbered else name
    rng = np.random.default_rng(1)
    port = NumpyPort(call, wrong or {}, hidden, dtype)
    arguments = {}
    for x in declared.inputs:
        drawn = given[x.argument] if x.argument in given else _draw(x, rng)
        arguments[x.argument] = port.store(drawn) if drawn.dtype.kind == "f" else drawn
        port.tensors[f"{call}//input.{x.role}"] = arguments[x.argument]
    params = tree_map(port.store, model.params[declared.params])
    port.name_parameters(params)
    with port.observed(declared.function.__name__):
        output = declared.function(port, params, **declared.settings, **{**arguments, **changed})
    if not isinstance(output, tuple):
        port.tensors[f"{call}//output"] = port.store(output)
    return port


def _draw(x: NetworkInput, rng: np.random.Generator) -> np.ndarray:
    shape = x.shape_at(SIZES)
    if x.content == "timesteps":
        return np.array([400.0, 250.0], np.float32)
    if x.content == "guidance":
        return np.array([3.5, 2.0], np.float32)
    if x.content == "ids":
        return rng.integers(0, x.below, shape)
    return rng.standard_normal(shape).astype(np.float32)
