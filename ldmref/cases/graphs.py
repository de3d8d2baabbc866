"""The ONNX graphs of a network and of each of its layers, by one run on symbolic arrays."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ldmref.backends.arguments import split_arrays
from ldmref.backends.base import Backend
from ldmref.backends.graph.arrays import SymbolicArray
from ldmref.backends.graph.graph import Graph, GraphInput, GraphNode
from ldmref.backends.graph.onnx import make_model
from ldmref.backends.graph.tracer import trace
from ldmref.backends.named import AGAIN, LayerCall, NamedBackend
from ldmref.cases.network_cases import NetworkCase
from ldmref.cases.recorder import flat


@dataclass(frozen=True)
class LayerGraph:
    """One layer as its own graph.

    Attributes:
        name: The layer's name in its network.
        kind: The operation or function.
        graph: Its graph; parameters are named within the layer ("to_q.weight").
        same: Inputs that are the same array as another input, by role.
        returned: Which of the arrays that the layer returns are outputs of the graph; those that
            it returns as it got them are not.
    """

    name: str
    kind: str
    graph: Graph
    same: dict[str, str]
    returned: tuple[int, ...] = (0,)

    @property
    def signature(self) -> tuple[str, bytes]:
        """Kind, operators, attributes, constants and shapes; equal if layers compute the same."""
        model = make_model(self.graph, "inputs")
        return self.kind, model.SerializeToString(deterministic=True)


class LayerTracer(NamedBackend):
    """Remember the symbolic inputs and the result of every layer."""

    def __init__(self, inner: Backend):
        super().__init__(inner)
        self.layers: list[tuple[LayerCall, tuple[SymbolicArray, ...]]] = []

    def visit(self, call: LayerCall) -> Any:
        """Compute a layer and remember it, unless it reads nothing but constants."""
        y = call.compute(call.inputs)
        if any(isinstance(x, SymbolicArray) for x in call.inputs.values()):
            results: Any = flat(y)
            self.layers.append((call, results))
        return y


def name_results(call: LayerCall, count: int) -> list[str]:
    """Return the names of what a layer returns, as in traces."""
    return [f"output.{i}" for i in range(count)] if call.several else ["output"]


def trace_network(net: NetworkCase) -> tuple[Graph, list[LayerGraph]]:
    """Return the graph of a network, and those of its layers in the order of execution."""
    layers: list[tuple[LayerCall, tuple[SymbolicArray, ...]]] = []

    def observed(ops: Backend, params: Mapping[str, Any], *args: object, **kwargs: object) -> Any:
        tracer = LayerTracer(ops)
        y = tracer.compile(net.function, params)(*args, **kwargs)
        layers.extend(tracer.layers)
        return y

    arrays, template = split_arrays((), {**net.settings, **net.inputs})
    names = [net.roles[name] for name in sorted(net.inputs)]
    specs = [GraphInput(name, x.shape, x.dtype) for name, x in zip(names, arrays, strict=True)]
    graph = trace(observed, net.params, template, specs, net.outputs)
    order = [net.roles[name] for name in net.inputs]  # the template's is alphabetical
    graph.inputs.sort(key=lambda x: order.index(x.name))
    produced = {node.output for node in graph.nodes}
    cut = (_cut(graph, call, results, produced) for call, results in layers)
    return graph, [layer for layer in cut if layer.returned]


def _cut(
    graph: Graph, call: LayerCall, results: Sequence[SymbolicArray], produced: Collection[str]
) -> LayerGraph:
    """Cut the nodes between the inputs of a layer and its results out of a network's graph.

    Inputs that are constants, such as positions, are constants of the layer's graph. Results that
    the network does not use are left out.
    """
    part = Graph()
    names: dict[str, str] = {}
    same: dict[str, str] = {}
    for role, x in call.inputs.items():
        if not isinstance(x, SymbolicArray):
            continue
        if x.name in names:
            same[role] = names[x.name]
            continue
        names[x.name] = role
        part.inputs.append(SymbolicArray(part, role, x.shape, x.dtype))
    prefix = call.name.partition(AGAIN)[0] + "."
    found = {i: y for i, y in enumerate(results) if y.name in produced and y.name not in names}
    for node in _needed(graph, {y.name for y in found.values()}, set(names)):
        for name in node.inputs:
            if name in graph.parameters:
                names[name] = name.removeprefix(prefix)
                part.parameters[names[name]] = graph.parameters[name]
            elif name in graph.constants and name not in names:
                names[name] = f"c{len(part.constants)}"
                part.constants[names[name]] = graph.constants[name]
        names[node.output] = f"v{len(part.nodes)}"
        inputs = tuple(names[name] if name else "" for name in node.inputs)
        part.nodes.append(GraphNode(node.operator, inputs, names[node.output], node.attributes))
    outputs = [SymbolicArray(part, names[y.name], y.shape, y.dtype) for y in found.values()]
    roles = name_results(call, len(results))
    part.name_outputs(outputs, [roles[i] for i in found])
    return LayerGraph(call.name, call.kind, part, same, tuple(found))


def _needed(graph: Graph, outputs: set[str], inputs: set[str]) -> list[GraphNode]:
    """Return the nodes from which outputs are computed, without those before the inputs."""
    used = outputs - inputs
    kept = []
    for node in reversed(graph.nodes):
        if node.output in used:
            used.update(set(node.inputs) - inputs)
            kept.append(node)
    return kept[::-1]
