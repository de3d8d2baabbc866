"""Runtimes that compute cases here: ONNX Runtime, OpenVINO, onnx.reference, and ldmref itself.

Of a golden trace, a runtime computes the networks, and ldmref all else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ldmref.backends.base import Backend
from ldmref.backends.named import LayerCall, NamedBackend
from ldmref.backends.numpy import NumpyBackend
from ldmref.backends.openvino import import_openvino
from ldmref.cases.families import networks
from ldmref.cases.files import SuiteReader
from ldmref.cases.golden_models import golden_model
from ldmref.cases.graphs import name_results
from ldmref.cases.make import value_cases
from ldmref.cases.model import CODE, ONNX_PARTS, PARTS, TRACES, VALUE_PARTS, GoldenCase, Suite
from ldmref.cases.network_cases import NetworkCase
from ldmref.cases.recorder import EMBEDDING, HALF, flat
from ldmref.cases.trace_runs import GoldenTrace, golden_traces, record_run
from ldmref.errors import BackendUnavailable, InputError
from ldmref.families.lookup import find_network, networks_of_run
from ldmref.models.declared import DeclaredNetwork

if TYPE_CHECKING:
    from types import ModuleType

Outputs = dict[str, np.ndarray]
Answer = tuple[GoldenCase, Outputs | None, str]  # the outputs, or why there are none
ERRORS_ONLY = 3

Load = Callable[[str], Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]]


class OnnxRuntime:
    """A runtime that reads ONNX models.

    Args:
        name: Its name on the command line.
        module: The module that it needs.
        package: What to install.
        load: `load(module, path)` -> function of the inputs by name.
    """

    parts: tuple[str, ...] = (*ONNX_PARTS, TRACES)
    dtype = "float32"

    def __init__(
        self,
        name: str,
        module: str,
        package: str,
        load: Callable[[Any, str], Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]],
    ):
        self.name = name
        self._module = module
        self._package = package
        self._load = load

    def open(self) -> Any:
        """Import the runtime.

        Raises:
            BackendUnavailable: It is not installed.
        """
        try:
            if self._module == "openvino":
                return import_openvino()
            return import_module(self._module)
        except ImportError as error:
            message = f"the runtime {self.name} needs {self._module}, which is not installed"
            hint = f"pip install {self._package}"
            raise BackendUnavailable(message, code="E-BACKEND", hint=hint) from error

    def describe(self) -> str:
        """Return name and version."""
        module = self.open()
        version = getattr(module, "__version__", "")
        if not version:
            version = getattr(import_module(self._module.partition(".")[0]), "__version__", "")
        return f"{self.name} {version.partition('-')[0]}"

    def run(self, cases: list[GoldenCase], reader: SuiteReader) -> Iterator[Answer]:
        """Compute each case; what a runtime raises is the note of that case."""
        module = self.open()
        for case in cases:
            try:
                outputs = self._compute(module, case, reader)
            except Exception as error:  # a runtime raises any class
                first = (str(error).strip().splitlines() or [""])[0]
                yield case, None, f"{type(error).__name__}: {first[:200]}"
                continue
            yield case, outputs, ""

    def _compute(self, module: object, case: GoldenCase, reader: SuiteReader) -> Outputs:
        """Compute one case; of a trace, the networks."""
        load = partial(self._load, module)
        if case.part == TRACES:
            return compute_trace(case, reader, graph_backend(case, reader.suite, load))
        values = load(str(reader.model(case)))(reader.inputs(case))
        names = [x.name for x in case.outputs]
        return dict(zip(names, map(np.asarray, values), strict=True))


def _load_onnxruntime(module: ModuleType, path: str) -> Callable:
    options = module.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    session = module.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, dict(inputs))


def _load_openvino(module: ModuleType, path: str) -> Callable:
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = module.Core().compile_model(path, "CPU", options)

    def run(inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        results = compiled(dict(inputs))
        return [np.array(results[i]) for i in range(len(compiled.outputs))]

    return run


def _load_reference(module: ModuleType, path: str) -> Callable:
    evaluator = module.ReferenceEvaluator(path)
    return lambda inputs: evaluator.run(None, dict(inputs))


class LdmrefRuntime:
    """ldmref's own definitions on one of its backends.

    Args:
        backend: The backend.
    """

    name = "ldmref"

    def __init__(self, backend: Backend):
        self.backend = backend
        self.dtype = backend.dtype
        self.parts: tuple[str, ...] = ONNX_PARTS if self.dtype in HALF else PARTS

    def describe(self) -> str:
        """Return the backend's name, version and dtype."""
        ops = self.backend
        return " ".join(filter(None, ("ldmref,", ops.name, ops.version(), ops.dtype)))

    def run(self, cases: list[GoldenCase], reader: SuiteReader) -> Iterator[Answer]:
        """Compute each case: layers, networks and traces on the backend, others on the host."""
        wanted = {case.name: case for case in cases}
        if any(case.part in ONNX_PARTS for case in cases):
            for net in networks(reader.suite.families):
                yield from self._run_network(net, wanted, reader)
        for case in cases:
            if case.part == TRACES:
                yield case, compute_trace(case, reader, self.backend), ""
        for part in dict.fromkeys(case.part for case in cases if case.part in VALUE_PARTS):
            for value in value_cases(part):
                if value.name in wanted:
                    case = wanted[value.name]
                    outputs = value.compute(reader.inputs(case))
                    yield case, {k: np.asarray(v) for k, v in outputs.items()}, ""

    def _run_network(
        self, net: NetworkCase, wanted: Mapping[str, GoldenCase], reader: SuiteReader
    ) -> Iterator[Answer]:
        prefix = f"{net.name}."
        layers = {
            name.removeprefix(prefix): case
            for name, case in wanted.items()
            if name.startswith(prefix) and case.part == "layers"
        }
        whole = wanted.get(net.name)
        if not layers and whole is None:
            return
        ops = self.backend
        params = _on_backend(ops, net.params)
        if whole is not None:
            by_role = reader.inputs(whole)
            arrays = {k: _input_on(ops, k, by_role[role]) for k, role in net.roles.items()}
            with ops.inference():
                network = ops.compile(net.function, params)
                results = flat(network(**net.settings, **arrays))
            names = [x.name for x in whole.outputs]
            outputs = [ops.to_numpy(y) for y in results]
            yield whole, dict(zip(names, outputs, strict=True)), ""
        if layers:
            answers = LayerAnswers(ops, layers, reader)
            arrays = {k: _input_on(ops, k, x) for k, x in net.inputs.items()}
            with ops.inference():
                answers.compile(net.function, params)(**net.settings, **arrays)
            yield from answers.found


