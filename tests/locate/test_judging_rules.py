"""The judge's rules one by one: what it asks of the others, and what becomes of their answers."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from ldmref.backends.named import LayerCall
from ldmref.locate import judging
from ldmref.locate.diagnosis import Cause
from ldmref.locate.judging import Judge
from ldmref.locate.points import Frame, Point

UNIT = 2.0**-23
# The largest value is 4: errors of whole units of it are exact.
RIGHT = np.array([[[4.0, 1.0, -2.0, 0.5], [0.25, -1.0, 3.0, 2.0], [1.5, 0.0, -3.0, 1.0]]])


def call_of(name="a.x", kind="block", composite=False):
    return LayerCall(name, kind, {}, {}, {}, lambda x: x, composite)


def point_of(recorded, computed=RIGHT, role="", call=None, suspects=(), after=(), **more):
    inputs = more.pop("inputs", {})
    frame = Frame("", lambda x: x, {}, Counter(), [])
    call = call or call_of()
    return Point(call, role, computed, recorded, inputs, frame, suspects, after, **more)


def moved(error, x=RIGHT):
    """Return an array with an error relative to its largest value."""
    y = x.copy()
    y.flat[1] += error * np.abs(x).max()
    return y


class Run:
    """A run whose result in the port's format has a relative error; None: it has no result."""

    def __init__(self, low=0.0, single=0.0):
        self.low = low
        self.single = single
        self.formats = []

    def rerun(self, point, low=False, exact=False):
        assert low
        return None if self.low is None else moved(self.low, np.asarray(point.computed, float))

    def parameters(self, call):
        return {"weight": 1, "input": 2}

    @contextmanager
    def in_format(self, dtype):
        self.formats.append(dtype)
        saved, self.low = self.low, self.single
        yield
        self.low = saved


@pytest.fixture
def diagnosed(monkeypatch):
    """Let every diagnosis give `cause`, and keep what it was asked."""
    given = SimpleNamespace(cause=Cause(), asked=[])

    def diagnose(*values, alike=None):
        given.asked.append(values)
        return given.cause

    monkeypatch.setattr(judging, "diagnose", diagnose)
    return given


def judged(recorded, computed=RIGHT, dtype="float32", run=None, **more):
    judge = Judge("unet.000", dtype)
    used = judge.observe(run or Run(), point_of(recorded, computed, **more))
    return (judge.rows[0] if judge.rows else None), used


# -- errors ---------------------------------------------------------------------------------------


def test_an_error_of_exactly_what_is_allowed_needs_no_floor(diagnosed):
    row, _ = judged(moved(8.0 * UNIT))
    assert (row.verdict, row.error, row.allowed) == ("equal", 8.0 * UNIT, 8.0 * UNIT)
    assert row.floor is None and row.bound is None and not diagnosed.asked
    row, _ = judged(moved(9.0 * UNIT), run=Run(UNIT))
    assert (row.verdict, row.floor, row.allowed) == ("equal", UNIT, 16.0 * UNIT)
    row, _ = judged(moved(16.0 * UNIT), run=Run(UNIT))
    assert row.verdict == "equal" and not diagnosed.asked
    assert judged(moved(17.0 * UNIT), run=Run(UNIT))[0].verdict == "noisy"


def test_the_diagnosis_is_told_the_error_the_floor_and_whether_it_is_a_fault(diagnosed):
    for error, certain in ((50.0, False), (51.0, True)):
        recorded = moved(error * UNIT)
        run = Run()
        row, used = judged(recorded, run=run, call=call_of(composite=True))
        assert used is recorded
        (asked_run, point, *rest) = diagnosed.asked.pop()
        assert asked_run is run and point.recorded is recorded
        assert rest == [error * UNIT, UNIT / 2.0, certain]
        assert row.verdict == ("differs" if certain else "noisy")
        assert (row.floor, row.bound) == (UNIT / 2.0, 50.0 * UNIT)


