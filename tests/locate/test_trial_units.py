"""What a replay knows of the layers around an operation, and how it runs a part again."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from fault_calls import call_of, linear, normal
from numpy_ports import make_model, run_port

from ldmref.backends.named import AGAIN, LayerCall
from ldmref.locate import replay as replay_module
from ldmref.locate.following import RECENT, SKIPS
from ldmref.locate.networks import open_network
from ldmref.locate.precision import stored_unit
from ldmref.locate.replay import Replay, replay_network
from ldmref.trace import build_trace


def run_of(tensors=None, dtype="float32", trees=()):
    run = Replay(build_trace(tensors or {}), "unet.000", dtype, None)
    run._trees = [*trees]
    return run


def layer(*shape, seed=0):
    return {"weight": normal(seed, *shape)}


TREE = {
    "b": {
        "attn": {
            "to_q": layer(4, 4, seed=1),
            "to_k": layer(4, 4, seed=2),
            "to_v": layer(4, 6, seed=3),
            "to_out": {"0": layer(4, 4, seed=4)},
        },
        "norm": {"weight": normal(5, 4)},
    },
    "c": {"to_q": layer(4, 4, seed=6)},
}


@pytest.mark.parametrize("name", ["b.attn.to_q", "b.attn.to_out.0"])
def test_neighbours_have_the_same_shapes(name):
    call = call_of("linear", linear, {}, layer(4, 4), name)
    found = dict(run_of(trees=[TREE]).similar_layers(call))
    names = {"b.attn.to_q", "b.attn.to_k", "b.attn.to_out.0"} - {name}
    assert found.keys() == names
    for other, parameters in found.items():
        tree = TREE
        for part in other.split("."):
            tree = tree[part]
        np.testing.assert_allclose(parameters["weight"], tree["weight"], rtol=2.0**-24)
    assert not dict(run_of(trees=[TREE]).similar_layers(call_of("silu", None, {}, {}, name)))


def test_parameters_have_the_format_of_the_port():
    run = run_of(dtype="bfloat16", trees=[{"emb": {"weight": np.array([1.0 + 2.0**-9])}}])
    assert run.parameters_of("emb").tolist() == [1.0]
    assert run.parameters_of("x", "emb") is not None and run.parameters_of("x") is None
    call = call_of("linear", linear, {}, {"weight": np.array([1.0 + 2.0**-9])})
    assert run.parameters(call)["weight"].tolist() == [1.0]
    with run.in_format("float32"):
        assert run.parameters(call)["weight"].tolist() == [1.0 + 2.0**-9]
    assert run.dtype_of_port == "bfloat16"


def test_repeated_runs_compute_in_the_format_of_the_port():
    x = {"a": np.ones(2), "i": np.arange(2), "s": "text"}
    for dtype, low, kind in (
        ("float16", True, "float32"),
        ("float16", False, "float64"),
        ("float64", True, "float64"),
    ):
        run = run_of(dtype=dtype)
        run._trial = SimpleNamespace(low=low)
        found = run._cast(x)
        assert found["a"].dtype == kind
        assert found["i"] is x["i"] and found["s"] == "text"
    assert run_of()._cast(x)["a"].dtype == "float64"


def test_what_a_run_goes_on_with_is_exact():
    """Rows of a table in float32 are in float64 what is added to them is, except in the format."""
    table = normal(0, 5, 3).astype(np.float32)
    ids = np.array([[1, 4]])
    call = call_of("embedding", lambda table, ids: table[ids], {"ids": ids}, {"table": table})
    run = Replay(build_trace({}), "unet.000", "float32", None)
    found = run._operate_exactly(call, call.inputs)
    assert found.dtype == np.float64 and np.array_equal(found, table[ids])
    run._trial = SimpleNamespace(low=True)
    assert run._operate_exactly(call, call.inputs).dtype == np.float32
    run._trial = SimpleNamespace(low=False)
    assert run._operate_exactly(call, call.inputs).dtype == np.float64
    whole = call_of("ids", lambda ids: ids, {"ids": ids}, {})
    assert run._operate_exactly(whole, whole.inputs).dtype == ids.dtype


def test_operations_that_are_aligned_have_other_numbers():
    names = ("a.silu", f"a.silu{AGAIN}1", f"a.silu{AGAIN}2")
    run = run_of({f"unet.000/{name}/output": normal(i, 2) for i, name in enumerate(names)})

    def entry(number, aligned=None):
        run.aligned = {} if aligned is None else {"a.silu": aligned}
        found = run.find(names[number])
        return found and found.layer

    assert [entry(i) for i in range(3)] == [*names]
    assert [entry(i, (0, None, 1)) for i in range(3)] == [names[0], None, names[1]]
    assert entry(2, (0, 1)) is None
    assert entry(1, (None, 2)) == names[2]


def test_ids_that_are_not_known_have_unknown_rows():
    table = normal(0, 5, 3)
    run = run_of()
    run.visit = lambda call: call.compute({**call.inputs, **call.parameters})
    found = run.embedding(table, np.array([[1.0, np.nan, 4.0]]))
    assert np.array_equal(found[0, [0, 2]], table[[1, 4]]) and np.isnan(found[0, 1]).all()
    assert np.array_equal(run.embedding(table, np.array([[2]])), table[None, [2]])


def test_layers_that_a_skip_connection_carries():
    carried = (
        "conv_in",
        "down_blocks.0.resnets.1",
        "down_blocks.10.attentions.0",
        "down_blocks.1.downsamplers.0",
        "down_blocks.1.downsamplers.0.conv",
    )
    for name in carried:
        assert SKIPS.fullmatch(name), name
    for name in ("up_blocks.0.resnets.1", "conv_out", "down_blocks.0.resnets.1.conv1.x"):
        assert not SKIPS.fullmatch(name), name


def test_the_unit_of_a_layer_is_that_of_its_narrowest_array():
    port = build_trace(
        {f"unet.000/a/{x}": np.ones(2) for x in ("input", "output")},
        kinds={"unet.000/a/input": "F16", "unet.000/a/output": "BF16"},
    )
    entry = port.find("unet.000", "a")
    assert stored_unit(port, entry) == 2.0**-7
    plain = build_trace({"unet.000/a/input": np.ones(2)})
    unit = stored_unit(plain, plain.find("unet.000", "a"))
    assert unit == 0.0


@pytest.mark.parametrize(
    ("kind", "bits"), [("F16", 10), ("BF16", 7), ("F8_E4M3", 3), ("F8_E5M2", 2), ("F32", None)]
)
def test_the_unit_of_a_stored_format_follows_from_its_mantissa(kind, bits):
    port = build_trace({"unet.000/a/output": np.ones(2)}, kinds={"unet.000/a/output": kind})
    wanted = 0.0 if bits is None else 2.0**-bits
    assert stored_unit(port, port.find("unet.000", "a")) == wanted


def test_outputs_that_a_skip_connection_carries_are_kept_as_recorded():
    model = make_model("tiny")
    port = build_trace(run_port(model, {}))
    (call,) = {entry.call for entry in port.entries}
    seen = []

    def observe(replay, point):
        seen.append(replay)
        return point.recorded

    observer = SimpleNamespace(observe=observe, skip=None, refuse=None)
    network = open_network(model, port, call)
    assert replay_network(network, port, call, "float32", observer, set()) == ""
    recorded = {
        entry.layer: port.tensors[entry.outputs["output"]]
        for entry in port.entries
        if SKIPS.fullmatch(entry.layer) and "output" in entry.outputs
    }
    found = seen[-1].skips
    assert set(found) == set(recorded) and len(found) > 4
    for name, x in recorded.items():
        assert np.array_equal(found[name], x)
    assert len(seen[-1].recent) == RECENT  # the last ones, which an array may be compared with


@pytest.mark.parametrize(
    ("reads", "recorded", "found", "given"),
    [
        (["x", "positions"], {"x": 1}, 7, {"x": 1, "positions": 7}),
        (["x", "positions"], {"x": 1, "positions": 2}, 7, {"x": 1, "positions": 2}),
        (["x", "positions"], {"x": 1}, None, "positions"),
        (["x"], {"x": 1}, 7, {"x": 1}),
        (["x"], {}, 7, "x"),
    ],
)
def test_a_layer_of_other_shapes_reads_what_was_recorded(
    reads, recorded, found, given, monkeypatch
):
    """Positions may be those that an earlier layer of the port read; nothing else is assumed."""
    monkeypatch.setattr(replay_module, "read_inputs", lambda port, entry, call: dict(recorded))
    monkeypatch.setattr(replay_module, "read_positions", lambda port, entry, dims: found)
    observed, skipped = [], []
    run = SimpleNamespace(
        visited=set(), _seen=Counter(), _pending=[], _after=[], _trial=None, port=None,
        _finish=lambda x: x, parameters=lambda call: {}, _follow_inside=lambda call: None,
        observer=SimpleNamespace(skip=lambda call, why: skipped.append(why)),
        _observe_apart=lambda call, entry, inputs: observed.append(inputs),
        _assume=lambda call: "assumed",
    )  # fmt: skip
    call = LayerCall("a", "rotary", dict.fromkeys(reads, 0), {}, {}, lambda inputs: "assumed")
    entry = SimpleNamespace(layer="a", outputs={"output": "a/output"})
    assert Replay._visit_apart(run, call, entry) == "assumed" and run.visited == {"a"}
    if isinstance(given, str):
        assert observed == [] and skipped[0].startswith(f"its input {given!r} was not recorded")
    else:
        assert observed == [given] and skipped == []