def _input_on(ops: Backend, name: str, x: np.ndarray, is_embedded: bool = False) -> Any:
    """Return an input of a network or layer on a backend.

    What is embedded is in float32 in every program: sizes, and numbers of one axis, which are
    times and guidance scales.
    """
    numbers = x.ndim == 1 and x.dtype.kind == "f"
    wide = is_embedded or numbers or name == "sizes"
    return ops.asarray(x, ops.state_dtype) if wide else ops.asarray(x)


class LayerAnswers(NamedBackend):
    """Run a network and, at each layer of a case, compute the layer from the case's inputs."""

    def __init__(self, inner: Backend, cases: Mapping[str, GoldenCase], reader: SuiteReader):
        super().__init__(inner)
        self.cases = cases
        self.reader = reader
        self.found: list[Answer] = []
        self._alone = False

    def visit(self, call: LayerCall) -> Any:
        """Compute a layer of the network and, from other inputs, that of the case."""
        y = call.compute(call.inputs)
        case = self.cases.get(call.name)
        if case is None or self._alone:
            return y
        embeds = call.kind == EMBEDDING
        stored = self.reader.inputs(case)
        inputs = {name: _input_on(self.inner, name, x, embeds) for name, x in stored.items()}
        for role, x in call.inputs.items():
            if role not in inputs:  # the same as another one, or a constant
                other = case.attributes.get(role)
                inputs[role] = x if other is None else inputs[str(other)]
        self._alone = True
        try:
            with self.observed(call.name):
                results = flat(call.compute(inputs))
        finally:
            self._alone = False
        wanted = {x.name for x in case.outputs}
        named = zip(name_results(call, len(results)), results, strict=True)
        outputs = {role: self.inner.to_numpy(y) for role, y in named if role in wanted}
        self.found.append((case, outputs, ""))
        return y


def _on_backend(ops: Backend, params: Any) -> Any:
    from ldmref.models.params import tree_map

    return tree_map(ops.weight, params)


RUNTIMES: dict[str, OnnxRuntime] = {
    runtime.name: runtime
    for runtime in (
        OnnxRuntime("onnxruntime", "onnxruntime", "'ldmref[onnx]'", _load_onnxruntime),
        OnnxRuntime("openvino", "openvino", "'ldmref[openvino]'", _load_openvino),
        OnnxRuntime("onnx-reference", "onnx.reference", "onnx", _load_reference),
    )
}


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
    family = name.rsplit(".", 2)[0]  # before mode and sampler; it may have points
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
