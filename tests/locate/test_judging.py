"""The judge of one array: its verdict, what the row says, and what the replay goes on with."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from fault_calls import normal, replay_of

from ldmref.backends.bounds import layer_bound
from ldmref.backends.named import LayerCall
from ldmref.locate import Row
from ldmref.locate.causes import diagnosis, nearby
from ldmref.locate.judging import ALL_PADDING, NO_ELEMENTS, NOT_RECORDED, Judge
from ldmref.locate.replay.points import Frame, Point
from ldmref.trace import build_trace

UNIT = 2.0**-23
RIGHT = np.round(8.0 * normal(0, 2, 3, 4)) / 8.0
RIGHT.flat[5] = 4.0  # the largest value: errors of whole units of it are exact
TURNED = RIGHT.transpose(0, 2, 1)
BEFORE, AFTER = normal(1, 2, 3, 4), normal(2, 2, 3, 4)


def call_of(name="a.x", kind="resnet_block", inputs=None, composite=True):
    return LayerCall(name, kind, inputs or {}, {}, {}, lambda x: x, composite)


def call_of_operation(kind, inputs, parameters, **attributes):
    return LayerCall("a.x", kind, inputs, parameters, attributes, lambda x: x)


def point_of(recorded, computed=RIGHT, role="", call=None, suspects=(), after=(), **more):
    call = call_of() if call is None else call
    frame = Frame(more.pop("within", ""), lambda x: x, more.pop("frame", {}), Counter(), [])
    inputs = more.pop("inputs", {})
    return Point(call, role, computed, recorded, inputs, frame, (*suspects,), (*after,), **more)


def run_of(low=0.0, single=0.0, recent=(), port=None, streams=()):
    """Return a run whose results in the port's format, and in float32, have these errors."""
    floors = [low]

    def rerun(point, changes=None, *, arguments=None, low=False, free=False, exact=False):
        moved = np.array(point.computed, np.float64)
        if low and moved.size:
            moved.flat[0] += floors[-1] * np.max(np.abs(point.computed), initial=0.0)
        return moved

    @contextmanager
    def in_format(dtype):
        floors.append(single)
        yield
        floors.pop()

    given: dict[str, Any] = {"rerun": rerun, "in_format": in_format}
    given |= {"recent": [*recent], "streams": [*streams]}
    given |= {"port": build_trace({}) if port is None else port, "call": "unet.000"}
    return replay_of(**given, similar_layers=lambda call: [])


OF_RUN = ("low", "single", "recent", "streams")


def judged(recorded, computed=RIGHT, dtype="float32", **more):
    """Return the row of an array, None if it has none, and what is used downstream."""
    judge = Judge("unet.000", dtype)
    run = run_of(**{name: more.pop(name) for name in OF_RUN if name in more})
    used = judge.observe(run, point_of(recorded, computed, **more))
    return (judge.rows[0] if judge.rows else None), used


def moved(units, x=RIGHT):
    """Return an array with an error of so many units relative to its largest value."""
    y = np.array(x)
    y.flat[1] += units * UNIT * np.abs(x).max()
    return y


# -- rounding and faults --------------------------------------------------------------------------

BFLOAT = 2.0**-7


@pytest.mark.parametrize(
    ("error", "more", "verdict"),
    [
        (8.0, {}, "equal"),
        (9.0, {}, "noisy"),
        (50.0, {}, "noisy"),
        (51.0, {}, "differs"),
        (-51.0, {}, "differs"),
        (16.0, {"low": UNIT}, "equal"),
        (17.0, {"low": UNIT}, "noisy"),
        (100.0, {"low": UNIT}, "noisy"),
        (101.0, {"low": UNIT}, "differs"),
        (1000.0, {"unit": BFLOAT}, "equal"),
        (1000.0, {"dtype": "bfloat16"}, "equal"),
        (1000.0, {"dtype": "float16"}, "equal"),
        (8.0, {"dtype": "float64"}, "noisy"),  # a part that computes in float32
        (9.0, {"dtype": "float64"}, "differs"),
        (16.0, {"dtype": "float64", "single": UNIT}, "noisy"),
        (17.0, {"dtype": "float64", "single": UNIT}, "differs"),
        (1e6, {"dtype": "float16", "low": math.inf}, "not judged"),  # the reference overflows
    ],
)
def test_sixteen_floors_are_rounding_and_a_hundred_are_certain(error, more, verdict):
    row, used = judged(moved(error), **more)
    assert row.verdict == verdict and row.cause == ""
    assert np.array_equal(used, moved(error))
    assert ("overflows in float16" in row.note) == (verdict == "not judged")
    if more in ({}, {"low": UNIT}):
        floor = max(more.get("low", 0.0), 0.5 * UNIT)
        assert (row.error, row.allowed) == (abs(error) * UNIT, 16.0 * floor)
        assert row.bound == (None if verdict == "equal" else 100.0 * floor)
        assert row.padding == 0 and row.note == ""
        assert (row.floor is None) == (error == 8.0)  # what is equal without a floor needs none


