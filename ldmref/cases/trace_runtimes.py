"""Golden traces in a runtime: the networks by the runtime, all others by ldmref."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.backends.base import Backend
from ldmref.backends.numpy import NumpyBackend
from ldmref.cases.files import SuiteReader
from ldmref.cases.golden_models import golden_model
from ldmref.cases.model import CODE, GoldenCase, Suite
from ldmref.cases.recorder import flat
from ldmref.cases.trace_runs import GoldenTrace, golden_traces, record_run
from ldmref.errors import InputError
from ldmref.families.lookup import find_network, networks_of_run
from ldmref.models.declared import DeclaredNetwork

Load = Callable[[str], Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]]


def compute_trace(case: GoldenCase, reader: SuiteReader, backend: Backend) -> dict[str, np.ndarray]:
    """Run a golden trace on a backend from the case's noise, and return what is compared."""
    trace = find_trace(case.name)
    run = record_run(trace, golden_model(trace.family, backend), reader.inputs(case))
    return {x.name: run.tensors[x.name] for x in case.outputs if x.name in run.tensors}


def find_trace(name: str) -> GoldenTrace:
    """Return the run of a case.

    Raises:
        InputError: This version of ldmref does not know it.
    """
    family = name.partition(".")[0]
    found = next((trace for trace in golden_traces((family,)) if trace.name == name), None)
    if found is None:
        message = f"this version of ldmref does not know the run {name!r}"
        raise InputError(message, code=CODE, hint="update ldmref")
    return found


def graph_backend(case: GoldenCase, suite: Suite, load: Load) -> Backend:
    """Return NumPy with the networks of a case computed by a runtime from the suite's graphs."""
    backend = RuntimeBackend(dtype="float32")
    trace = find_trace(case.name)
    backend.networks = networks_of_run(golden_model(trace.family).config)
    for call, name in case.attributes["networks"].items():
        if name not in suite.cases:
            message = f"the suite does not have the network {name!r}"
            raise InputError(message, code=CODE, hint="add --part networks to ldmref cases make")
        network = suite.cases[name]
        model = load(str(Path(suite.folder) / network.path / "model.onnx"))
        backend.graphs[call] = network, model
    return backend


class RuntimeBackend(NumpyBackend):
    """NumPy, with networks that are given as functions of their inputs."""

    compiles = True

    def set_up(self) -> None:
        super().set_up()
        self.graphs: dict[str, tuple[GoldenCase, Callable]] = {}
        self.networks: tuple[DeclaredNetwork, ...] = ()

    def compile(self, network: Callable, params: Mapping[str, Any]) -> Callable:
        names = list(inspect.signature(network).parameters)[2:]

        def run(*args: Any, **kwargs: Any) -> Any:
            arguments = dict(zip(names, args, strict=False)) | kwargs
            found = find_network(self.networks, network.__name__, arguments)
            assert found is not None
            case, compute = self.graphs[found.name]
            by_role = {found.role_of(name): value for name, value in arguments.items()}
            n = by_role[case.inputs[0].name].shape[0]
            inputs = {x.name: _filled(by_role[x.name], x.shape, x.dtype) for x in case.inputs}
            results = tuple(np.asarray(y)[:n] for y in compute(inputs))
            return results if len(flat(results)) > 1 else results[0]

        return run


def _filled(x: np.ndarray, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Repeat the examples of a batch until it has the size of a graph's input."""
    times = -(-shape[0] // x.shape[0])
    return np.concatenate([np.asarray(x, dtype)] * times)[: shape[0]]
