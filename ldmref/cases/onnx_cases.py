"""Write layers and networks as ONNX backend test cases."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, NamedTuple

import numpy as np

from ldmref.backends.graph.graph import Graph
from ldmref.backends.graph.onnx import import_onnx, make_model
from ldmref.cases.described_folder import WriteFile
from ldmref.cases.families import networks
from ldmref.cases.graphs import LayerGraph, trace_network
from ldmref.cases.model import DATA, CaseTensor, GoldenCase
from ldmref.cases.network_cases import NetworkCase
from ldmref.cases.recorder import RecordedLayer, compute_network, stored


def write_onnx_cases(
    write: WriteFile,
    parts: Sequence[str],
    families: Collection[str] = (),
    more: Collection[str] = (),
) -> Iterator[GoldenCase]:
    """Write every network and every layer that differs from earlier ones; yield their cases.

    Args:
        write: Function `write(path, data)` that writes a file of the suite.
        parts: "layers", "networks" or both.
        families: Names in `ldmref.cases.families.FAMILIES`; (): all.
        more: Names of networks to write in any case.
    """
    written: set[str] = set()
    for case in _write_selected(write, parts, families) if parts else ():
        if case.part == "networks":
            written.add(case.name)
        yield case
    missing = set(more) - written
    for net in (*networks(), *networks(families)) if missing else ():
        if net.name in missing:
            missing.remove(net.name)
            graph, _ = trace_network(net)
            exact, tolerances, _ = compute_network(
                net.function, net.params, net.settings, net.inputs, ()
            )
            yield _write_network(write, net, graph, exact, tolerances)


def _write_selected(
    write: WriteFile, parts: Sequence[str], families: Collection[str]
) -> Iterator[GoldenCase]:
    seen: set[tuple[str, bytes]] = set()
    for net in networks(families):
        graph, layers = trace_network(net)
        new = {}
        for layer in layers:
            if "layers" in parts and layer.signature not in seen:
                seen.add(layer.signature)
                new[layer.name] = layer
        exact, tolerances, recorded = compute_network(
            net.function, net.params, net.settings, net.inputs, new
        )
        for record in recorded:
            yield _write_layer(write, net, new[record.name], record)
        if "networks" in parts:
            yield _write_network(write, net, graph, exact, tolerances)


def _write_layer(
    write: WriteFile, net: NetworkCase, layer: LayerGraph, record: RecordedLayer
) -> GoldenCase:
    name = f"{net.name}.{record.name}"
    inputs = {x.name: record.inputs[x.name] for x in layer.graph.inputs}
    attributes = {key: plain(value) for key, value in record.attributes.items()}
    case = ComputedGraph(
        "layers",
        name,
        record.kind,
        layer.graph,
        inputs,
        [record.outputs[i] for i in layer.returned],
        [record.tolerances[i] for i in layer.returned],
        attributes | layer.same,
        record.basis,
    )
    return _write_case(write, case)


def _write_network(
    write: WriteFile,
    net: NetworkCase,
    graph: Graph,
    exact: Sequence[np.ndarray],
    tolerances: Sequence[Mapping[str, float]],
) -> GoldenCase:
    by_role = {net.roles[name]: stored(x) for name, x in net.inputs.items()}
    inputs = {x.name: by_role[x.name] for x in graph.inputs}
    attributes = {name: plain(x) for name, x in net.settings.items() if x is not None}
    case = ComputedGraph(
        "networks",
        net.name,
        net.description,
        graph,
        inputs,
        exact,
        tolerances,
        attributes,
        "propagated",
    )
    return _write_case(write, case)


class ComputedGraph(NamedTuple):
    """A network or layer as ONNX, with the arrays of one call and the tolerance of each output."""

    part: str
    name: str
    kind: str
    graph: Graph
    inputs: Mapping[str, np.ndarray]
    outputs: Sequence[np.ndarray]
    tolerances: Sequence[Mapping[str, float]]
    attributes: Mapping[str, Any]
    basis: str


def _write_case(write: WriteFile, case: ComputedGraph) -> GoldenCase:
    graph, inputs = case.graph, case.inputs
    folder = f"{case.part}/{case.name}"
    model = make_model(graph, "embedded")
    model.graph.name = case.name
    write(f"{folder}/model.onnx", model.SerializeToString(deterministic=True))
    for i, (role, x) in enumerate(inputs.items()):
        write(f"{folder}/{DATA}/input_{i}.pb", tensor_bytes(role, x))
    results = []
    for i, (declared, y) in enumerate(zip(graph.outputs, case.outputs, strict=True)):
        write(f"{folder}/{DATA}/output_{i}.pb", tensor_bytes(declared.name, stored(y)))
        tolerance = {dtype: (rounded_up(atol), 0.0) for dtype, atol in case.tolerances[i].items()}
        results.append(CaseTensor(declared.name, "float32", y.shape, tolerance))
    largest = max(x.tolerance["float32"][0] for x in results)
    data = json.dumps({"rtol": 0.0, "atol": largest})  # read by onnx.backend.test
    write(f"{folder}/data.json", f"{data}\n".encode())
    described = tuple(CaseTensor(role, str(x.dtype), x.shape) for role, x in inputs.items())
    return GoldenCase(
        case.name,
        case.part,
        case.kind,
        folder,
        described,
        tuple(results),
        case.attributes,
        tuple(graph.parameters),
        case.basis,
    )


def tensor_bytes(name: str, x: np.ndarray) -> bytes:
    """Return an array as a serialized TensorProto."""
    helper = import_onnx().helper
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    tensor = helper.make_tensor(name, kind, x.shape, np.ascontiguousarray(x).tobytes(), raw=True)
    return tensor.SerializeToString(deterministic=True)


def plain(value: object) -> Any:
    """Return an argument as JSON."""
    if is_dataclass(value) and not isinstance(value, type):
        return {key: plain(item) for key, item in asdict(value).items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def rounded_up(x: float) -> float:
    """Return a tolerance with three digits, never smaller: the last bits do not matter.

    >>> rounded_up(1.23456e-6)
    1.24e-06
    """
    if x == 0.0:
        return 0.0
    text = f"{x:.2e}"
    return float(text) if float(text) >= x else float(f"{x * 1.005:.2e}")