def test_one_operation_has_the_bound_of_its_sums():
    x, weight = np.full((1, 4, 64), 1e3), normal(1, 4, 64)
    call = call_of_operation("linear", {"input": x}, {"weight": weight})
    computed = x @ weight.T
    bound = layer_bound(call, call.inputs, call.parameters, "float32", computed)
    row, _ = judged(moved(200.0, computed), computed, call=call, inputs=call.inputs)
    assert row.bound == pytest.approx(np.max(bound) / np.abs(computed).max())
    assert row.bound < 50.0 * UNIT and row.verdict == "differs"
    wire, _ = judged(moved(200.0, computed), computed, call=call, role="input")
    assert wire.bound == pytest.approx(50.0 * UNIT)


@pytest.mark.parametrize(("mean", "verdict"), [(0.0, "differs"), (1e3, "equal")])
def test_norms_may_find_the_variance_in_one_pass(mean, verdict):
    """Of numbers far from 0, which kernels then subtract from each other."""
    parameters = {"weight": np.ones(8), "bias": np.zeros(8)}
    inputs = {"input": mean + normal(1, 2, 3, 8)}
    call = call_of_operation("layer_norm", inputs, parameters, eps=1e-5)
    x = inputs["input"] - inputs["input"].mean(axis=-1, keepdims=True)
    computed = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + 1e-5)
    row, _ = judged(moved(1e4, computed), computed, call=call, inputs=inputs)
    assert row.verdict == verdict


def test_whole_numbers_are_equal_or_they_differ():
    ids = np.array([[1, 2], [3, 4]])
    assert judged(ids, ids)[0].verdict == "equal"
    assert judged(ids + 1, ids)[0].verdict == "differs"
    row, _ = judged(ids.T, ids)  # which stay in their rows
    assert (row.verdict, row.error, row.note) == ("differs", 0.25, "")
    row, used = judged(ids.reshape(4), ids)
    assert row.verdict == "equal" and np.array_equal(used, ids)


# -- shapes and orders in memory ------------------------------------------------------------------

TWO = normal(3, 2, 4, 6, 3)
SPLIT = TWO.transpose(0, 2, 1, 3).reshape(2, 6, 2, 6).transpose(0, 2, 1, 3)


@pytest.mark.parametrize(
    ("recorded", "computed", "verdict", "cause", "note", "used"),
    [
        (TURNED, RIGHT, "equal", "", "equal after transpose 0,2,1", RIGHT),
        (3.0 * TURNED, RIGHT, "differs", "scaled by 3", "after transpose 0,2,1", 3.0 * RIGHT),
        (RIGHT.reshape(6, 4), RIGHT, "equal", "", "equal after reshape from (6, 4)", RIGHT),
        (RIGHT[0].T @ RIGHT[0], (RIGHT[0].T @ RIGHT[0]), "equal", "", "", RIGHT[0].T @ RIGHT[0]),
        (np.zeros(5), RIGHT, "differs", "all zeros", "shape (5,) instead of (2, 3, 4)", RIGHT),
        (
            SPLIT,
            TWO,
            "differs",
            "2 heads of width 6 instead of 4 of 3",
            "shape (2, 2, 6, 6) instead of (2, 4, 6, 3)",
            TWO,
        ),
    ],
)
def test_arrays_of_another_order_or_shape(recorded, computed, verdict, cause, note, used):
    row, found = judged(recorded, computed)
    assert (row.verdict, row.cause, row.note) == (verdict, cause, note)
    assert np.array_equal(found, used)
    row, _ = judged(recorded, computed, part=2)
    assert row.note.removesuffix(note) == ("its output 2; " if note else "its output 2")


