"""Graphs as ONNX models, in memory or as a file next to a file of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np

from ldmref.backends.graph.arrays import SymbolicArray
from ldmref.backends.graph.graph import Graph, GraphNode
from ldmref.backends.graph.sizes import GraphSize, OpenSize
from ldmref.errors import BackendUnavailable

if TYPE_CHECKING:
    from types import ModuleType

    import onnx

OPSET = 21
IR_VERSION = 10
PAGE = 4096  # weights begin at a multiple of this, so readers can map them
ParameterPlacement = Literal["external", "inputs", "embedded"]


def import_onnx(extra: str = "onnx") -> Any:
    """Return the module `onnx`.

    Args:
        extra: The extra of ldmref that installs it with everything else that the caller needs.

    Raises:
        BackendUnavailable: It is not installed.
    """
    try:
        import onnx
        import onnx.helper
    except ImportError as error:
        message = "ONNX models need the package onnx, which is not installed"
        hint = f"pip install 'ldmref[{extra}]'"
        raise BackendUnavailable(message, code="E-BACKEND", hint=hint) from error
    return onnx


def make_model(
    graph: Graph,
    parameters: ParameterPlacement = "external",
    location: str = "weights",
    offsets: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """Return a graph as an ONNX model.

    Args:
        graph: The graph.
        parameters: "external": the model names the parameters, which are in a file or are handed
            over with the model; "inputs": they are further inputs of the model; "embedded": the
            model holds copies of them, together less than 2 GB.
        location: The name of the file for "external".
        offsets: The position of each parameter in this file.

    Raises:
        BackendUnavailable: The package onnx is not installed.
    """
    onnx = import_onnx()
    helper = onnx.helper
    initializers = [_tensor(onnx, name, array) for name, array in graph.constants.items()]
    inputs = [_value_info(onnx, graph, x) for x in graph.inputs]
    for name, array in graph.parameters.items():
        if parameters == "embedded":
            initializers.append(_tensor(onnx, name, array))
        elif parameters == "inputs":
            inputs.append(helper.make_tensor_value_info(name, _kind(onnx, array), array.shape))
        else:
            at = (offsets or {}).get(name, 0)
            initializers.append(_reference(onnx, name, array, location, at))
    outputs = [_value_info(onnx, graph, x) for x in graph.outputs]
    nodes = [_node(onnx, node) for node in graph.nodes]
    return helper.make_model(
        helper.make_graph(nodes, "ldmref", inputs, outputs, initializers),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="ldmref",
    )


def write_model(graph: Graph, path: Path, weights: str | None = None) -> None:
    """Write a graph to `path` and its parameters, one after the other, to a file next to it.

    Args:
        graph: The graph.
        path: The ONNX file.
        weights: The name of the file of parameters; None: that of `path` with `.weights` appended.

    Raises:
        BackendUnavailable: The package onnx is not installed.
        OSError: A file cannot be written.
    """
    import_onnx()
    location = weights or f"{path.name}.weights"
    offsets = {}
    with ExitStack() as stack:
        if graph.parameters:
            file = stack.enter_context(open(path.with_name(location), "wb"))
            for name, array in graph.parameters.items():
                offsets[name] = _append(file, array)
    model = make_model(graph, "external", location, offsets)
    path.write_bytes(model.SerializeToString())


def _append(file: BinaryIO, array: np.ndarray) -> int:
    """Write an array at the next page and return its position."""
    at = -(-file.tell() // PAGE) * PAGE
    file.seek(at)
    for block in _blocks(array):
        file.write(block)
    return at


def _blocks(array: np.ndarray, size: int = 2**24) -> Iterator[memoryview]:
    """Yield the bytes of an array in C order, without a second copy of a large one."""
    if array.flags.c_contiguous:
        yield array.reshape(-1).view(np.uint8).data
    elif array.ndim < 2 or array.nbytes <= size:
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    else:
        for row in array:
            yield from _blocks(row, size)


def _kind(onnx: ModuleType, x: Any) -> int:
    return onnx.helper.np_dtype_to_tensor_dtype(np.dtype(x.dtype))


def _tensor(onnx: ModuleType, name: str, array: np.ndarray) -> Any:
    kind = _kind(onnx, array)
    return onnx.helper.make_tensor(name, kind, array.shape, array.tobytes(), raw=True)


def _reference(onnx: ModuleType, name: str, array: np.ndarray, location: str, offset: int) -> Any:
    tensor = onnx.TensorProto(
        name=name,
        data_type=_kind(onnx, array),
        dims=array.shape,
        data_location=onnx.TensorProto.EXTERNAL,
    )
    for key, value in {"location": location, "offset": offset, "length": array.nbytes}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _value_info(onnx: ModuleType, graph: Graph, x: SymbolicArray) -> Any:
    def described(size: GraphSize) -> int | str | None:
        return graph.labels.get(size) if isinstance(size, OpenSize) else size

    shape = [described(size) for size in x.shape]
    return onnx.helper.make_tensor_value_info(x.name, _kind(onnx, x), shape)


def _node(onnx: ModuleType, node: GraphNode) -> Any:
    kind = onnx.helper.np_dtype_to_tensor_dtype
    attributes = {
        name: kind(value) if isinstance(value, np.dtype) else value
        for name, value in node.attributes.items()
    }
    inputs, outputs = list(node.inputs), [node.output]
    return onnx.helper.make_node(node.operator, inputs, outputs, node.name or None, **attributes)
