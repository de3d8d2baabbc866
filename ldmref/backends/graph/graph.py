"""A graph of operations on symbolic arrays, with the operators and attributes of ONNX.

A graph is plain data: `ldmref/backends/graph/onnx.py` writes it as an ONNX model. Parameters are
only named; their arrays stay where they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ldmref.backends.arguments import Template
from ldmref.backends.graph.arrays import SymbolicArray
from ldmref.backends.graph.sizes import AxisSize, Factor, GraphSize, OpenSize, is_known
from ldmref.math.arrays import Array


@dataclass(frozen=True)
class GraphNode:
    """One operation; an input without a name ("") is left out.

    Args:
        operator: The ONNX operator.
        inputs: Names of its inputs.
        output: Name of its only output.
        attributes: The operator's attributes; data types are NumPy's.
        name: Its own name; "" if it has none.
    """

    operator: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True)
class GraphInput:
    """An array that a graph takes.

    Args:
        name: The input's name.
        shape: Its shape; the sizes of open axes do not matter.
        dtype: Its data type.
        open_axes: The axes whose size is open, by axis: a label. Axes with the same label have the
            same size.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    open_axes: Mapping[int, str] = field(default_factory=dict)


class Graph:
    """Nodes in the order of execution, inputs, outputs, constants and named parameters.

    Attributes:
        nodes: The operations.
        inputs: The arrays that it takes.
        outputs: The arrays that it returns.
        constants: Small arrays that belong to the graph, by name.
        parameters: The parameters that it uses, by name; the arrays themselves, not copies.
        labels: The label of each open size of an input.
        result: How the outputs form the network's result.
    """

    def __init__(self) -> None:
        self.nodes: list[GraphNode] = []
        self.inputs: list[SymbolicArray] = []
        self.outputs: list[SymbolicArray] = []
        self.constants: dict[str, np.ndarray] = {}
        self.parameters: dict[str, np.ndarray] = {}
        self.labels: dict[OpenSize, str] = {}
        self.result = Template(())
        self._constant_names: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._sizes: dict[Factor | OpenSize, SymbolicArray] = {}
        self._count = 0

    def add(
        self,
        operator: str,
        inputs: Iterable[Array | None],
        shape: Iterable[GraphSize],
        dtype: object,
        **attributes: object,
    ) -> SymbolicArray:
        """Add a node and return its output, whose shape and dtype the caller states."""
        names = tuple("" if x is None else self.lift(x).name for x in inputs)
        name = f"v{self._count}"
        self._count += 1
        self.nodes.append(GraphNode(operator, names, name, attributes))
        return SymbolicArray(self, name, shape, dtype)

    def lift(self, value: Array) -> SymbolicArray:
        """Return a symbolic array unchanged, and an array of NumPy as a constant of the graph."""
        if isinstance(value, SymbolicArray):
            return value
        value = np.asarray(value)
        key = value.dtype.str, value.shape, value.tobytes()
        if key not in self._constant_names:
            self._constant_names[key] = name = f"c{len(self.constants)}"
            self.constants[name] = value
        return SymbolicArray(self, self._constant_names[key], value.shape, value.dtype)

    def add_input(self, spec: GraphInput) -> SymbolicArray:
        """Add an input; an open axis takes the size of the first axis with its label."""
        by_label = {label: size for size, label in self.labels.items()}
        shape: list[GraphSize] = list(spec.shape)
        for axis, label in spec.open_axes.items():
            size = by_label.get(label) or OpenSize.of_axis(spec.name, axis)
            self.labels[size] = label
            by_label[label] = shape[axis] = size
        self.inputs.append(SymbolicArray(self, spec.name, shape, spec.dtype))
        return self.inputs[-1]

    def shape_vector(self, shape: Iterable[GraphSize]) -> Array:
        """Return a shape as a vector of int64: a constant if all of it is known."""
        shape = tuple(shape)
        if is_known(shape):
            return np.asarray(shape, np.int64)
        parts = [self._size_vector(size) for size in shape]
        if len(parts) == 1:
            return parts[0]
        return self.add("Concat", parts, (len(parts),), np.int64, axis=0)

    def _size_vector(self, size: GraphSize) -> Array:
        """Return a size as a vector of one int64."""
        if not isinstance(size, OpenSize):
            return np.asarray([size], np.int64)
        if size not in self._sizes:
            parts: list[Array] = [self._factor(factor) for factor in size.factors]
            if size.coefficient != 1:
                parts.append(np.asarray([size.coefficient], np.int64))
            product = parts[0]
            for part in parts[1:]:
                product = self.add("Mul", [product, part], (1,), np.int64)
            self._sizes[size] = product
        return self._sizes[size]

    def _factor(self, factor: Factor) -> SymbolicArray:
        if factor not in self._sizes:
            if isinstance(factor, AxisSize):
                source = next(x for x in self.inputs if x.name == factor.input)
                ends = {"start": factor.axis, "end": factor.axis + 1}
                vector = self.add("Shape", [source], (1,), np.int64, **ends)
            else:
                terms = [self._size_vector(factor.left), self._size_vector(factor.right)]
                vector = self.add(factor.operator, terms, (1,), np.int64)
            self._sizes[factor] = vector
        return self._sizes[factor]

    def name_outputs(self, results: Iterable[Array], names: Iterable[str]) -> None:
        """Make results the outputs, each with its own name."""
        names = iter(names)
        for i, result in enumerate(results):
            source = self.lift(result)
            name = next(names, f"output{i}")
            self.nodes.append(GraphNode("Identity", (source.name,), name))
            self.outputs.append(SymbolicArray(self, name, source.shape, source.dtype))

    def remove_unused(self) -> None:
        """Keep only the nodes, constants and parameters that the outputs need."""
        used = {output.name for output in self.outputs}
        kept = []
        for node in reversed(self.nodes):
            if node.output in used:
                used.update(node.inputs)
                kept.append(node)
        self.nodes = kept[::-1]
        self.constants = {name: x for name, x in self.constants.items() if name in used}
        self.parameters = {name: x for name, x in self.parameters.items() if name in used}

    @property
    def parameter_bytes(self) -> int:
        """The memory of all parameters in bytes."""
        return sum(math.prod(x.shape) * x.itemsize for x in self.parameters.values())