# -- what is not finite, not known or padding -----------------------------------------------------

BAD = np.where(np.arange(24).reshape(RIGHT.shape) == 1, np.nan, RIGHT)
INFINITE = np.where(np.isnan(BAD), -np.inf, RIGHT)


def test_what_is_not_finite_is_reported_once():
    judge = Judge("unet.000", "float32")
    for recorded in (BAD, BAD, RIGHT):
        assert np.array_equal(judge.observe(run_of(), point_of(recorded)), RIGHT)
    assert [row.verdict for row in judge.rows] == ["differs", "not judged", "equal"]
    assert judge.rows[0].error == math.inf and judge.rows[0].note.startswith("NaN at [0, 0, 1]")
    assert judge.rows[1].note.endswith("as upstream") and judge.nonfinite


def test_why_an_array_is_not_finite():
    large = np.where(np.isnan(BAD), 7e4, RIGHT)
    row, _ = judged(INFINITE, large)
    assert row.verdict == "differs" and row.cause.startswith("overflows float16: 70000")


@pytest.mark.parametrize(
    ("recorded", "computed", "verdict", "note", "used"),
    [
        (INFINITE, INFINITE, "equal", "", INFINITE),
        (-INFINITE, INFINITE, "differs", "infinity at", INFINITE),
        (INFINITE, RIGHT, "differs", "infinity at", RIGHT),
        (RIGHT, BAD, "not judged", NOT_RECORDED, RIGHT),
        (TURNED, BAD, "not judged", NOT_RECORDED, RIGHT),
        (RIGHT[:, :2], BAD, "not judged", NOT_RECORDED, BAD),
        (np.zeros((0, 3)), np.zeros((0, 3)), "not judged", NO_ELEMENTS, np.zeros((0, 3))),
    ],
)
def test_what_is_not_known(recorded, computed, verdict, note, used):
    row, found = judged(recorded, computed)
    assert row.verdict == verdict and row.note.startswith(note)
    assert np.array_equal(found, used, equal_nan=True)
    assert note != NOT_RECORDED or judged(recorded, computed, role="input")[0] is None


PADDING = np.array([[False, True, False], [False, False, False]])


@pytest.mark.parametrize("value", [100.0, np.nan, np.inf])
def test_rows_of_padding_are_left_out_and_counted(value):
    recorded = np.where(PADDING[..., None], value, RIGHT)
    row, used = judged(recorded, padding=PADDING)
    assert (row.verdict, row.padding) == ("equal", 1)
    assert np.array_equal(used, recorded if np.isfinite(value) else RIGHT)
    turned, used = judged(recorded.transpose(0, 2, 1), padding=PADDING)
    assert turned.verdict == ("equal" if np.isfinite(value) else "differs")
    large = np.where(PADDING[..., None], 1e9, RIGHT)  # which widens nothing that is allowed
    row, _ = judged(moved(400.0, large), large, padding=PADDING)
    assert row.verdict == "differs" and row.padding == 1
    heads = np.repeat(PADDING[:, None], 2, axis=1)  # of all heads, a row counts once
    assert judged(normal(4, 2, 2, 3, 5), normal(4, 2, 2, 3, 5), padding=heads)[0].padding == 1


def test_padding_alone_is_not_judged():
    row, used = judged(AFTER, padding=np.ones((2, 3), bool))
    assert (row.verdict, row.note, row.padding) == ("not judged", ALL_PADDING, 6)
    assert used is AFTER


# -- what a row says ------------------------------------------------------------------------------


def test_a_right_wire_has_no_row():
    assert judged(RIGHT, role="input")[0] is None
    row, _ = judged(TURNED, role="input")
    assert (row.verdict, row.kind) == ("equal", "wiring") and "0,2,1" in row.note


