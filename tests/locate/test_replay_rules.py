"""The replay of networks of a few lines: the points that the judge sees, and what follows them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from ldmref.backends.named import LayerCall, NamedBackend
from ldmref.locate.recorded.names import parts_of
from ldmref.locate.recorded.precision import exact_backend
from ldmref.locate.replay.definition import NetworkReplay, Replay
from ldmref.locate.replay.networks import RecordedNetwork
from ldmref.locate.replay.points import Frame
from ldmref.models.declared import DeclaredNetwork, NetworkOutput
from ldmref.models.layers import layer
from ldmref.trace import build_trace

CALL = "unet.000"


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


PARAMS = {
    "conv_in": {"weight": normal(5, 6, 6)},
    "b": {
        "fc1": {"weight": normal(6, 6, 6)},
        "fc2": {"weight": normal(7, 6, 6)},
        "norm1": {"linear": {"weight": normal(8, 12, 6)}},
    },
    "out": {"weight": normal(9, 6, 6)},
}


@layer
def block(ops, p, x, emb):
    h = ops.linear(ops.silu(x), p["fc1"]["weight"])
    ops.linear(emb, p["norm1"]["linear"]["weight"])
    return ops.linear(ops.silu(h), p["fc2"]["weight"]) + emb


@layer
def pair(ops, p, x, emb) -> tuple[np.ndarray, np.ndarray]:
    return ops.linear(x, p["fc1"]["weight"]), emb


def network(ops, params, x, emb, config=None, ids=None):
    h = ops.linear(x, params["conv_in"]["weight"])
    h = block(ops, params["b"], h, emb)
    return ops.linear(h, params["out"]["weight"])


ARRAYS = {"x": normal(0, 1, 4, 6), "emb": normal(1, 1, 4, 6)}


class Recorder(NamedBackend):
    """Keeps what every layer reads and returns, as a trace of a right port does."""

    def __init__(self):
        super().__init__(exact_backend())
        self.tensors = {}

    def visit(self, call):
        place = f"{CALL}/{call.name}"
        self.tensors |= {f"{place}/input.{role}": x for role, x in call.inputs.items()}
        result = call.compute(call.inputs)
        parts = parts_of(result)
        for i, x in enumerate(parts):
            self.tensors[f"{place}/output" + (f".{i}" if len(parts) > 1 else "")] = x
        return result


def recorded(function=network, arrays=ARRAYS, params=PARAMS):
    """Return the arrays of a right run, with those of the whole network."""
    recorder = Recorder()
    recorder.name_parameters(params)
    with recorder.observed("network"):
        result = function(recorder, params, **arrays)
    whole = {f"{CALL}//input.{name}": x for name, x in arrays.items()}
    return whole | recorder.tensors | {f"{CALL}//output": result}


class Observer:
    """Keeps all points, and goes on with what was recorded, or what `use` returns."""

    def __init__(self, use=lambda point: point.recorded):
        self.use = use
        self.points = []
        self.skipped = []
        self.refused = []

    def observe(self, replay, point):
        self.replay = replay
        self.points.append(point)
        return self.use(point)

    def skip(self, call, why):
        self.skipped.append((call.name, why))

    def refuse(self, call, inputs, why):
        self.refused.append((call.name, dict(inputs), why))


ONE = (NetworkOutput("", "y"),)


def declared(function, outputs=ONE):
    return DeclaredNetwork("unet", "unet", "", function, dict, {}, (), tuple(outputs))


def replayed(tensors, arrays=ARRAYS, function=network, params=PARAMS, use=None, **more):
    """Replay arrays; return the observer, with the replay and its result."""
    observer = Observer() if use is None else Observer(use)
    port = tensors if hasattr(tensors, "entries") else build_trace(tensors)
    run = Replay(port, CALL, more.pop("dtype", "float32"), observer, more.pop("padding", None))
    observer.replay = run
    observer.result = run.run(declared(function, **more), params, arrays)
    return observer


def places(observer):
    return [(p.call.name, p.role) for p in observer.points]


def without(tensors, *parts):
    return {name: x for name, x in tensors.items() if not any(part in name for part in parts)}


def only(tensors, *parts):
    return {name: x for name, x in tensors.items() if any(part in name for part in parts)}


# -- points ---------------------------------------------------------------------------------------


def test_points_of_a_run_of_which_everything_was_recorded():
    found = replayed(recorded())
    described = [
        (p.call.name, p.role, p.frame.name, [c.name for c in p.suspects], p.after)
        for p in found.points
    ]
    assert described == [
        ("conv_in", "input", "", [], ()),
        ("conv_in", "", "conv_in", ["conv_in"], ()),
        ("b", "input", "", [], ("conv_in",)),
        ("b", "emb", "", [], ("conv_in",)),
        ("b.silu", "input", "b", [], ("conv_in",)),
        ("b.silu", "", "b.silu", ["b.silu"], ("conv_in",)),
        ("b.fc1", "input", "b", [], ("b.silu",)),
        ("b.fc1", "", "b.fc1", ["b.fc1"], ("b.silu",)),
        ("b.norm1.linear", "input", "b", [], ("b.fc1",)),
        ("b.norm1.linear", "", "b.norm1.linear", ["b.norm1.linear"], ("b.fc1",)),
        ("b.silu~1", "input", "b", [], ("b.norm1.linear",)),
        ("b.silu~1", "", "b.silu~1", ["b.silu~1"], ("b.norm1.linear",)),
        ("b.fc2", "input", "b", [], ("b.silu~1",)),
        ("b.fc2", "", "b.fc2", ["b.fc2"], ("b.silu~1",)),
        ("b", "", "b", [], ("b.fc2",)),
        ("out", "input", "", [], ("b",)),
        ("out", "", "out", ["out"], ("b",)),
        ("", "", "", [], ("out",)),
    ]
    for point in found.points:
        tolerance = {"rtol": 1e-5, "atol": 1e-5}  # parameters are those of float32
        np.testing.assert_allclose(point.computed, point.recorded, **tolerance)
        assert point.computed.dtype == np.float64
        assert (point.unit, point.part, point.padding) == (0.0, 0, None)
    run = found.replay
    assert run.visited == {p.call.name for p in found.points} - {""}
    assert run.modulations == {"b.norm1.linear": 2}
    assert list(run.skips) == ["conv_in"]
    assert [name for name, _ in run.recent] == [
        "conv_in", "b.silu", "b.fc1", "b.norm1.linear", "b.silu~1", "b.fc2", "b", "out",
    ]  # fmt: skip
    for name, x in run.recent:
        assert np.array_equal(x, build_trace(recorded()).tensors[f"{CALL}/{name}/output"])
    assert run._corrected == {}


def test_what_a_point_is_computed_from():
    tensors = recorded()
    for point in replayed(tensors).points:
        if point.role:
            assert point.inputs == {}
        else:
            names = ARRAYS if not point.call.name else point.call.inputs
            assert point.inputs.keys() == names.keys()
            assert point.frame.inputs == point.inputs
            for role, x in point.inputs.items():
                assert np.array_equal(x, tensors[f"{CALL}/{point.call.name}/input.{role}"])


def test_operations_that_were_not_recorded_are_suspects():
    found = replayed(without(recorded(), "b.silu/", "b.norm1", "silu~1", "b.fc1", "b/"))
    described = {
        (p.call.name, p.role): ([c.name for c in p.suspects], p.after, p.frame.name)
        for p in found.points
    }
    between = ["b.silu", "b.fc1", "b.norm1.linear", "b.silu~1"]
    assert described["b.fc2", "input"] == (between, ("conv_in",), "")
    assert described["b.fc2", ""] == (["b.fc2"], ("conv_in",), "b.fc2")
    assert described["out", "input"] == (between, ("b.fc2",), "")  # those of the last layer
    alone = replayed(only(recorded(), "b.fc2/output", "//"))
    described = [(p.call.name, [c.name for c in p.suspects], p.frame.name) for p in alone.points]
    assert described == [("b.fc2", ["conv_in", *between, "b.fc2"], ""), ("", ["out"], "")]
    assert alone.points[1].after == ("b.fc2",)


def attend(ops, params, x, emb):
    h = ops.silu(x)
    q = ops.linear(h, params["conv_in"]["weight"])
    k = ops.linear(h, params["out"]["weight"])
    return q + k


def test_layers_that_read_one_array_have_the_same_suspects():
    found = replayed(without(recorded(attend), "silu"), function=attend)
    suspects = {(p.call.name, p.role): [c.name for c in p.suspects] for p in found.points}
    assert suspects == {
        ("conv_in", "input"): ["silu"],
        ("conv_in", ""): ["conv_in"],
        ("out", "input"): ["silu"],
        ("out", ""): ["out"],
        ("", ""): [],
    }


def test_the_units_of_stored_arrays():
    tensors = recorded()
    kinds = {f"{CALL}/b.fc1/input.input": "BF16", f"{CALL}//output": "F16"}
    for point in replayed(build_trace(tensors, kinds=kinds)).points:
        wanted = {"b.fc1": 2.0**-7, "": 2.0**-10}.get(point.call.name, 0.0)
        assert point.unit == wanted


def test_a_run_goes_on_with_what_the_judge_returns():
    tensors = recorded()
    whole = without(tensors, "silu", "norm1")
    same = replayed(whole)
    assert same.result is same.points[-2].recorded

    def use(point):
        changed = point.call.name == "b.fc1" and not point.role
        return point.computed + 1.0 if changed else point.recorded

    other = replayed(whole, use=use)
    fc1 = next(p for p in other.points if p.call.name == "b.fc1" and not p.role)
    assert [*other.replay._corrected] == [("b.fc1", 0)]
    assert np.array_equal(other.replay._corrected["b.fc1", 0], fc1.computed + 1.0)
    fc2 = next(p for p in other.points if p.call.name == "b.fc2" and p.role)
    h = fc1.computed + 1.0
    np.testing.assert_allclose(fc2.computed, h / (1.0 + np.exp(-h)), rtol=1e-12)
    assert dict(other.replay.recent)["b.fc1"] is other.replay._corrected["b.fc1", 0]


def test_inputs_keep_the_kind_of_the_definition():
    def look_up(ops, params, x, emb):
        return ops.embedding(params["conv_in"]["weight"], x) + emb

    arrays = {"x": np.array([[1, 5, 0, 2]], np.int32), "emb": ARRAYS["emb"]}
    tensors = recorded(look_up, arrays)
    tensors[f"{CALL}/conv_in/input.ids"] = np.array([[1, 5, 0, 2]], np.int16)
    found = replayed(tensors, arrays, look_up, use=lambda p: np.asarray(p.recorded, np.float32))
    (point,) = [p for p in found.points if p.call.name == "conv_in" and not p.role]
    assert point.inputs["input"].dtype == np.int64
    linear = replayed(recorded(), use=lambda p: np.asarray(p.recorded, np.float32))
    assert linear.points[1].inputs["input"].dtype == np.float64


# -- the network ----------------------------------------------------------------------------------


def test_what_a_replay_knows_of_its_network():
    ids = np.array([[3, 4]])
    run = replayed({}, ARRAYS | {"config": "c", "ids": ids}).replay
    assert run.config == "c" and run.ids is ids and run.arguments["x"] is ARRAYS["x"]
    assert run._frames == [] and run._trees == [PARAMS]
    assert replayed({}, ARRAYS | {"ids": np.full((1, 2), np.nan)}).replay.ids is None
    plain = replayed({}).replay
    assert plain.ids is None and plain.config is None
    assert replayed({}).points == []


def test_outputs_of_a_network_have_numbers():
    def two(ops, params, x, emb):
        return ops.linear(x, params["conv_in"]["weight"]), emb

    outputs = (NetworkOutput("", "y"), NetworkOutput("pooled", "z"))
    tensors = {f"{CALL}//output": ARRAYS["x"], f"{CALL}//output.pooled": ARRAYS["emb"]}
    found = replayed(tensors, function=two, outputs=outputs).points
    assert [(p.call.name, p.role, p.part) for p in found] == [("", "", 0), ("", "", 1)]
    assert found[1].computed is ARRAYS["emb"] and np.array_equal(found[1].recorded, ARRAYS["emb"])
    for point in found:
        assert point.call.kind == "two" and point.call.composite
        assert [c.name for c in point.suspects] == ["conv_in"] and point.after == ()
        assert point.frame.name == "" and point.frame.seen == Counter() and point.frame.scope == []
    (second,) = replayed(only(tensors, "pooled"), function=two, outputs=outputs).points
    assert second.part == 1


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("operation", ["group_norm_silu", "geglu"])
def test_fused_operations_are_those_that_the_port_recorded(operation, fused):
    params = {
        "n": {"weight": np.ones(6), "bias": np.zeros(6)},
        "g": {"weight": normal(1, 12, 6), "bias": normal(2, 12)},
    }
    name = {"group_norm_silu": "n", "geglu": "g"}[operation]

    def one(ops, params, x, emb):
        p = params[name]
        if name == "g":
            return ops.geglu(x, p["weight"], p["bias"])
        return ops.group_norm_silu(x, p["weight"], p["bias"], 2, 1e-5)

    arrays = {"x": normal(3, 1, 6, 2, 2) if name == "n" else ARRAYS["x"], "emb": ARRAYS["emb"]}
    right = exact_backend()
    wanted = one(right, params, **arrays)
    output = f"{CALL}/{name}/output"
    entry = {
        "call": CALL,
        "layer": name,
        "kind": operation if fused else "other",
        "inputs": {},
        "outputs": {"output": output},
    }
    port = build_trace({output: wanted}, {"entries": [entry]})
    found = replayed(port, arrays, one, params, use=lambda p: p.computed)
    np.testing.assert_allclose(found.result, wanted, rtol=1e-5, atol=1e-6)
    (point,) = found.points
    assert (point.call.kind == operation) == fused
    if fused:
        np.testing.assert_allclose(point.computed, wanted, rtol=1e-5, atol=1e-6)
        attributes = {"group_norm_silu": {"groups": 2, "eps": 1e-5}, "geglu": {}}[operation]
        assert point.call.attributes == attributes


def test_why_a_replay_could_not_be_completed():
    def call(function=network, tensors=None, padding=None):
        observer = Observer()
        visited = {"before"}
        whole = RecordedNetwork(declared(function), PARAMS, ARRAYS, True)
        port = build_trace(recorded() if tensors is None else tensors)
        run = NetworkReplay(port, CALL, "float32", padding)
        why = run.follow(whole, observer, visited=visited)
        return why, visited, observer

    why, visited, observer = call()
    assert why == "" and {"before", "b.fc1"} < visited
    assert observer.replay.dtype_of_port == "float32" and observer.replay.padding == {}

    def fail(ops, params, x, emb):
        ops.linear(x, params["conv_in"]["weight"])
        raise ValueError("first\nsecond")

    assert call(fail)[:2] == ("first", {"before", "conv_in"})
    rows = {("b.fc1", "", 0): np.array([[True, False, False, False]])}
    _, _, observer = call(padding=rows)
    assert [p.call.name for p in observer.points if p.padding is not None] == ["b.fc1"]


def test_rows_of_padding_have_the_shape_of_their_array():
    rows = np.array([[True, False, False, False]])
    padding = {("b.fc1", "", 0): rows, ("b.fc2", "input", 0): rows, ("out", "", 0): rows[:, :3]}
    found = replayed(recorded(), padding=padding)
    marked = {(p.call.name, p.role): p.padding for p in found.points if p.padding is not None}
    assert marked.keys() == {("b.fc1", ""), ("b.fc2", "input")}
    assert all(x is rows for x in marked.values())


# -- several outputs ------------------------------------------------------------------------------


def outputs_of(result, inputs, **tensors):
    port = build_trace({f"{CALL}/a/{k.replace('_', '.')}": x for k, x in tensors.items()})
    observer = Observer()
    run = Replay(port, CALL, "float32", observer)
    run._pending = ["p"]
    run._after = ("before",)
    call = LayerCall("a", "k", inputs, {}, {}, lambda x: result, True, "a", True)
    frame = Frame("a", call.compute, inputs, Counter(), [])
    entry = port.find(CALL, "a")
    used = run._observe_outputs(call, entry, result, inputs, frame)
    return used, observer.points, run


def test_the_only_recorded_output_is_the_first_that_is_no_input():
    x, y, z = normal(0, 2), normal(1, 2), normal(2, 2)
    for result, part in (((y, z), 0), ((x, z), 1), ((x, x), 0), ((y, x), 0)):
        used, (point,), run = outputs_of(result, {"input": x}, output=np.ones(2))
        assert point.part == part and point.computed is result[part]
        assert np.array_equal(used[part], np.ones(2)) and used[1 - part] is result[1 - part]
        assert [name for name, _ in run.recent] == ["a"]
        assert (run._pending, run._after) == ([], ("a",))
        assert point.suspects == ("p",) and point.after == ("before",)


def test_outputs_are_read_by_their_numbers():
    x, y, z = normal(0, 2), normal(1, 2), normal(2, 2)
    used, points, run = outputs_of((y, z), {"input": x}, output_0=y + 1.0, output_1=z + 1.0)
    assert [p.part for p in points] == [0, 1] and isinstance(used, tuple)
    assert np.array_equal(used[0], y + 1.0) and np.array_equal(used[1], z + 1.0)
    assert [p.suspects for p in points] == [("p",), ("p",)]
    assert [name for name, _ in run.recent] == ["a", "a"]
    assert np.array_equal(run.recent[1][1], z + 1.0)
    used, points, run = outputs_of(y, {"input": x}, input_input=x)
    assert used is y and points == [] and run._pending == ["p"] and run._after == ("before",)
    used, points, _ = outputs_of(y, {"input": x}, output=z)
    assert np.array_equal(used, z) and len(points) == 1


# -- operations that were left out ----------------------------------------------------------------


def port_without_the_first_silu(change=None):
    tensors = without(recorded(), "b.silu/", "fc1", "norm1")
    for side in ("input.input", "output"):
        x = tensors.pop(f"{CALL}/b.silu~1/{side}")
        tensors[f"{CALL}/b.silu/{side}"] = x if change is None else change(x)
    return tensors


def test_a_port_may_leave_out_the_first_operation_of_a_name():
    found = replayed(port_without_the_first_silu())
    assert [p for p in places(found) if "silu" in p[0]] == [("b.silu~1", "input"), ("b.silu~1", "")]
    run = found.replay
    assert run.aligned == {"b.silu": (None, 0)} and run.collected == {}
    assert "b.silu" in run.visited and run._trial is None
    assert places(found)[-4:] == [("b", ""), ("out", "input"), ("out", ""), ("", "")]
    for point in found.points:
        np.testing.assert_allclose(point.computed, point.recorded, rtol=1e-5, atol=1e-5)


def test_operations_outside_of_all_modules_may_be_left_out():
    def twice(ops, params, x, emb):
        x = block(ops, params["b"], x, emb)
        h = ops.linear(ops.silu(x), params["conv_in"]["weight"])
        return ops.linear(ops.silu(h), params["out"]["weight"]) + emb

    tensors = without(recorded(twice), "conv_in", "/b.", "/b/")
    for side in ("input.input", "output"):
        tensors[f"{CALL}/silu/{side}"] = tensors.pop(f"{CALL}/silu~1/{side}")
    found = replayed(tensors, function=twice)
    assert found.replay.aligned == {"silu": (None, 0)}
    assert places(found)[:2] == [("silu~1", "input"), ("silu~1", "")]


def test_operations_that_are_all_recorded_keep_their_numbers():
    tensors = recorded()
    tensors[f"{CALL}/b.silu/input.input"] = tensors[f"{CALL}/b.silu/input.input"] + 1.0
    found = replayed(tensors)
    assert found.replay.aligned == {} and len(found.points) == 18
    near = recorded()
    near[f"{CALL}/b.silu/input.input"] = near[f"{CALL}/b.silu/input.input"] * (1.0 + 2.0**-22)
    del near[f"{CALL}/b.silu~1/input.input"], near[f"{CALL}/b.silu~1/output"]
    assert replayed(near).replay.aligned == {}  # rounding makes no other operation


def test_what_makes_an_operation_another_one():
    x = np.array([4.0, 1.0])

    def another(dtype="float32", kinds=None, assumed=x, read=x, second=None):
        arrays = {f"{CALL}/a/input.input": read}
        inputs = {"input": assumed}
        if second is not None:
            arrays[f"{CALL}/a/input.emb"] = second
            inputs["emb"] = x
        port = build_trace(arrays, kinds=kinds or {})
        run = Replay(port, CALL, dtype, None)
        return run._is_another(LayerCall("a", "silu", inputs, {}, {}, max), port.find(CALL, "a"))

    moved = np.array([4.0, 1.0 + 2.0**-13])  # 2^-15 of the largest value
    assert not another() and another(read=moved)
    assert not another("bfloat16", read=moved) and not another("float16", read=moved)
    assert not another(kinds={f"{CALL}/a/input.input": "BF16"}, read=moved)
    exact = np.array([4.0, 1.0 + 2.0**-18])  # exactly 8 units
    assert not another(read=exact) and another(read=exact + 2.0**-22)
    assert not another(assumed=np.array([4.0, np.nan]), read=moved)
    assert another(second=moved) and not another(second=x) and another(read=moved, second=x)


@pytest.mark.parametrize("kind", [ValueError, IndexError])
def test_a_module_that_cannot_be_run_again_is_not_aligned(kind):
    run = Replay(build_trace({}), CALL, "float32", None)

    def fail(inputs):
        assert run._trial is not None and run._seen == Counter(a=1) and run._scope == ["s"]
        assert not run._trial.low and not run._trial.free and run.aligned == {"a.silu": ()}
        run.collected["a.silu"].append({"input": 1})
        raise kind("x")

    run._around = [Frame("a", fail, {}, Counter(a=1), ["s"])]
    run._seen = Counter(b=2)
    assert run.collect("a.silu", run._around[-1]) == []
    assert run._trial is None and run.collected == {}
    assert run._seen == Counter(b=2) and run._scope == []


# -- layers of other shapes -----------------------------------------------------------------------


UNKNOWN = {"x": np.full((1, 4, 6), np.nan), "emb": np.full((1, 4, 6), np.nan)}
LONGER = {"x": normal(3, 1, 9, 6), "emb": normal(4, 1, 9, 6)}


def test_layers_of_other_shapes_are_judged_by_their_own_inputs():
    found = replayed(without(recorded(arrays=LONGER), "//"), UNKNOWN)
    assert found.skipped == found.refused == []
    described = [
        (p.call.name, p.role, p.frame.name, [c.name for c in p.suspects], p.after)
        for p in found.points
    ]
    assert described[:2] == [
        ("conv_in", "", "conv_in", ["conv_in"], ()),
        ("b.silu", "input", "b", [], ()),
    ]
    assert described[9:] == [
        ("b.fc2", "input", "b", [], ("b.silu~1",)),
        ("b.fc2", "", "b.fc2", ["b.fc2"], ("b.silu~1",)),
        ("b", "", "b", [], ("b.fc2",)),
        ("out", "", "out", ["out"], ()),
    ]
    for point in found.points:
        assert point.computed.shape == (1, 9, int(point.computed.shape[-1]))
        np.testing.assert_allclose(point.computed, point.recorded, rtol=1e-4, atol=1e-4)
    assert found.result.shape == (1, 4, 6) and np.isnan(found.result).all()
    assert found.replay._frames == [] and found.replay._trial is None


def test_a_layer_of_other_shapes_is_alone():
    tensors = only(recorded(arrays=LONGER), "b.fc1", "out/")
    found = replayed(tensors, UNKNOWN)
    described = [
        (p.call.name, [c.name for c in p.suspects], p.after, p.frame.name) for p in found.points
    ]
    assert described == [("b.fc1", ["b.fc1"], (), "b.fc1"), ("out", ["out"], (), "out")]
    assert found.replay.visited == {"b.fc1", "out"}


def test_layers_within_one_that_cannot_be_computed_are_judged():
    tensors = without(recorded(arrays=LONGER), "//", "b/input.emb")
    found = replayed(tensors, UNKNOWN)
    assert [name for name, _ in found.skipped] == ["b"] and "'emb'" in found.skipped[0][1]
    names = [p.call.name for p in found.points]
    assert names == ["conv_in", "b.silu", "b.fc1", "b.norm1.linear", "b.silu~1", "b.fc2", "out"]
    quiet = replayed(without(tensors, "b/output"), UNKNOWN)
    assert quiet.skipped == [] and [p.call.name for p in quiet.points] == names


def test_inputs_that_do_not_fit_the_weights_are_refused():
    tensors = only(recorded(arrays=LONGER), "b.fc1", "out/")
    tensors[f"{CALL}/b.fc1/input.input"] = np.zeros((1, 9, 5))
    found = replayed(tensors, UNKNOWN)
    ((name, inputs, why),) = found.refused
    assert name == "b.fc1" and inputs["input"].shape == (1, 9, 5) and "\n" not in why and why
    assert [p.call.name for p in found.points] == ["out"] and found.replay._frames == []


# -- repeated runs --------------------------------------------------------------------------------


def test_a_point_that_is_not_reached_is_not_computed():
    found = replayed(recorded())
    run = found.replay
    point = next(p for p in found.points if p.call.name == "b.fc2" and p.role)
    assert np.array_equal(run.rerun(point), point.computed)
    other = SimpleNamespace(**{**vars(point), "call": SimpleNamespace(name="elsewhere")})
    assert run.rerun(other) is None
    assert run._trial is None and run.inner is run.exact


def test_layers_of_the_second_call_of_a_layer_are_computed_again():
    def twice(ops, params, x, emb):
        return block(ops, params["b"], block(ops, params["b"], x, emb), emb)

    found = replayed(recorded(twice), function=twice)
    whole = next(p for p in found.points if not p.call.name)
    inner = [p for p in found.points if p.call.name in ("b.fc1~1", "b.fc2~1")]
    assert len(inner) == 4
    for point in inner:
        again = found.replay.rerun(replace(point, frame=whole.frame))
        np.testing.assert_allclose(again, point.computed, rtol=1e-5)


def test_a_layer_that_is_not_computed_again_counts_the_names_within_it():
    @layer
    def part(ops, p, x):
        return ops.linear(ops.silu(x), PARAMS["out"]["weight"])

    def shared(ops, params, x, emb):
        return ops.linear(part(ops, params["b"], x), params["out"]["weight"]) + emb

    found = replayed(recorded(shared), function=shared)
    (point,) = [p for p in found.points if (p.call.name, p.role) == ("out~1", "input")]
    assert np.array_equal(found.replay.rerun(point), point.computed)


@pytest.mark.parametrize("parts", [("0", "1"), ("1",)])
def test_a_wrong_layer_of_several_outputs_is_what_the_rest_follows_from(parts):
    """Whether it is computed once or again: else its error is the noise of what it leads to."""

    def joint(ops, params, x, emb):
        first, second = pair(ops, params["b"], x, emb)
        return ops.linear(first * second, params["out"]["weight"])

    tensors = only(recorded(joint), "//")
    tensors |= {f"{CALL}/b/output.{part}": normal(20 + int(part), 1, 4, 6) for part in parts}
    found = replayed(tensors, function=joint)
    whole = found.points[-1]
    assert [p.part for p in found.points[:-1]] == [*map(int, parts)] and not whole.call.name
    for low, close in ((False, 1e-12), (True, 1e-4)):
        again = found.replay.rerun(whole, low=low)
        np.testing.assert_allclose(again, whole.computed, rtol=close, atol=close)