@pytest.mark.parametrize("error", [20.0, 51.0])
def test_a_cause_makes_any_error_a_fault(diagnosed, error):
    diagnosed.cause = Cause("c", 0.5, "n")
    row, _ = judged(moved(error * UNIT), call=call_of(composite=True), part=1)
    assert (row.verdict, row.cause, row.explained) == ("differs", "c", 0.5)
    assert row.note == "its output 1; n" and row.error == error * UNIT
    diagnosed.cause = Cause("c", 0.0)
    assert judged(moved(error * UNIT), part=2)[0].note == "its output 2"


def test_the_bound_of_an_operation_is_relative_to_the_largest_value(diagnosed, monkeypatch):
    asked = []

    def bound(*values):
        asked.append(values)
        return np.array([100.0 * UNIT, -400.0 * UNIT, 0.0])

    monkeypatch.setattr(judging, "layer_bound", bound)
    linear = call_of(kind="linear")
    inputs = {"input": RIGHT}
    for error, verdict in ((100.0, "noisy"), (101.0, "differs")):
        row, _ = judged(moved(error * UNIT), call=linear, inputs=inputs)
        assert (row.verdict, row.bound) == (verdict, 100.0 * UNIT)
    call, given, parameters, dtype, computed = asked[0]
    assert call is linear and given is inputs and computed is RIGHT
    assert parameters == {"weight": 1, "input": 2} and dtype == "float32"
    asked.clear()
    for more in ({"role": "input"}, {"call": replace(linear, composite=True)}):
        row, _ = judged(moved(100.0 * UNIT), **({"call": linear} | more))
        assert row.bound == 50.0 * UNIT and not asked
    assert judged(moved(100.0 * UNIT), call=call_of(kind="x"))[0].bound == 50.0 * UNIT
    zeros = np.zeros((2, 3))
    assert judged(zeros + 1.0, zeros, call=linear)[0].bound == 50.0 * UNIT and not asked


@pytest.mark.parametrize("bound", [np.inf, np.nan])
def test_a_bound_that_is_not_finite_is_none(diagnosed, monkeypatch, bound):
    monkeypatch.setattr(judging, "layer_bound", lambda *values: np.array([1.0, bound]))
    assert judged(moved(100.0 * UNIT), call=call_of(kind="linear"))[0].bound == 50.0 * UNIT


def test_a_bound_below_what_is_allowed_does_not_count(diagnosed, monkeypatch):
    monkeypatch.setattr(judging, "layer_bound", lambda *values: np.array([UNIT]))
    judged(moved(9.0 * UNIT), call=call_of(kind="linear"))
    assert diagnosed.asked[0][-1] is True
    run = Run(UNIT)
    assert judged(moved(9.0 * UNIT), call=call_of(kind="linear"), run=run)[0].verdict == "equal"


def test_padding_has_no_bound(diagnosed, monkeypatch):
    computed = np.array(RIGHT[:, [0, 0, 1, 2]])
    padding = np.array([[True, False, False, False]])
    computed[0, 0] = 1e6
    bound = np.full(computed.shape, 400.0 * UNIT)
    bound[0, 0] = 1e9
    monkeypatch.setattr(judging, "layer_bound", lambda *values: bound)
    recorded = moved(0.0, computed)
    recorded[0, 1, 1] += 200.0 * UNIT * 4.0
    row, _ = judged(recorded, computed, call=call_of(kind="linear"), padding=padding)
    assert row.bound == 100.0 * UNIT and row.verdict == "differs" and row.padding == 1
    assert not diagnosed.asked[0][1].computed[0, 0].any()


def test_reruns_that_give_nothing_have_no_floor(diagnosed):
    row, _ = judged(moved(9.0 * UNIT), run=Run(None))
    assert row.floor == UNIT / 2.0 and row.verdict == "noisy"