@pytest.mark.parametrize(
    ("name", "role", "after", "suspects", "segment"),
    [
        ("a.x", "emb", ("m.a", "b.conv"), ("m.silu",), "from b.conv, silu to a.x (emb)"),
        ("a.x", "input", (), "abcbde", "from the start, a, b, c, d, ... to a.x"),
        ("a.x", "", ("m.a",), "abcd", "from m.a, a, b, c, d to a.x"),
        ("", "", (), (), "from the start to the output"),
    ],
)
def test_segments_in_words(name, role, after, suspects, segment):
    suspects = [call_of(f"m.{x.rpartition('.')[2]}", inputs={"input": AFTER}) for x in suspects]
    row, _ = judged(-RIGHT, role=role, call=call_of(name), after=after, suspects=suspects)
    assert (row.call, row.layer, row.segment) == ("unet.000", name, segment)
    assert (row.kind, row.cause) == ("wiring" if role else "own", "sign reversed")
    assert row.explained == 0.0


def test_layers_that_cannot_be_judged_say_why():
    judge = Judge("unet.000", "float32")
    judge.skip(call_of("a.norm"), "it has no weights")
    judge.refuse(call_of("a.conv"), {"input": np.ones((1, 2)), "ids": np.ones(3)}, "rank 2")
    note = "input (1, 2), ids (3,) does not fit its weights: rank 2"
    assert judge.rows == [
        Row("unet.000", "a.norm", verdict="not judged", note="it has no weights"),
        Row("unet.000", "a.conv", error=math.inf, verdict="differs", note=note),
    ]


# -- arrays that the port passed on ---------------------------------------------------------------

SILU = call_of("m.silu", inputs={"input": BEFORE})
OWN = call_of("a.x", inputs={"input": BEFORE, "emb": AFTER})
RECENT = [("m.a", AFTER), ("m.b", BEFORE)]
IMAGE, VECTOR = normal(5, 2, 3, 4, 4), normal(6, 2, 3)
ROW = AFTER[:, :1]


@pytest.mark.parametrize(
    ("recorded", "more", "cause"),
    [
        (BEFORE, {"recent": RECENT}, "equals the output of m.b"),
        (BEFORE, {"role": "k", "suspects": [SILU]}, "m.silu is skipped: its output is its input"),
        (BEFORE, {"suspects": [SILU]}, "equals the input of m.silu"),
        (BEFORE, {"call": OWN, "suspects": [OWN]}, "a.x is skipped: its output is its input"),
        (AFTER, {"call": OWN, "suspects": [OWN]}, "equals its input (emb)"),
        (AFTER, {"frame": {"x": AFTER}}, "equals the input of the network (x)"),
        (AFTER, {"frame": {"emb": AFTER}, "within": "b"}, "equals the input of b (emb)"),
        (RIGHT - AFTER, {"recent": RECENT[:1]}, "the output of m.a is not added"),
        (RIGHT + AFTER, {"recent": RECENT[:1]}, "the output of m.a is added twice"),
        (RIGHT - ROW, {"recent": [("m.a", ROW)]}, "the output of m.a is not added"),
        (
            RIGHT - AFTER,
            {"recent": [RECENT[0], *(("m.c", normal(7, *s)) for s in ((2, 3), (3, 3, 4)))]},
            "the output of m.a is not added",
        ),
        (
            IMAGE - VECTOR[:, :, None, None],
            {"computed": IMAGE, "recent": [("t", VECTOR)]},
            "the output of t is not added",
        ),
        (
            RIGHT,
            {"computed": RIGHT + AFTER, "streams": [("b.norm1", BEFORE), ("b.norm2", AFTER)]},
            "the input of b.norm2 is not added",
        ),
        (RIGHT - 0.5 * AFTER, {"recent": RECENT[:1]}, ""),
    ],
)
def test_arrays_nearby_that_the_port_passed_on(recorded, more, cause):
    assert judged(recorded, **more)[0].cause == cause


@pytest.mark.parametrize(
    ("role", "other", "said"),
    [("input", "k", "q and k"), ("v", "k", "k and v"), ("emb", "input", "emb and input")],
)
@pytest.mark.parametrize("second", [True, False])
def test_inputs_that_are_exchanged(role, other, said, second):
    arrays = {f"unet.000/a.x/input.{role}": BEFORE}
    arrays |= {f"unet.000/a.x/input.{other}": AFTER} if second else {}
    call = call_of("a.x", "attention", {role: AFTER, other: BEFORE})
    point = point_of(BEFORE, AFTER, role, call)
    found = diagnosis.diagnose(run_of(port=build_trace(arrays)), point, 1.0, UNIT)
    assert (found.cause == f"{said} are swapped") == second


