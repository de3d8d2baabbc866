"""The tracing backend records every operation and finds where two runs part."""

import math

import numpy as np
import pytest

import ldmref
from ldmref.backends import get_backend
from ldmref.backends.base import Backend
from ldmref.backends.numpy import NumpyBackend
from ldmref.backends.operations import Operations
from ldmref.backends.traced import (
    OPERATIONS,
    Difference,
    TracedBackend,
    first_difference,
    layer_names,
)
from ldmref.errors import UsageError
from ldmref.models import params, unet
from ldmref.models.presets import preset
from ldmref.testing import assert_conforms

CONFIG = preset("tiny").unet
PARAMS = params.init(unet.unet_spec(CONFIG), seed=1)


class LateFault(NumpyBackend):
    """Wrong in exactly one operation: the tenth convolution."""

    calls = 0

    def conv2d(self, *args, **kwargs):
        self.calls += 1
        return super().conv2d(*args, **kwargs) * (1.01 if self.calls == 10 else 1.0)


def trace(inner, keep=True):
    ops = TracedBackend(inner, keep=keep)
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
    assert np.array_equal(ops.records[-1].array, y)
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
    assert all(r.seconds > 0 and r.array is None for r in ops.records)


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


@pytest.mark.parametrize(
    ("dtype", "speed"), [("float64", None), ("float32", "exact"), ("float32", None)]
)
def test_numpy_and_torch_do_not_part(rounding_bound, dtype, speed):
    pytest.importorskip("torch")
    a, _ = trace(get_backend("numpy", dtype=dtype, speed=speed))
    b, _ = trace(get_backend("torch", dtype=dtype, speed=speed))
    assert len(a.records) > 50
    assert first_difference(a, b, rtol=2 * rounding_bound(a.records, dtype)) is None
    assert first_difference(a, b, rtol=0.0) is not None


def test_the_first_wrong_operation_is_named():
    good, _ = trace(NumpyBackend(dtype="float64"))
    bad, _ = trace(LateFault(dtype="float64"))
    found = first_difference(bad, good, rtol=1e-9)
    assert found.name == "conv2d" and found.error == pytest.approx(0.01)
    assert found.index == [r.index for r in good.records if r.name == "conv2d"][9]


def test_a_difference_names_its_layer():
    """With the names of the parameters of either model; `layer_names` gives them."""
    model = ldmref.random_model("tiny", backend="numpy", dtype="float64")
    names = layer_names(model.params["unet"])
    assert set(names.values()) >= {
        "conv_in",
        "time_embedding.linear_1",
        "mid_block.resnets.0.norm1",
    }
    whole = set(layer_names(model.params).values())
    assert "unet.conv_in" in whole and len(whole) > len(set(names.values()))

    def run(ops):
        one = model.with_params({}, ops)
        one.unet(np.ones((1, 4, 8, 8)), np.ones(1), model.encode_text(["a"]))
        return ops

    good = run(TracedBackend(NumpyBackend(dtype="float64"), keep=True, layer_of=names))
    bad = run(TracedBackend(LateFault(dtype="float64"), keep=True))
    wrong = [record for record in good.records if record.name == "conv2d"][9]
    for found in (first_difference(bad, good, 1e-9), first_difference(good, bad, 1e-9)):
        assert (found.name, found.layer) == ("conv2d", wrong.layer) and "conv" in found.layer
    bad.records = bad.records[: wrong.index]
    good.records = good.records[: wrong.index + 1]
    assert first_difference(good, bad, 1.0).layer == wrong.layer


def test_another_operation_a_shorter_trace_and_nan_are_differences():
    def run(*names, value=1.0):
        ops = TracedBackend(NumpyBackend(), keep=True)
        for name in names:
            getattr(ops, name)(ops.asarray(np.full(3, value)))
        return ops

    other = first_difference(run("silu", "gelu"), run("silu", "silu"), 1.0)
    assert other == Difference(1, "gelu", math.inf)
    shorter = first_difference(run("silu"), run("silu", "gelu"), 1.0)
    assert shorter == Difference(1, "gelu", math.inf)
    nan = first_difference(run("silu", value=math.nan), run("silu"), 1e9)
    assert nan.index == 0 and math.isnan(nan.error)
    assert first_difference(run(), run(), 0.0) is None


def test_differences_of_short_floats_do_not_overflow():
    """Twice the largest float16 is infinite in float16."""
    a, b = (TracedBackend(NumpyBackend(dtype="float16"), keep=True) for _ in range(2))
    for ops, value in ((a, 6e4), (b, -6e4)):
        ops.upsample2x(ops.asarray(np.full((1, 1, 2, 2), value)))
    assert first_difference(a, b, rtol=1.0) == Difference(0, "upsample2x", 2.0)
    assert first_difference(a, b, rtol=2.0) is None


def test_traces_without_arrays_cannot_be_compared():
    a, _ = trace(NumpyBackend(), keep=False)
    with pytest.raises(UsageError, match="keep=True"):
        first_difference(a, a, rtol=1.0)


def test_kept_outputs_are_copies():
    ops = TracedBackend(NumpyBackend(dtype="float64"), keep=True)
    y = ops.silu(ops.asarray(np.ones(3)))
    y[...] = 7.0
    assert not np.any(ops.records[0].array == 7.0)


def test_compile_keeps_the_records():
    ops = TracedBackend(NumpyBackend())
    ops.compile(lambda ops, params, x: ops.silu(x), {})(ops.asarray(np.ones(3)))
    assert len(ops.records) == 1