@pytest.mark.parametrize(
    ("kind", "dtype", "wide"),
    [
        ("group_norm", "float16", "float32"),
        ("group_norm", "float32", "float32"),
        ("group_norm", "float64", "float64"),
        ("layer_norm", "float32", "float32"),
        ("layer_norm", "float64", "float64"),
        ("linear", "float32", "float32"),
    ],
)
def test_norms_may_find_the_variance_in_one_pass(diagnosed, monkeypatch, kind, dtype, wide):
    asked = []

    def one_pass(*values):
        asked.append(values)
        return moved(0.25)

    monkeypatch.setattr(judging, "one_pass", one_pass)
    monkeypatch.setattr(judging, "layer_bound", lambda *values: np.array([np.inf]))
    call = call_of(kind=kind)
    row, _ = judged(moved(0.5), dtype=dtype, call=call, inputs={"input": 3})
    if kind == "linear":
        assert row.floor < 0.01 and not asked
        return
    assert row.floor == 0.25 and asked[0] == (call, {"weight": 1, "input": 3}, wide)
    assert judged(moved(1.0), dtype=dtype, call=call, run=Run(0.5))[0].floor == 0.5
    for more in ({"role": "input"}, {"call": replace(call, composite=True)}):
        row, _ = judged(moved(0.5), dtype=dtype, **({"call": call} | more))
        assert row.floor < 0.01


@pytest.mark.filterwarnings("error")
def test_a_pass_that_overflows_is_no_floor(diagnosed, monkeypatch):
    monkeypatch.setattr(judging, "layer_bound", lambda *values: np.array([np.inf]))

    def one_pass(call, x, wide):
        return np.float32([3e38]) * 10.0 * RIGHT - np.float32([np.inf])

    monkeypatch.setattr(judging, "one_pass", one_pass)
    row, _ = judged(moved(0.5), call=call_of(kind="group_norm"))
    assert row.floor == UNIT / 2.0


def test_a_port_in_float64_may_round_to_float32(diagnosed):
    for single, error, verdict in (
        (0.0, 8.0, "noisy"),
        (0.0, 9.0, "differs"),
        (UNIT, 16.0, "noisy"),
        (UNIT, 17.0, "differs"),
    ):
        run = Run(single=single)
        row, _ = judged(moved(error * UNIT), dtype="float64", run=run)
        assert row.verdict == verdict and run.formats == ["float32"]
    run = Run(single=UNIT)
    assert judged(moved(100.0 * UNIT), run=run)[0].verdict == "differs" and run.formats == []
    diagnosed.cause = Cause("c")
    assert judged(moved(UNIT), dtype="float64", run=run)[0].verdict == "differs"


def test_a_reference_that_overflows_says_nothing_but_known_faults(diagnosed):
    wrong = RIGHT * 2.0
    row, _ = judged(wrong, run=Run(math.inf), dtype="float16")
    assert row.verdict == "not judged" and "float16" in row.note
    assert (row.error, row.floor) == (0.0, None)
    _, _, error, floor, certain = diagnosed.asked[0]
    assert (error, floor, certain) == (1.0, 2.0**-10, False)
    diagnosed.cause = Cause("c", 0.0)
    row, _ = judged(wrong, run=Run(math.inf), dtype="float16")
    assert (row.verdict, row.cause, row.floor) == ("differs", "c", 2.0**-10)


