"""A part of a run is computed again: with recorded outputs, exchanged operations, other formats."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from fault_calls import call_of, normal

from ldmref.backends.named import LayerCall
from ldmref.locate import faint
from ldmref.locate.names import may_hold
from ldmref.locate.points import Frame, Point, Trial
from ldmref.locate.precision import round_to
from ldmref.locate.replay import Replay
from ldmref.trace import build_trace

X = normal(0, 2, 3)
PARAMS = {
    "a": {"weight": normal(1, 4, 3), "bias": normal(2, 4)},
    "b": {"weight": normal(3, 5, 4)},
}
CHANGED = normal(9, 2, 4)


def silu(x):
    return x / (1.0 + np.exp(-x))


def first(x=X):
    return x @ PARAMS["a"]["weight"].T + PARAMS["a"]["bias"]


def second(x):
    return x @ PARAMS["b"]["weight"].T


class Run(Replay):
    """A run of two linear layers with an activation between them."""

    def __init__(self, tensors=None, dtype="float64"):
        super().__init__(build_trace(tensors or {}), "unet.000", dtype, None)
        self.name_parameters(PARAMS)
        self.names = []

    def visit(self, call):
        self.names.append(call.name)
        return self._visit_again(call, self._trial)

    def network(self, inputs):
        a, b = PARAMS["a"], PARAMS["b"]
        x = self.linear(inputs["x"], a["weight"], a["bias"])
        return self.linear(self.silu(x), b["weight"])

    def again(self, name, role="", part=0, frame=None, call=None, **options):
        """Return the point of a layer, computed again."""
        found = LayerCall(name, "linear", {}, {}, {}, lambda inputs: None) if call is None else call
        around = Frame("", self.network, {"x": X}, Counter(), []) if frame is None else frame
        point = Point(found, role, X, X, {}, around, (), (), part=part)
        return self.rerun(point, **options)


# -- what is computed -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "role", "right", "visited"),
    [
        ("b", "", second(silu(first())), ["a", "silu", "b"]),
        ("silu", "", silu(first()), ["a", "silu"]),
        ("a", "", first(), ["a"]),
        ("b", "input", silu(first()), ["a", "silu", "b"]),
        ("a", "input", X, ["a"]),
        ("", "", second(silu(first())), ["a", "silu", "b"]),
    ],
)
def test_a_run_ends_at_its_point(name, role, right, visited):
    run = Run()
    call = LayerCall("", "f", {}, {}, {}, None, composite=True) if not name else None
    found = run.again(name, role, call=call)
    np.testing.assert_allclose(found, right, rtol=1e-12)
    assert found.dtype == np.float64
    assert run.names == visited


def test_recorded_layers_are_used_unless_they_are_free_or_changed():
    run = Run({"unet.000/a/output": CHANGED})
    np.testing.assert_allclose(run.again("b"), second(silu(CHANGED)))
    np.testing.assert_allclose(run.again("b", free=True), second(silu(first())))
    np.testing.assert_allclose(run.again("a"), first())  # its own output is computed
    twice = {"a": lambda call, inputs: 2.0 * call.compute(inputs)}
    np.testing.assert_allclose(run.again("b", changes=twice), second(silu(2.0 * first())))
    run._corrected[("a", 0)] = 3.0 * CHANGED
    np.testing.assert_allclose(run.again("b"), second(silu(3.0 * CHANGED)))
    run._corrected = {("a", 1): CHANGED, ("b", 0): CHANGED}
    np.testing.assert_allclose(run.again("b"), second(silu(CHANGED)))


def test_a_recorded_layer_without_an_output_is_computed():
    run = Run({"unet.000/a/input": X})
    np.testing.assert_allclose(run.again("b"), second(silu(first())))


def test_operations_are_exchanged():
    run = Run()
    seen = []

    def change(call, inputs):
        seen.append((call.name, sorted(inputs)))
        return np.asarray(inputs["input"] + 1.0, np.float32)

    found = run.again("b", changes={"silu": change})
    np.testing.assert_allclose(found, second(first() + 1.0), rtol=1e-6)
    run.again("b", changes={"a": lambda call, inputs: seen.append(sorted(inputs)) or CHANGED})
    assert seen == [("silu", ["input"]), ["bias", "input", "weight"]]


def test_other_inputs_of_the_part():
    other = normal(5, 2, 3)
    right = second(silu(first(other)))
    np.testing.assert_allclose(Run().again("b", arguments={"x": other}), right)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_run_in_the_format_of_the_port(dtype):
    run = Run(dtype=dtype)

    def rounded(x):
        return round_to(np.asarray(x, np.float32), dtype).astype(np.float64)

    weights = {name: {k: round_to(x, dtype) for k, x in p.items()} for name, p in PARAMS.items()}
    exact = X @ weights["a"]["weight"].T + weights["a"]["bias"]
    np.testing.assert_allclose(run.again("a"), exact, rtol=1e-12)
    low = run.again("a", low=True)
    assert low.dtype == np.float64
    assert np.array_equal(low, rounded(low))
    unit = 2.0**-7 if dtype == "bfloat16" else 2.0**-10
    np.testing.assert_allclose(low, exact, atol=2.0 * unit * np.abs(exact).max())
    assert np.abs(low - exact).max() > 1e-6
    with run.in_format("float64"):
        np.testing.assert_allclose(run.again("a", low=True), first(), rtol=1e-12)
        assert run.dtype_of_port == "float64"
    assert run.dtype_of_port == dtype


def test_formats_are_restored_after_errors():
    run = Run(dtype="bfloat16")
    with pytest.raises(KeyError), run.in_format("float16"):
        raise KeyError
    assert run.dtype_of_port == "bfloat16"


# -- the state of a run ---------------------------------------------------------------------------


def test_a_run_is_as_before_when_it_was_repeated():
    run = Run()
    run._seen, run._scope = Counter({"a": 3}), ["x"]
    before = run._seen, run._scope, run.inner, run._trial
    for change in (None, {"a": lambda call, inputs: 1 / 0}):
        try:
            run.again("b", changes=change, low=True)
        except ZeroDivisionError:
            assert change
        after = run._seen, run._scope, run.inner, run._trial
        assert all(x is y for x, y in zip(before, after, strict=True))
    assert run._trial is None
    assert before[0] == Counter({"a": 3})


def test_names_are_counted_from_the_beginning_of_the_part():
    run = Run()
    seen = Counter({"silu": 2})
    frame = Frame("", run.network, {"x": X}, seen, [])
    run.again("b", frame=frame)
    assert run.names == ["a", "silu~2", "b"]
    assert seen == Counter({"silu": 2})
    inside = Frame("m", run.network, {"x": X}, Counter(), ["m"])
    run.names.clear()
    run.again("b", frame=inside)
    assert run.names == ["a", "m.silu", "b"]
    assert inside.scope == ["m"]


def test_a_single_operation_is_its_own_part():
    run = Run(dtype="bfloat16")
    weight = np.array([[1.0 + 2.0**-9]])
    call = call_of("linear", lambda input, weight: input @ weight.T, {}, {"weight": weight}, "a")
    frame = Frame("a", lambda inputs: np.zeros(1), {"input": np.ones((1, 1))}, Counter(), [])
    assert run.again("a", call=call, frame=frame).tolist() == [[1.0]]
    change = {"a": lambda call, inputs: inputs["weight"] + inputs["input"]}
    assert run.again("a", call=call, frame=frame, changes=change).tolist() == [[2.0]]
    assert run.again("a", "other", call=call, frame=frame) is None  # it is not reached


@pytest.mark.parametrize(("part", "right"), [(0, [1.0]), (1, [2.0]), (2, None)])
def test_parts_of_several_outputs(part, right):
    run = Run()
    call = LayerCall("m", "f", {}, {}, {}, None, composite=True, several=True)
    results = (np.ones(1, np.float32), np.full(1, 2, np.float32), None)
    frame = Frame("m", lambda inputs: results, {"x": X}, Counter(), [])
    found = run.again("m", part=part, call=call, frame=frame)
    assert (found if found is None else found.tolist()) == right
    assert found is None or found.dtype == np.float64


def test_warnings_of_a_repeated_run_are_not_shown(recwarn):
    frame = Frame("m", lambda inputs: np.ones(1) / np.zeros(1), {}, Counter(), [])
    call = LayerCall("m", "f", {}, {}, {}, None, composite=True)
    assert np.isinf(Run().again("m", call=call, frame=frame)).all()
    assert not [*recwarn]


def visit(run, call, **more):
    values = {"target": "", "role": "", "changes": {}, "low": False, "free": False} | more
    run._trial = Trial(**values)
    return run._visit_again(call, run._trial)


@pytest.mark.parametrize(
    ("name", "more", "target", "forced"),
    [
        ("m", {}, "", True),
        ("m", {"composite": True}, "m.a", False),
        ("m", {"composite": True}, "n.a", True),
        ("m", {}, "m.a", True),
        ("n", {}, "", False),
    ],
)
def test_which_layers_are_as_recorded(name, more, target, forced):
    run = Run({"unet.000/m/output": CHANGED})
    call = LayerCall(name, "f", {"input": X}, {}, {}, lambda inputs: inputs["input"], **more)
    found = visit(run, call, target=target)
    assert np.array_equal(found, CHANGED if forced else X)


def test_arrays_of_operations_that_may_be_left_out_are_collected():
    run = Run()
    run.collected = {"m.silu": []}
    for name in ("m.silu", "m.silu~1", "m.gelu"):
        call = LayerCall(name, "f", {"input": X}, {}, {}, lambda inputs: 2.0 * inputs["input"])
        visit(run, call)
    assert [sorted(found) for found in run.collected["m.silu"]] == [["", "input"]] * 2
    assert np.array_equal(run.collected["m.silu"][0][""], 2.0 * X)
    assert run.collected.keys() == {"m.silu"}


@pytest.mark.parametrize(
    ("layer", "target", "holds"),
    [
        ("a", "a", True),
        ("a", "a.b", True),
        ("a", "ab", False),
        ("a.b", "a", False),
        ("a.0", "a.0~1", True),
        ("a.0~1", "a.0.to_q", True),
        ("a~1.b", "a.b~2.c", True),
        ("a~x", "a.b", False),
        ("b", "a.b", False),
    ],
)
def test_which_layers_may_hold_others(layer, target, holds):
    assert may_hold(layer, target) == holds


@pytest.mark.parametrize("low", [None, False, True])
def test_results_are_in_float64_unless_they_are_in_the_format(low):
    run = Run(dtype="float16")
    run._trial = None if low is None else SimpleNamespace(low=low)
    x = np.ones(1, np.float32)
    assert run._finish(x).dtype == (np.float32 if low else np.float64)
    ids = np.ones(1, int)
    assert run._finish(ids) is ids
    assert run._finish("text") == "text"


def test_rows_of_a_table_are_a_layer_of_the_kind_of_other_runs():
    run = Run()
    seen = []
    run.visit = lambda call: seen.append(call) or call.compute(call.inputs)
    table, ids = PARAMS["a"]["weight"], np.array([1.0, np.nan])
    found = run.embedding(table, ids)
    assert [(call.kind, call.name, [*call.inputs]) for call in seen] == [
        ("embedding", "a", ["input"])
    ]
    assert np.array_equal(found[0], table[1])
    assert np.isnan(found[1]).all()


# -- points ---------------------------------------------------------------------------------------


def test_a_point_has_no_padding_by_default():
    point = Point(None, "", X, X, {}, None, (), ())
    assert point.kept(X) is X
    assert (point.unit, point.part, point.earlier, point.padding) == (0.0, 0, (), None)


def test_a_frame_is_shown_by_its_name():
    """Its arrays are those of a whole network."""
    assert repr(Frame("a", print, {"x": X}, Counter("ab"), ["b"])) == "Frame(name='a')"


def test_padding_becomes_zero():
    point = Point(None, "", X, X, {}, None, (), (), padding=np.array([True, False]))
    assert point.kept(X).tolist() == [[0.0] * 3, X[1].tolist()]
    other = np.ones((3, 3))
    assert point.kept(other) is other
    rows = np.array([[True, False], [False, False]])
    deep = Point(None, "", X, X, {}, None, (), (), padding=rows).kept(np.ones((2, 2, 3)))
    assert deep.sum(axis=2).tolist() == [[0.0, 3.0], [3.0, 3.0]]


# -- faint masks ----------------------------------------------------------------------------------

RIGHT = normal(1, 16, 16)
FAINT = normal(2, 16, 16)
EPSILON = 2.0**-7


def scaled(x, size):
    """Return an array whose root mean square is `size` times that of the right one."""
    return x * size * np.sqrt(np.mean(RIGHT**2) / np.mean(x**2))


def faint_of(monkeypatch, changes, got=None, kind="attention", role="", right=RIGHT, **more):
    """Return the cause of an error that other masks make."""
    given = []

    def other_masks(call):
        for words, x in changes:
            yield words, lambda call, inputs, x=x: given.append((call, inputs)) or x

    monkeypatch.setattr(faint, "other_masks", other_masks)
    call = LayerCall("a", kind, {}, {}, {}, None)
    got = RIGHT + scaled(FAINT, 2.0 * EPSILON) if got is None else got
    inputs = more.pop("inputs", {"bias": 1, "k": 2})
    point = Point(call, role, right, got, inputs, None, (), (), **more)
    replay = SimpleNamespace(parameters=lambda found: {"weight": 3, "k": 4})
    found = faint.find_faint_mask(replay, point, EPSILON)
    assert all(x == (call, {"weight": 3, **inputs}) for x in given)
    return found and (found.cause, found.explained)


WRONG = RIGHT + scaled(FAINT, 2.0 * EPSILON)


def test_a_mask_that_leaves_a_quarter_of_the_error_is_its_cause(monkeypatch):
    mean = 2.0 * EPSILON
    for share, found in ((0.24, True), (0.26, False)):
        left = WRONG + scaled(normal(3, 16, 16), share * mean)
        right = np.abs(WRONG - left).max() / np.abs(left).max()
        cause = faint_of(monkeypatch, [("a", left)])
        assert cause == (("a", pytest.approx(right)) if found else None)
    assert faint_of(monkeypatch, [("a", RIGHT), ("b", WRONG), ("c", WRONG)]) == ("b", 0.0)
    assert faint_of(monkeypatch, []) is None


@pytest.mark.parametrize(("units", "found"), [(0.99, False), (1.01, True)])
def test_an_error_of_a_unit_is_rounding(monkeypatch, units, found):
    got = RIGHT + scaled(FAINT, units * EPSILON)
    assert (faint_of(monkeypatch, [("a", got)], got) is not None) == found


@pytest.mark.parametrize(
    "more",
    [
        {"kind": "linear"},
        {"role": "input"},
        {"inputs": {"k": 2}},
        {"right": RIGHT[:, :15]},
        {"right": RIGHT.reshape(4, 64)},
    ],
)
def test_only_outputs_of_attention_with_a_mask_are_told(monkeypatch, more):
    assert faint_of(monkeypatch, [("a", WRONG)]) == ("a", 0.0)
    assert faint_of(monkeypatch, [("a", WRONG)], **more) is None


def test_few_numbers_do_not_tell_a_mask(monkeypatch):
    few = {"right": RIGHT[:15], "got": WRONG[:15]}
    assert faint_of(monkeypatch, [("a", WRONG[:15])], **few) is None


def test_masks_of_other_shapes_or_without_keys_are_passed_over(monkeypatch):
    changes = [("a", WRONG[:1]), ("b", np.where(WRONG > 1, np.nan, WRONG)), ("c", WRONG)]
    assert faint_of(monkeypatch, changes) == ("c", 0.0)


def test_padding_is_not_compared(monkeypatch):
    padding = np.arange(16) >= 8
    got = np.where(padding[:, None], 100.0, WRONG)
    assert faint_of(monkeypatch, [("a", WRONG)], got, padding=padding) == ("a", 0.0)
    assert faint_of(monkeypatch, [("a", WRONG)], got) is None
    nan = np.where(padding[:, None], np.nan, WRONG)  # a mask without keys for some
    assert faint_of(monkeypatch, [("a", nan)], got, padding=padding) is None


def test_errors_at_the_bounds(monkeypatch):
    """Powers of two, whose means are exact."""
    one = np.ones((16, 16))
    unit, large = one + EPSILON, one + 4.0 * EPSILON
    assert faint_of(monkeypatch, [("a", unit)], unit, right=one) is None
    left = large - EPSILON
    cause = faint_of(monkeypatch, [("a", left)], large, right=one)
    assert cause == ("a", EPSILON / left[0, 0])
    row = [("a", large[:1])]  # of another shape, and otherwise the same
    assert faint_of(monkeypatch, row, large, right=one) is None
