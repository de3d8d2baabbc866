"""The tracing backend times every operation, counts it, and names its layer."""

import numpy as np
import pytest

import ldmref
from ldmref.backends import get_backend
from ldmref.backends.base import Backend
from ldmref.backends.numpy import NumpyBackend
from ldmref.backends.operations import Operations
from ldmref.backends.traced import OPERATIONS, TracedBackend, layer_names
from ldmref.models import params, unet
from ldmref.models.presets import preset
from ldmref.testing import assert_conforms

CONFIG = preset("tiny").unet
PARAMS = params.init(unet.unet_spec(CONFIG), seed=1)


def trace(inner):
    ops = TracedBackend(inner)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 4, 8, 8))
    t = np.array([500.0])
    context = np.ones((1, 3, 32))
    y = unet.unet(
        ops, params.tree_map(ops.weight, PARAMS), CONFIG, *map(ops.asarray, (x, t, context))
    )
    return ops, ops.to_numpy(y)


def test_operations_are_those_of_the_base_class():
    public = {n for n, f in vars(Operations).items() if callable(f) and not n.startswith("_")}
    assert {*OPERATIONS, "add"} == public - {"asarray", "to_numpy"}


@pytest.mark.parametrize("inner", ["numpy", "torch"])
def test_tracing_changes_nothing(inner):
    if inner == "torch":
        pytest.importorskip("torch")
    backend = get_backend(inner, dtype="float64")
    assert_conforms(TracedBackend(backend))
    ops, y = trace(backend)
    assert ops.describe() == backend.describe() and ops.state_dtype == backend.state_dtype
    assert ops.records[-1].output == y.shape and len(ops.records) > 50
    assert isinstance(ops, Backend) and get_backend(ops) is ops


def test_records_shapes_seconds_and_flops():
    ops = TracedBackend(NumpyBackend())
    x = ops.asarray(np.ones((2, 3, 5, 7)))
    ops.conv2d(x, ops.asarray(np.ones((4, 3, 3, 3))), ops.asarray(np.ones(4)), padding=1)
    ops.linear(ops.asarray(np.ones((2, 9, 6))), ops.asarray(np.ones((8, 6))))
    q = ops.asarray(np.ones((2, 3, 5, 4)))
    k = ops.asarray(np.ones((2, 3, 7, 4)))
    ops.attention(q, k, k, causal=True)
    ops.silu(x=x)
    conv, linear, attention, silu = ops.records
    assert [r.name for r in ops.records] == ["conv2d", "linear", "attention", "silu"]
    assert [r.index for r in ops.records] == [0, 1, 2, 3]
    assert conv.inputs == ((2, 3, 5, 7), (4, 3, 3, 3), (4,)) and conv.output == (2, 4, 5, 7)
    assert conv.flops == 2 * (2 * 4 * 5 * 7) * (3 * 3 * 3)
    assert linear.flops == 2 * (2 * 9) * 8 * 6
    assert attention.flops == 2 * (2 * 3) * (5 * 7) * (4 + 4)
    assert silu.flops == 0 and silu.inputs == (x.shape,)
    assert all(r.seconds > 0 for r in ops.records)


def test_layers_are_named_by_their_parameters():
    weight = np.ones((8, 6))
    bias = np.ones(8)
    x = np.ones((2, 6))
    ops = TracedBackend(NumpyBackend(dtype="float64"), layer_of={id(weight): "a", id(bias): "b"})
    ops.linear(x, weight)
    ops.linear(x, weight.copy(), bias=bias)
    ops.linear(x, weight.copy())
    ops.silu(x)
    assert [record.layer for record in ops.records] == ["a", "b", "", ""]
    plain = TracedBackend(NumpyBackend())
    plain.silu(x)
    assert plain.records[0].layer == ""


def test_layers_of_a_model_are_named():
    model = ldmref.random_model("tiny", backend="numpy", dtype="float64")
    names = layer_names(model.params["unet"])
    assert {*names.values()} >= {"conv_in", "time_embedding.linear_1", "mid_block.resnets.0.norm1"}
    whole = {*layer_names(model.params).values()}
    assert "unet.conv_in" in whole and len(whole) > len({*names.values()})

    def layers(ops):
        one = model.with_params({}, ops)
        one.unet(np.ones((1, 4, 8, 8)), np.ones(1), model.encode_text(["a"]))
        return [record.layer for record in ops.records]

    given = layers(TracedBackend(NumpyBackend(dtype="float64"), layer_of=names))
    own = layers(TracedBackend(NumpyBackend(dtype="float64")))
    assert given == own and own[-1] == "conv_out" and all(own)


def test_compile_keeps_the_records():
    ops = TracedBackend(NumpyBackend())
    ops.compile(lambda ops, params, x: ops.silu(x), {})(ops.asarray(np.ones(3)))
    assert len(ops.records) == 1
