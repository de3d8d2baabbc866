"""The base of backends that compile whole networks with a library for ONNX graphs.

Networks run compiled. Everything else runs on NumPy: guidance, samplers, and the single operations
of a network that is watched or diagnosed.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ldmref.backends.arguments import Template, fill, split_arrays
from ldmref.backends.fast.numpy import FastNumpyBackend
from ldmref.backends.graph.graph import Graph, GraphInput
from ldmref.backends.graph.tracer import trace
from ldmref.errors import BackendUnavailable
from ldmref.math.arrays import Array
from ldmref.support.memmap import release_pages

FIXED_SHAPES = 2  # combinations of shapes of a network that get their own graph
KEPT = 4  # compiled graphs of a network
LARGE = 2**28  # bytes of parameters, from which every graph has open sizes

Executable: TypeAlias = Callable[[list[np.ndarray]], list[np.ndarray]]


class CompiledBackend(FastNumpyBackend):
    """NumPy, with networks compiled by `build`; float32, on the CPU.

    Weights stay in their file and in its type, because the library makes its own copies.
    """

    compiles = True
    speeds = ("fast",)
    always_open = False  # whether open sizes cost this library nothing

    def set_up(self) -> None:
        if self.device != "cpu":
            message = f"the {self.name} backend runs on the cpu, not on {self.device!r}"
            hint = "use --backend torch or --backend cupy for a GPU"
            raise BackendUnavailable(message, code="E-DEVICE", hint=hint)
        super().set_up()

    @abstractmethod
    def build(self, graph: Graph) -> Executable:
        """Compile a graph as a function of its inputs that returns its outputs, as new arrays."""
        raise NotImplementedError

    def compile(self, network: Callable, params: Mapping[str, Any]) -> Callable:
        return CompiledNetwork(self, network, params)

    def weight(self, x: Array) -> Array:
        """Return a parameter as it is in its file."""
        return np.asarray(x).view()

    # -- single operations, with weights of any type -----------------------------------------------

    def linear(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        return super().linear(x, self._convert(weight), self._convert(bias))

    def geglu(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        return super().geglu(x, self._convert(weight), self._convert(bias))

    def conv2d(
        self, x: Array, weight: Array, bias: Array | None = None, stride: int = 1, padding: int = 0
    ) -> Array:
        return super().conv2d(x, self._convert(weight), self._convert(bias), stride, padding)

    def group_norm(self, x: Array, weight: Array, bias: Array, groups: int, eps: float) -> Array:
        return super().group_norm(x, self._convert(weight), self._convert(bias), groups, eps)

    def group_norm_silu(
        self, x: Array, weight: Array, bias: Array, groups: int, eps: float
    ) -> Array:
        return super().group_norm_silu(x, self._convert(weight), self._convert(bias), groups, eps)

    def layer_norm(self, x: Array, weight: Array, bias: Array, eps: float) -> Array:
        return super().layer_norm(x, self._convert(weight), self._convert(bias), eps)

    def embedding(self, table: Array, ids: Array) -> Array:
        return self.asarray(super().embedding(table, ids))

    def _convert(self, weight: Array | None) -> Array | None:
        return None if weight is None else self.asarray(weight)


class CompiledNetwork:
    """A network with its parameters, compiled for the shapes and static arguments that it gets.

    The first combinations of shapes get graphs of fixed sizes, which are the fastest. Further ones
    share a graph with open sizes, as large networks always do: the time to compile and the
    memory of packed weights then do not grow with the number of shapes.
    """

    def __init__(self, ops: CompiledBackend, network: Callable, params: Mapping[str, Any]):
        self._ops = ops
        self._network = network
        self._params = params
        self._lock = threading.Lock()
        self._executables: dict[Any, tuple[Executable, Template]] = {}  # the latest used last
        self._shapes: dict[Template, int] = {}  # fixed graphs made

    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Run the network on arrays and static arguments."""
        found, template = split_arrays(args, kwargs)
        arrays = [np.ascontiguousarray(self._ops.asarray(x)) for x in found]
        with self._lock:
            executable, result = self._find(template, arrays)
        results, _ = fill(result, executable(arrays))
        return results[0]

    def _find(self, template: Template, arrays: list[np.ndarray]) -> tuple[Executable, Template]:
        """Return a compiled graph for these arguments, making it if there is none."""
        fixed = describe_inputs(arrays)
        described = describe_inputs(arrays, find_open_axes([x.shape for x in arrays]))
        key = template, repr(fixed)
        open_key = template, repr([_without_open_sizes(spec) for spec in described])
        for found in (key, open_key):
            if found in self._executables:
                self._executables[found] = self._executables.pop(found)
                return self._executables[found]
        made = self._shapes.get(template, 0)
        openable = any(spec.open_axes for spec in described)
        if openable and (self._ops.always_open or made >= FIXED_SHAPES or self._is_large()):
            key = open_key
        else:
            described = fixed
            self._shapes[template] = made + 1
        while len(self._executables) >= KEPT:
            self._executables.pop(next(iter(self._executables)))
        graph = trace(self._network, self._params, template, described)
        self._executables[key] = self._ops.build(graph), graph.result
        for array in graph.parameters.values():
            release_pages(array)
        return self._executables[key]

    def _is_large(self) -> bool:
        return count_bytes(self._params) >= LARGE


def count_bytes(params: Mapping[str, Any]) -> int:
    """Return the memory of all arrays of a tree in bytes."""
    sizes = (count_bytes(x) if isinstance(x, Mapping) else x.nbytes for x in params.values())
    return sum(sizes)


def describe_inputs(
    arrays: Sequence[np.ndarray], open_axes: Sequence[Mapping[int, str]] = ()
) -> list[GraphInput]:
    """Describe the inputs input0, input1, ... of a graph by arrays that it will get."""
    axes = open_axes or [{}] * len(arrays)
    return [GraphInput(f"input{i}", x.shape, x.dtype, axes[i]) for i, x in enumerate(arrays)]


def find_open_axes(shapes: Sequence[tuple[int, ...]]) -> list[dict[int, str]]:
    """Return the axes of a network's arrays whose sizes can stay open, with labels.

    These are the batch, which all arrays share, height and width of images, and the length of
    hidden states. Without a common batch, there are none.
    """
    if len({shape[:1] for shape in shapes}) != 1 or () in shapes:
        return [{} for _ in shapes]
    names = {4: {2: "height", 3: "width"}, 3: {1: "length"}}
    return [
        {0: "batch"} | {axis: f"{name}{i}" for axis, name in names.get(len(shape), {}).items()}
        for i, shape in enumerate(shapes)
    ]


def _without_open_sizes(spec: GraphInput) -> tuple[Any, ...]:
    sizes = [None if axis in spec.open_axes else size for axis, size in enumerate(spec.shape)]
    return spec.name, sizes, spec.dtype