# -- small errors of narrow formats ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "looks"), [("float16", True), ("bfloat16", True), ("float32", False)]
)
def test_small_errors_of_narrow_formats_are_looked_into(monkeypatch, dtype, looks):
    asked = []

    def find(*values):
        asked.append(values)
        return Cause("c", 0.0, "n") if looks else None

    monkeypatch.setattr(judging, "find_faint_mask", find)
    run = Run()
    row, _ = judged(moved(UNIT), dtype=dtype, run=run)
    assert (row.verdict, row.cause) == (("differs", "c") if looks else ("equal", ""))
    assert len(asked) == looks
    if looks:
        assert (
            asked[0][0] is run and asked[0][2] == {"float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
        )
        monkeypatch.setattr(judging, "find_faint_mask", lambda *values: None)
        assert judged(moved(UNIT), dtype=dtype)[0].verdict == "equal"
    judged(RIGHT, dtype=dtype)
    assert len(asked) == looks


# -- shapes and orders ----------------------------------------------------------------------------


def test_another_order_that_is_wrong_has_its_cause(diagnosed):
    diagnosed.cause = Cause("c", 0.0)
    recorded = 3.0 * RIGHT.reshape(3, 4)
    row, used = judged(recorded)
    assert row.cause == "c" and row.note == "after reshape from (3, 4)"
    assert np.array_equal(used, 3.0 * RIGHT) and len(diagnosed.asked) == 1
    assert row.error == 2.0 and diagnosed.asked[0][2] == 2.0
    assert np.array_equal(diagnosed.asked[0][1].recorded, used)


def test_another_order_without_a_cause_may_be_other_heads(diagnosed):
    recorded = 3.0 * RIGHT.reshape(3, 4)
    row, used = judged(recorded)
    assert row.verdict == "differs" and row.note == "after reshape from (3, 4)"
    assert np.array_equal(used, 3.0 * RIGHT) and len(diagnosed.asked) == 2
    assert diagnosed.asked[1][1].recorded is recorded and diagnosed.asked[1][2] == math.inf


def test_square_arrays_may_be_in_another_order():
    square = np.array([[4.0, 1.0], [3.0, 2.0]])
    row, used = judged(square.T, square)
    assert (row.verdict, row.error) == ("equal", 0.0) and "1,0" in row.note
    assert np.array_equal(used, square)
    for units, note in ((32, ""), (36, "equal after transpose 1,0")):  # of 4: 8 and 9 units
        nearly = np.array([[4.0, 1.0], [1.0 + units * UNIT, 2.0]])
        row, _ = judged(nearly.T, nearly)
        assert (row.verdict, row.note) == ("equal", note)


def test_other_heads_are_diagnosed_in_the_expected_shape(diagnosed):
    right = np.arange(1.0, 145.0).reshape(1, 4, 6, 6)
    recorded = right[..., ::-1].transpose(0, 2, 1, 3).reshape(1, 6, 2, 12).transpose(0, 2, 1, 3)
    judged(recorded, right, role="input")
    assert len(diagnosed.asked) == 2
    point = diagnosed.asked[1][1]
    assert np.array_equal(point.recorded, right[..., ::-1])


def test_right_wires_in_another_order_have_a_row():
    row, _ = judged(RIGHT.transpose(0, 2, 1), role="input")
    assert (row.verdict, row.kind) == ("equal", "wiring") and "0,2,1" in row.note
    assert judged(RIGHT, role="input")[0] is None
    assert judged(RIGHT)[0].verdict == "equal"


def test_arrays_of_other_shapes(diagnosed, monkeypatch):
    monkeypatch.setattr(judging, "recognise", lambda *values: None)
    for low, floor in ((0.0, UNIT / 2.0), (0.5, 0.5), (math.inf, UNIT / 2.0)):
        row, used = judged(np.zeros(5), run=Run(low))
        assert (row.verdict, row.error, row.allowed) == ("differs", math.inf, 16.0 * floor)
        assert row.note == "shape (5,) instead of (1, 3, 4)" and used is RIGHT
        _, point, error, given = diagnosed.asked.pop()
        assert (error, given) == (math.inf, floor) and point.recorded.shape == (5,)
    layout = SimpleNamespace(text="l", array=moved(0.25))
    asked = []

    def recognise(*values):
        asked.append(values)
        return layout

    monkeypatch.setattr(judging, "recognise", recognise)
    wrong = np.zeros(5)
    row, _ = judged(wrong)
    assert (row.cause, row.explained) == ("l", 0.25)
    assert asked[0][0] is wrong and asked[0][1] is RIGHT and asked[0][2] == 8.0 * UNIT
    diagnosed.cause = Cause("c", 0.125)
    assert judged(wrong)[0].cause == "c"


def test_whole_numbers_stay_in_their_rows(diagnosed):
    ids = np.array([[1, 2], [3, 4]])
    row, used = judged(ids.T, ids)
    assert (row.verdict, row.error, row.allowed) == (
        "differs",
        0.25,
        0.0,
    ) and "after" not in row.note
    row, used = judged(ids.reshape(4), ids)
    assert row.verdict == "equal" and np.array_equal(used, ids)


# -- what is not finite or not known --------------------------------------------------------------


def test_why_an_array_is_not_finite_is_asked_once(monkeypatch):
    asked = []

    def explain(*values):
        asked.append(values)
        return "c"

    monkeypatch.setattr(judging, "explain_nonfinite", explain)
    bad = moved(np.nan)
    for role, kind in (("", "block"), ("input", "")):
        row, used = judged(bad, role=role)
        assert (row.verdict, row.cause, row.error) == ("differs", "c", math.inf)
        assert row.note.startswith("NaN") and used is RIGHT
        recorded, computed, given = asked.pop()
        assert np.array_equal(recorded, bad, equal_nan=True)
        assert computed is RIGHT and given == kind
    unknown = np.full_like(RIGHT, np.nan)
    row, _ = judged(bad, unknown)
    assert row.verdict == "not judged" and not row.note.endswith("upstream") and not asked
    judge = Judge("unet.000", "float32")
    judge.observe(Run(), point_of(bad, unknown))
    judge.observe(Run(), point_of(bad))
    judge.observe(Run(), point_of(RIGHT))
    assert [row.verdict for row in judge.rows] == ["not judged", "not judged", "equal"]
    assert judge.rows[1].note.endswith("as upstream") and judge.nonfinite


def test_infinities_that_are_right_are_equal():
    right = RIGHT.copy()
    right[0, 0, 0] = -np.inf
    row, used = judged(right.copy(), right)
    assert (row.verdict, row.note) == ("equal", "") and np.array_equal(used, right)
    assert judged(-right, right)[0].verdict == "differs"
    assert judged(right, RIGHT)[0].verdict == "differs"


def test_padding_that_is_not_finite_is_as_computed(diagnosed):
    padding = np.array([[False, True, False]])
    recorded = RIGHT.copy()
    recorded[0, 1, 2] = np.inf
    row, used = judged(recorded, padding=padding)
    assert (row.verdict, row.padding) == ("equal", 1) and np.array_equal(used, RIGHT)
    recorded[0, 0, 0] = np.nan
    row, used = judged(recorded, padding=padding)
    assert row.verdict == "differs" and "1 of 12" in row.note and np.array_equal(used, RIGHT)
    ids = np.array([[[1], [2], [3]]])
    assert judged(ids, ids, padding=padding)[1] is ids
    row, _ = judged(np.zeros(5), padding=padding)
    assert row.verdict == "differs"
    fine = RIGHT + padding[..., None]
    assert judged(fine, padding=padding)[1] is fine
    row, used = judged(fine, padding=np.ones((1, 3), bool))
    assert row.note == judging.ALL_PADDING and used is fine and row.padding == 3
    assert row.verdict == "not judged"


def test_what_is_not_known():
    unknown = RIGHT.copy()
    unknown[0, 0, 0] = np.nan
    row, used = judged(RIGHT, unknown)
    assert row.verdict == "not judged" and "was not recorded" in row.note and used is RIGHT
    row, used = judged(RIGHT[..., :2], unknown)
    assert row.verdict == "not judged" and used is unknown
    turned = RIGHT.transpose(0, 2, 1)
    row, used = judged(turned, np.full_like(RIGHT, np.nan), role="input")
    assert row is None and np.array_equal(used, RIGHT)
    empty = np.zeros((0, 3))
    row, _ = judged(empty, empty)
    assert (row.verdict, row.note) == ("not judged", judging.NO_ELEMENTS)


# -- rows -----------------------------------------------------------------------------------------


def test_what_a_row_says_of_its_array():
    silu = call_of("m.silu", "silu")
    more = {"after": ("m.a", "m.b"), "suspects": (silu,)}
    row, _ = judged(RIGHT, call=call_of(composite=True), **more)
    assert (row.call, row.layer, row.kind) == ("unet.000", "a.x", "own")
    assert row.segment == "from m.b, silu to a.x" and row.note == "" and row.padding == 0
    assert judged(RIGHT, **more)[0].segment == ""
    row, _ = judged(RIGHT.transpose(0, 2, 1), role="emb", part=0, **more)
    assert row.kind == "wiring" and row.segment.endswith("a.x (emb)")
    assert judged(RIGHT, part=1)[0].note == "its output 1"
    heads = np.zeros((2, 3, 4), bool)
    heads[0, :, 1] = heads[1, 0, 2] = True
    x = np.ones((2, 3, 4, 5))
    assert judged(x, x, padding=heads)[0].padding == 2
    assert judged(x[0], x[0], padding=heads[0])[0].padding == 3
