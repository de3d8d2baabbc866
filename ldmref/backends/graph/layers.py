"""Graphs whose tensors are called as the layers that compute them: `LAYER/output`.

So a dump of every tensor of an ONNX file, as runtimes and their tools write it, says which layer
each tensor is the output of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ldmref.backends.arguments import Template
from ldmref.backends.base import Backend
from ldmref.backends.graph.arrays import SymbolicArray
from ldmref.backends.graph.graph import Graph, GraphInput
from ldmref.backends.graph.tracer import trace
from ldmref.backends.named import LayerCall, NamedBackend


class _LayerNames(NamedBackend):
    """Remembers the layer of each node, and the outputs of each layer."""

    def __init__(self, inner: Backend):
        super().__init__(inner)
        self.outputs: dict[str, str] = {}  # names in the graph -> LAYER/output
        self.owners: dict[str, str] = {}  # names in the graph -> the innermost layer

    def visit(self, call: LayerCall) -> Any:
        """Compute a layer, and remember the nodes that it added."""
        read = (*call.inputs.values(), *call.parameters.values())
        graph = next((x.graph for x in read if isinstance(x, SymbolicArray)), None)
        if graph is None:
            return call.compute(call.inputs)  # a constant
        start = len(graph.nodes)
        result = call.compute(call.inputs)
        added = [node.output for node in graph.nodes[start:]]
        for output in added:
            self.owners.setdefault(output, call.name)
        arrays = result if isinstance(result, tuple) else (result,)
        for i, x in enumerate(arrays):
            if isinstance(x, SymbolicArray) and x.name in added:
                suffix = f":{i}" if i else ""
                self.outputs.setdefault(x.name, f"{call.name}/output{suffix}")
        return result


def trace_layers(
    network: Callable,
    params: Mapping[str, Any],
    template: Template,
    inputs: Sequence[GraphInput],
    outputs: Iterable[str] = (),
) -> Graph:
    """Return the graph of a network like `trace`, with the names of layers.

    The output of a layer is called `LAYER/output`, further ones `LAYER/output:1`, and each node
    `LAYER/OPERATOR`. A layer that ends with the output of a layer within it has no tensor of its
    own.
    """
    found: list[_LayerNames] = []

    def observed(ops: Backend, tree: Mapping[str, Any], *args: object, **kwargs: object) -> Any:
        found.append(_LayerNames(ops))
        return found[0].compile(network, tree)(*args, **kwargs)

    graph = trace(observed, params, template, inputs, outputs)
    _rename(graph, found[0])
    return graph


def _rename(graph: Graph, layers: _LayerNames) -> None:
    """Give the nodes and tensors of a graph the names of layers."""
    counts: Counter[str] = Counter()
    nodes = []
    for node in graph.nodes:
        owner = layers.owners.get(node.output, "")
        name = f"{owner}/{node.operator}" if owner else node.operator
        again = counts[name]
        counts[name] += 1
        nodes.append(
            replace(
                node,
                name=f"{name}_{again}" if again else name,
                inputs=tuple(layers.outputs.get(x, x) for x in node.inputs),
                output=layers.outputs.get(node.output, node.output),
            )
        )
    graph.nodes = nodes
