"""Graphs of single operations: the conformance suite through ONNX, array functions, open sizes."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.backends.arguments import Template
from ldmref.backends.graph import namespace
from ldmref.backends.graph.graph import Graph, GraphInput
from ldmref.backends.graph.onnx import PAGE, make_model, write_model
from ldmref.backends.graph.sizes import OpenSize, broadcast_shapes, multiply
from ldmref.backends.graph.tracer import GraphBackend, trace
from ldmref.backends.numpy import NumpyBackend
from ldmref.backends.operations import Operations
from ldmref.models.layers import mask_bias
from ldmref.testing import assert_conforms

pytest.importorskip("onnx")
OPERATIONS = [
    name
    for name, method in vars(Operations).items()
    if getattr(method, "__isabstractmethod__", False) and name not in ("asarray", "to_numpy")
] + ["geglu", "group_norm_silu"]


def open_backend(name):
    pytest.importorskip({"onnx": "onnxruntime", "openvino": "openvino"}[name])
    return get_backend(name)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(ops, function, *arrays, open_axes=()):
    """Compute `function` of arrays by a graph."""
    graph = Graph()
    axes = open_axes or [{}] * len(arrays)
    specs = [GraphInput(f"x{i}", x.shape, x.dtype, axes[i]) for i, x in enumerate(arrays)]
    results = function(*[graph.add_input(spec) for spec in specs])
    graph.name_outputs(results if isinstance(results, tuple) else (results,), [])
    graph.remove_unused()
    got = ops.build(graph)([np.ascontiguousarray(x) for x in arrays])
    return got if isinstance(results, tuple) else got[0]


@pytest.mark.parametrize("name", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_every_operation_conforms_as_a_graph(name):
    """`ldmref.testing` with each operation traced, compiled and run."""

    def through_graph(operation):
        def method(self, *arrays, **options):
            traced = getattr(GraphBackend(), operation)
            return run(self, lambda *symbols: traced(*symbols, **options), *arrays)

        return method

    ops = open_backend(name)
    methods = {operation: through_graph(operation) for operation in OPERATIONS}
    assert len(methods) == 13
    assert_conforms(type("ThroughGraph", (type(ops),), methods)())


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_mask_of_open_length_keeps_positions(name, causal):
    """Each head prefers later keys by a slope, as in ALiBi; padding is hidden."""
    rng = np.random.default_rng(0)
    ops = open_backend(name)
    slopes = np.array([0.5, -2.0], np.float32).reshape(1, 2, 1, 1)

    def attend(ops, q, k, v, mask):
        q, k, v = (
            ops.xp.permute_dims(ops.xp.reshape(x, (*x.shape[:2], 2, 4)), (0, 2, 1, 3))
            for x in (q, k, v)
        )
        number = ops.xp.cumulative_sum(q[:, :1, :, :1] * 0.0 + 1.0, axis=2)
        bias = mask_bias(ops, mask, ops.xp.permute_dims(number, (0, 1, 3, 2)) * slopes)
        return ops.attention(q, k, v, causal, bias)

    exact = NumpyBackend(dtype="float64")
    for length in (5, 3):
        arrays = [*rng.standard_normal((3, 2, length, 8), np.float32)]
        arrays.append((np.arange(length) < np.array([[length], [2]])).astype(np.int64))
        axes = [{1: "tokens"}] * 4
        got = run(ops, lambda *x: attend(GraphBackend(), *x), *arrays, open_axes=axes)
        want = attend(exact, *(x.astype(np.float64) for x in arrays))
        assert np.abs(got - want).max() < 1e-5


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_single_operations_conform(name):
    """Operations outside of compiled networks run on NumPy."""
    assert_conforms(open_backend(name))


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_single_operations_take_weights_as_they_are_in_a_file(name):
    ops = open_backend(name)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 8, 6, 6), np.float32)
    weights = {"w": (8, 8, 3, 3), "one": (8, 8, 1, 1), "matrix": (16, 6), "vector": (8,)}
    half = {key: rng.standard_normal(shape).astype(np.float16) for key, shape in weights.items()}
    kept = {key: ops.weight(array) for key, array in half.items()}
    assert all(kept[key].base is half[key] for key in half)
    wide = {key: array.astype(np.float32) for key, array in half.items()}
    exact = get_backend("numpy", speed="exact")
    for call in (
        lambda o, p: o.conv2d(x, p["w"], p["vector"], 1, 1),
        lambda o, p: o.conv2d(x, p["one"]),
        lambda o, p: o.linear(x, p["matrix"]),
        lambda o, p: o.geglu(x, p["matrix"]),
        lambda o, p: o.group_norm(x, p["vector"], p["vector"], 2, 1e-5),
        lambda o, p: o.group_norm_silu(x, p["vector"], p["vector"], 2, 1e-5),
        lambda o, p: o.embedding(p["matrix"], np.asarray([[3, 0]])),
    ):
        got = call(ops, kept)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, call(exact, wide), rtol=0, atol=2e-5)


# -- functions of arrays --------------------------------------------------------------------------

FUNCTIONS = {
    "reshape": lambda xp, x: xp.reshape(x, (4, -1)),
    "permute": lambda xp, x: xp.permute_dims(x, (2, 0, 1)),
    "slice": lambda xp, x: x[:, 1:3],
    "slice from the end": lambda xp, x: x[1:, :-1, -2:],
    "the last ones": lambda xp, x: (x[:, -1:], x[-2:-1, -3:], x[..., -3:-1], x[:, -1:] * 2.0),
    "index": lambda xp, x: x[0, -1],
    "new axes": lambda xp, x: x[:, None, ..., None],
    "concat": lambda xp, x: xp.concat([x, 2.0 * x, x], axis=1),
    "unstack": lambda xp, x: tuple(xp.unstack(x, axis=-2)),
    "product": lambda xp, x: xp.matmul(x, x.mT),
    "arithmetic": lambda xp, x: (2 - x) / (x**2 + 1) - -x * 3 + (1 / (x * x + 1)),
    "comparisons": lambda xp, x: tuple(
        xp.astype(c, xp.float32)
        for c in (x < 0, x > 0.5, x <= x, x >= 1.0, x == x, x != x, x != x[0, 0, 0])
    ),
    "sum": lambda xp, x: xp.sum(x),
    "means": lambda xp, x: (xp.mean(x, axis=(0, 2)), xp.mean(x, axis=-1, keepdims=True)),
    "clip": lambda xp, x: (xp.clip(x, 0.0, None), xp.clip(x, -0.5, 0.25)),
    "logaddexp": lambda xp, x: xp.logaddexp(x, -100.0 * x),
    "broadcast": lambda xp, x: tuple(xp.broadcast_arrays(x[:, :1], x[:1, :, :1], x[0])),
    "where": lambda xp, x: xp.where(x > 0, x, xp.zeros_like(x)),
    "constants": lambda xp, x: x * xp.exp(xp.arange(4, dtype=xp.float32)) + xp.ones_like(x),
    "waves": lambda xp, x: (xp.sin(x), xp.cos(x), xp.tanh(x), xp.abs(x), xp.sqrt(xp.abs(x))),
    "logarithm": lambda xp, x: xp.log(xp.exp(x)),
    "take": lambda xp, x: xp.take(x, xp.argmin(x[0, 0], axis=0), axis=2),
}


@pytest.mark.parametrize("sizes", ["known", "open"])
@pytest.mark.parametrize("name", ["onnx", "openvino"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_of_arrays(function, name, sizes):
    x = np.random.default_rng(1).standard_normal((2, 6, 4)).astype(np.float32)
    compute = FUNCTIONS[function]
    want = compute(np, x)
    fixed = {"unstack": {0: "n"}, "constants": {0: "n", 1: "m"}}.get(function)
    axes = [] if sizes == "known" else [fixed or {0: "n", 1: "m", 2: "k"}]
    got = run(open_backend(name), lambda s: compute(namespace, s), x, open_axes=axes)
    pairs = zip(got, want, strict=True) if isinstance(want, tuple) else [(got, want)]
    for y, expected in pairs:
        assert y.shape == np.shape(expected)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["onnx", "openvino"])
@pytest.mark.parametrize("axes", [{}, {0: "n", 1: "m"}], ids=["known", "open"])
def test_entries_are_counted_along_an_axis(name, axes):
    x = np.full((2, 5, 3), 7.0, np.float32)
    counted = run(
        open_backend(name),
        lambda s: tuple(GraphBackend().count_from_zero(s, axis) + 0.0 * s for axis in (0, 1, -2)),
        x,
        open_axes=[axes],
    )
    for got, axis in zip(counted, (0, 1, 1), strict=True):
        np.testing.assert_array_equal(got, np.indices(x.shape)[axis])


@pytest.mark.parametrize("name", ["onnx", "openvino"])
@pytest.mark.parametrize("axes", [{}, {0: "n", 1: "m"}], ids=["known", "open"])
def test_zeros_have_a_size_that_is_open(name, axes):
    x = np.full((2, 5, 3), 7.0, np.float32)

    def widen(s):
        ops = GraphBackend()
        zeros = ops.zeros((s.shape[1], s.shape[0], 4), s)
        return namespace.concat([namespace.permute_dims(s, (1, 0, 2)), zeros], axis=2)

    got = run(open_backend(name), widen, x, open_axes=[axes])
    np.testing.assert_array_equal(got, np.pad(x.swapaxes(0, 1), ((0, 0), (0, 0), (0, 4))))


@pytest.mark.parametrize("name", ["onnx", "openvino"])
@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_the_first_of_equal_elements_is_found(name, dtype):
    """As for the end token of a prompt whose padding is the end token."""
    x = np.zeros((3, 77), dtype)
    x[0, 5:] = 1
    x[1, 76] = 1
    want = np.argmax(x, axis=1), np.argmin(1 - x, axis=1)
    got = run(
        open_backend(name),
        lambda s: (namespace.argmax(s, axis=1), namespace.argmin(1 - s, axis=1)),
        x,
    )
    for y, expected in zip(got, want, strict=True):
        np.testing.assert_array_equal(y, expected)


def test_constants_never_reach_the_graph_as_operations():
    graph = Graph()
    x = graph.add_input(GraphInput("x", (2,), np.dtype(np.float32)))
    table = namespace.cos(namespace.arange(2, dtype=np.float32) * 3.0)
    assert isinstance(table, np.ndarray)
    graph.name_outputs([table * x, x * table], ["y", "z"])
    assert [node.operator for node in graph.nodes] == ["Mul", "Mul", "Identity", "Identity"]
    assert len(graph.constants) == 1


def test_a_network_must_not_read_values():
    graph = Graph()
    x = graph.add_input(GraphInput("x", (2, 2), np.dtype(np.float32), {0: "n"}))
    for read in (bool, float, int, np.asarray, GraphBackend().to_numpy):
        with pytest.raises(TypeError, match="no values"):
            read(x)
    with pytest.raises(TypeError, match="open size"):
        list(x)
    with pytest.raises(TypeError, match="step 1"):
        x[:, ::2]
    with pytest.raises(ValueError, match="do not broadcast"):
        x + np.zeros(3)
    assert "x" in repr(x)


# -- sizes ----------------------------------------------------------------------------------------

N = OpenSize.of_axis("x", 0)
H = OpenSize.of_axis("x", 2)


def test_products_of_sizes_cancel():
    assert (8 * H) // 8 == H and (N * H * 64) // (8 * N) == 8 * H
    assert (N * 6) // (2 * N) == 3 and N * H == H * N and hash(N * H) == hash(H * N)
    assert N + 0 is N and N != H and H * 1 == H
    assert (H + 1) // 2 != H // 2 and (H + 1) // 2 == (H + 1) // 2
    assert multiply([]) == 1 and multiply((2, N, 3)) == 6 * N


def test_broadcasting_open_sizes():
    assert broadcast_shapes((N, 1, 4), (1, H, 4)) == (N, H, 4)
    assert broadcast_shapes((N, 3), (3,)) == (N, 3)
    assert broadcast_shapes((N,), (5,)) == (5,)  # open sizes are taken to fit
    with pytest.raises(ValueError, match="do not broadcast"):
        broadcast_shapes((2, 3), (2, 4))


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_sizes_are_computed_when_the_graph_runs(name):
    """Sums, quotients and products of open sizes as the target of a reshape."""

    def compute(x):
        n, h = x.shape
        padded = namespace.concat([x, x[:, : h // 2], x[:, -1:]], axis=1)
        return namespace.reshape(padded, (n * (h + h // 2 + 1), 1)), (2 - h + n) * n

    graph = Graph()
    x = graph.add_input(GraphInput("x", (1, 1), np.dtype(np.float32), {0: "n", 1: "h"}))
    y, size = compute(x)
    graph.name_outputs([y, graph.shape_vector((size,))], [])
    call = open_backend(name).build(graph)
    for shape in ((2, 5), (3, 4)):
        values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        got, number = call([values])
        n, h = shape
        want = np.concatenate([values, values[:, : h // 2], values[:, -1:]], axis=1)
        np.testing.assert_array_equal(got, want.reshape(-1, 1))
        assert number.tolist() == [(2 - h + n) * n]


# -- models ---------------------------------------------------------------------------------------


def dense(ops, p, x):
    return ops.linear(x, p["weight"], p["bias"]) + ops.linear(x, p["half"])


def dense_graph():
    rng = np.random.default_rng(0)
    params = {
        "weight": rng.standard_normal((6, 4), np.float32).T,  # not contiguous
        "bias": rng.standard_normal(4, np.float32),
        "half": rng.standard_normal((4, 6)).astype(np.float16),
        "unused": np.ones(3, np.float32),
    }
    spec = GraphInput("x", (2, 6), np.dtype(np.float32), {0: "batch"})
    from ldmref.backends.arguments import ArraySlot

    return params, trace(dense, params, Template((ArraySlot.ARRAY,)), [spec], ["y"])


def test_parameters_are_named_and_not_copied():
    params, graph = dense_graph()
    assert list(graph.parameters) == ["weight", "bias", "half"]
    assert all(graph.parameters[name] is params[name] for name in graph.parameters)
    model = make_model(graph, "external")
    assert len(model.SerializeToString()) < 2000
    assert [x.name for x in make_model(graph, "inputs").graph.input] == ["x", *graph.parameters]


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_files_with_weights_beside_them(runtime, tmp_path):
    params, graph = dense_graph()
    path = tmp_path / "dense.onnx"
    write_model(graph, path, "dense.bin")
    import onnx

    onnx.checker.check_model(str(path))
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        places = {entry.key: entry.value for entry in tensor.external_data}
        assert not places or int(places["offset"]) % PAGE == 0
    x = np.random.default_rng(1).standard_normal((3, 6), np.float32)
    want = x @ params["weight"].T + params["bias"] + x @ params["half"].T.astype(np.float32)
    if runtime == "onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(path)
        (got,) = session.run(["y"], {"x": x})
    else:
        core = pytest.importorskip("openvino").Core()
        got = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({"x": x})[0]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_embedded_parameters():
    params, graph = dense_graph()
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(make_model(graph, "embedded").SerializeToString())
    x = np.ones((1, 6), np.float32)
    want = x @ params["weight"].T + params["bias"] + x @ params["half"].T.astype(np.float32)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], want, rtol=1e-5, atol=1e-5)