@pytest.mark.parametrize("role", ["", "input", "emb"])
@pytest.mark.parametrize("within", ["", "m"])
def test_which_arrays_are_nearby(role, within):
    """Of the input that is judged, its value is none; that of its block is, if it is inside one."""
    whole = {"input": BEFORE[0], "x": BEFORE[1], "ids": np.arange(3)}
    call = call_of("m.a", inputs={"input": AFTER[0], "emb": AFTER[1], "n": 3})
    run = run_of(recent=[("m.b", RIGHT[0]), ("m.c", RIGHT * np.nan)])
    point = point_of(RIGHT, role=role, call=call, frame=whole, within=within)
    known = {"the output of m.b": RIGHT[0]}
    known |= {f"its input {name!r}": call.inputs[name] for name in ("input", "emb") if name != role}
    if not role or within:
        of = f"the input of {within or 'the network'}"
        known |= {of: whole["input"], f"{of} (x)": whole["x"]}
    found = dict(nearby.arrays_around(run, point))
    assert found.keys() == known.keys() and all(np.array_equal(found[k], known[k]) for k in known)


@pytest.mark.parametrize(
    ("shape", "of", "fits"),
    [((2, 1, 4), (2, 3, 4), True), ((2, 2, 4), (2, 3, 4), False), ((3, 4), (2, 3, 4), False)],
)
def test_what_broadcasts(shape, of, fits):
    assert nearby.broadcasts(shape, of) == fits


# -- known faults of a part -----------------------------------------------------------------------


def sigmoid_of(scale, x):
    return x / (1.0 + np.exp(-scale * x))


def run_of_part(noise):
    """Return a run of one activation whose results with a fault are as noisy as that."""

    def rerun(point, changes=None, *, arguments=None, low=False, free=False, exact=False):
        (call,) = point.suspects
        x = np.array(call.compute(call.inputs))
        for change in (changes or {}).values():
            x = np.array(change(call, call.inputs))
            x.flat[0] += low * noise * np.abs(x).max()
        return x

    run = run_of()
    run.rerun = rerun
    return run


@pytest.mark.parametrize(
    ("left", "noise", "cause"),
    [
        (0.0, 0.0, "quick GELU instead of SiLU in m.silu"),
        (0.002, 0.0, ""),
        (0.002, 0.001, "quick GELU instead of SiLU in m.silu"),
        (0.002, 0.0001, ""),
        (0.2, 1.0, ""),  # which leaves more than a quarter of the error
    ],
)
@pytest.mark.parametrize("certain", [True, False])
def test_a_part_with_a_fault_has_a_noise_of_its_own(left, noise, cause, certain):
    """Where the right part is exact, the wrong one may not be."""
    inputs = {"input": RIGHT}
    silu = LayerCall("m.silu", "silu", inputs, {}, {}, lambda x: sigmoid_of(1.0, x["input"]))
    computed, recorded = (sigmoid_of(scale, RIGHT) for scale in (1.0, 1.702))
    recorded.flat[1] += left * np.abs(recorded).max()
    point = point_of(recorded, computed, suspects=[silu])
    found = diagnosis.diagnose(run_of_part(noise), point, 0.1, UNIT, certain)
    assert found.cause == (cause if certain or not left else "")
    near = certain and not cause and left < 0.1
    assert found.note.startswith("nearest to quick GELU") == near


@pytest.mark.parametrize("count", [64, 65])
def test_operations_of_a_large_part_are_changed_together(count):
    """One fault is tried for each operation of a small part, and for all of a kind of a large."""
    calls = []
    inputs = {"input": RIGHT}
    for i in range(count):
        name = f"m{i}.silu"
        calls.append(LayerCall(name, "silu", inputs, {}, {}, lambda x: sigmoid_of(1.0, x["input"])))
    tried = []

    def rerun(point, changes=None, **more):
        tried.append(sorted(changes or {}))
        return RIGHT if not changes else None

    run = run_of()
    run.rerun = rerun
    diagnosis.diagnose(run, point_of(RIGHT + AFTER, suspects=calls), 0.5, UNIT)
    sizes = {len(names) for names in tried if names}
    assert sizes == ({1} if count == 64 else {65})
