"""The backend whose operations add nodes to a graph, and `trace`, which runs a network on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ldmref.backends.arguments import Template, fill, split_arrays
from ldmref.backends.base import Backend
from ldmref.backends.graph import namespace
from ldmref.backends.graph.arrays import SymbolicArray, elementwise
from ldmref.backends.graph.graph import Graph, GraphInput
from ldmref.backends.graph.sizes import GraphSize, is_known
from ldmref.math.arrays import Array


class GraphBackend(Backend):
    """Operations as nodes of a graph, in float32; the arrays are symbolic.

    Group normalization is written as InstanceNormalization of (n, groups, rest), because OpenVINO
    2026.4 crashes on its fusion of GroupNormalization with a scale and a shift.
    """

    name = "graph"
    xp = namespace
    dtypes = ("float32",)
    compiles = True

    def asarray(self, x: Array, dtype: str | None = None) -> Array:
        if isinstance(x, SymbolicArray):
            floating = np.isdtype(x.dtype, "real floating")
            return namespace.astype(x, np.dtype(dtype or self.dtype) if floating else np.int64)
        x = np.asarray(x)
        return x.astype(dtype or self.dtype if x.dtype.kind == "f" else np.int64, copy=False)

    def to_numpy(self, x: Array) -> np.ndarray:
        raise TypeError("a symbolic array has no values: a network must not depend on them")

    def count_from_zero(self, x: Array, axis: int) -> Array:
        """Count by a sum of ones: how many there are is open when the graph is made."""
        ones = namespace.full_like(namespace.astype(x, np.dtype(self.state_dtype)), 1.0)
        return namespace.cumulative_sum(ones, axis=axis) - 1.0

    def zeros(self, shape: tuple[GraphSize, ...], like: Array) -> Array:
        """Return zeros of a shape whose sizes may be open when the graph is made."""
        return namespace.fill(shape, 0.0, like)

    def linear(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        y = namespace.matmul(x, weight.T)
        return y if bias is None else y + bias

    def conv2d(
        self, x: Array, weight: Array, bias: Array | None = None, stride: int = 1, padding: int = 0
    ) -> Array:
        n, _, *size = x.shape
        out, _, k, _ = weight.shape
        shape = (n, out, *((d + (2 * padding - k + stride)) // stride for d in size))
        options = {"strides": [stride] * 2, "pads": [padding] * 4, "kernel_shape": [k, k]}
        return x.graph.add("Conv", [x, weight, bias], shape, x.dtype, **options)

    def group_norm(self, x: Array, weight: Array, bias: Array, groups: int, eps: float) -> Array:
        y = namespace.reshape(x, (x.shape[0], groups, -1))
        scale_and_shift = np.ones(groups, x.dtype), np.zeros(groups, x.dtype)
        inputs = [y, *scale_and_shift]
        y = x.graph.add("InstanceNormalization", inputs, y.shape, y.dtype, epsilon=eps)
        channels = (x.shape[1],) + (1,) * (x.ndim - 2)
        y = namespace.reshape(y, x.shape) * namespace.reshape(weight, channels)
        return y + namespace.reshape(bias, channels)

    def layer_norm(self, x: Array, weight: Array, bias: Array, eps: float) -> Array:
        options = {"axis": -1, "epsilon": eps}
        return x.graph.add("LayerNormalization", [x, weight, bias], x.shape, x.dtype, **options)

    def attention(
        self,
        q: Array,
        k: Array,
        v: Array,
        causal: bool = False,
        bias: Array | None = None,
        scale: float | None = None,
    ) -> Array:
        factor = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
        scores = namespace.matmul(q * factor, k.mT)
        if bias is not None:
            scores = scores + bias
        if causal and is_known(scores.shape[2:]):
            future = np.arange(k.shape[2])[None, :] > np.arange(q.shape[2])[:, None]
            scores = scores + np.where(future, -np.inf, 0.0)
        elif causal:  # positions are counted, because their number is open
            keys, queries = (self.count_from_zero(scores[:1, :1, ...], axis) for axis in (3, 2))
            scores = namespace.where(keys > queries, np.asarray(-np.inf, scores.dtype), scores)
        weights = scores.graph.add("Softmax", [scores], scores.shape, scores.dtype, axis=-1)
        return namespace.matmul(weights, v)

    def embedding(self, table: Array, ids: Array) -> Array:
        return namespace.astype(namespace.take(table, ids), np.dtype(self.dtype))

    def silu(self, x: Array) -> Array:
        return x * elementwise("Sigmoid", x)

    def gelu(self, x: Array) -> Array:
        return elementwise("Gelu", x)

    def quick_gelu(self, x: Array) -> Array:
        return x * elementwise("Sigmoid", 1.702 * x)

    def upsample2x(self, x: Array) -> Array:
        n, c, h, w = x.shape
        factors = np.asarray([1, 1, 2, 2], np.float32)
        return x.graph.add(
            "Resize",
            [x, None, factors],
            (n, c, 2 * h, 2 * w),
            x.dtype,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def pad_bottom_right(self, x: Array) -> Array:
        n, c, h, w = x.shape
        pads = np.asarray([0, 0, 0, 0, 0, 0, 1, 1], np.int64)
        return x.graph.add("Pad", [x, pads], (n, c, h + 1, w + 1), x.dtype)


def trace(
    network: Callable,
    params: Mapping[str, Any],
    template: Template,
    inputs: Sequence[GraphInput],
    outputs: Iterable[str] = (),
) -> Graph:
    """Run `network(ops, params, ...)` once on symbolic arrays and return its graph.

    Args:
        network: The network's definition.
        params: Its parameters, host arrays; float16 ones are converted by the graph.
        template: The arguments after the parameters (`ldmref.backends.arguments.split_arrays`).
        inputs: The arrays of the template, in order.
        outputs: Names of the network's results, in order; by default output0, output1, ...

    Raises:
        TypeError: The network reads values of its arrays, or does what graphs cannot.
    """
    graph = Graph()
    ops = GraphBackend()
    args, kwargs = fill(template, [graph.add_input(spec) for spec in inputs])
    tree = _name_parameters(graph, ops, params, "")
    results, graph.result = split_arrays((network(ops, tree, *args, **kwargs),))
    graph.name_outputs(results, outputs)
    graph.remove_unused()
    return graph


def _name_parameters(graph: Graph, ops: Backend, params: Mapping[str, Any], prefix: str) -> Any:
    """Return the tree with a symbolic array for each parameter, named by its path."""
    tree: dict[str, Any] = {}
    for name, child in params.items():
        path = prefix + name
        if isinstance(child, Mapping):
            tree[name] = _name_parameters(graph, ops, child, f"{path}.")
            continue
        array = np.asarray(child)
        graph.parameters[path] = array
        tree[name] = ops.asarray(SymbolicArray(graph, path, array.shape, array.dtype))
    return type(params)(tree)  # pyright: ignore[reportCallIssue]
