"""Rows of wrong outputs that equal those of other layers, and rows beside a reference."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.locate import Row
from ldmref.locate.rows import compare_reference, identical_dumps, is_within, less_strict
from ldmref.trace import build_trace

CALL = "u.000"
SAME = np.arange(3.0)


def wrong(layer, **more):
    return Row(CALL, layer, verdict="differs", **more)


def shared(layer, *equal, other=(), found=None):
    """Return the cause of a wrong layer whose output equals that of other layers."""
    tensors = {f"{CALL}/{name}/output": SAME for name in (layer, *equal)}
    tensors |= {f"{CALL}/{name}/output": SAME + 1.0 for name in other}
    (row,) = identical_dumps(build_trace(tensors), [wrong(layer)] if found is None else found)
    return row.cause


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (("a", "b"), "b"),
        (("a", "b", "c"), "b and 1 more"),
        (("a", "b", "c", "d"), "b and 2 more"),
        (("a",), None),
        (("a", "a.b"), None),
        (("a.b", "a"), None),
        (("a", "ab"), "ab"),
        (("ab", "a"), "a"),
        (("a.b", "a.c"), "a.c"),
        (("a.b.c", "a"), None),
        (("a", ""), None),
        (("", "a"), None),
        (("a", "a.b", "c"), "c"),
    ],
)
def test_a_wrong_layer_has_the_numbers_of_those_that_it_does_not_contain(layers, said):
    cause = shared(*layers, other=["z"])
    assert cause == ("" if said is None else f"identical dumps: the same numbers as {said}")


def test_only_wrong_outputs_without_a_cause_are_said_to_be_another_buffer():
    assert shared("a", "b", found=[Row(CALL, "a")]) == ""
    assert shared("a", "b", found=[Row(CALL, "a", verdict="not judged")]) == ""
    assert shared("a", "b", found=[wrong("a", cause="x")]) == "x"
    assert shared("a", "b", found=[wrong("a", kind="wiring")]) == ""
    tensors = {f"{CALL}/{name}/output": SAME for name in "ab"}
    right = [wrong("a"), Row(CALL, "b"), Row("v.000", "b", verdict="noisy")]
    found = identical_dumps(build_trace(tensors), right)
    assert [row is other for row, other in zip(found, right, strict=True)] == [False, True, True]


def test_numbers_of_other_calls_and_of_further_outputs_are_not_compared():
    calls = {"u.000/a/output": SAME, "u.001/b/output": SAME}
    assert identical_dumps(build_trace(calls), [wrong("a")])[0].cause == ""
    both = [wrong("a"), Row("u.001", "b", verdict="differs")]
    assert [row.cause for row in identical_dumps(build_trace(calls), both)] == ["", ""]
    second = {"x": SAME, "y": SAME + 1.0, "z": SAME}
    entries = [
        {"call": CALL, "layer": "a", "outputs": {"output": "x"}},
        {"call": CALL, "layer": "b", "outputs": {"0": "y", "1": "z"}},
    ]
    trace = build_trace(second, {"entries": entries})
    assert identical_dumps(trace, [wrong("a")])[0].cause == ""


# -- a reference ----------------------------------------------------------------------------------


def of_kinds(kinds, shift=0.0):
    """Return a trace of layers of these kinds, whose outputs are shifted."""
    tensors = {name: SAME + 1.0 + shift for name in kinds}
    entries = [
        {"call": CALL, "layer": name, "kind": kind, "outputs": {"output": name}}
        for name, kind in kinds.items()
    ]
    return build_trace(tensors, {"entries": entries})


PAIRS = [
    ("group_norm_silu", "group_norm", False),
    ("group_norm", "group_norm_silu", False),
    ("geglu", "linear", False),
    ("linear", "geglu", False),
    ("geglu", "geglu", True),
    ("group_norm_silu", "group_norm_silu", True),
    ("linear", "linear", True),
    ("linear", "other", True),
]


@pytest.mark.parametrize(("ours", "theirs", "compared"), PAIRS)
def test_layers_of_which_one_has_an_activation_are_not_compared(ours, theirs, compared):
    port = of_kinds({"a": ours, "b": "linear"})
    reference = of_kinds({"a": theirs, "b": "linear"}, shift=0.5)
    found, _ = compare_reference(port, reference, [])
    assert [row.layer for row in found] == ["a", "b"][not compared :]
    assert all(row.inherited == pytest.approx(0.5 / 3.5) for row in found)
    assert all((row.call, row.verdict) == (CALL, "not judged") for row in found)


def test_layers_without_outputs_are_not_compared():
    def trace(**outputs):
        tensors = {f"{CALL}/a/input": SAME} | {f"{CALL}/{k}/output": x for k, x in outputs.items()}
        return build_trace(tensors)

    full = {"a": SAME, "b": SAME}
    for port, reference, layers in (
        (trace(**full), trace(**full), ["a", "b"]),
        (trace(b=SAME), trace(**full), ["b"]),
        (trace(**full), trace(b=SAME), ["b"]),
        (trace(a=SAME), trace(b=SAME), []),
    ):
        assert [row.layer for row in compare_reference(port, reference, [])[0]] == layers
    entry = {"call": CALL, "layer": "a", "outputs": {"unheard": "x"}}
    odd = build_trace({"x": SAME}, {"entries": [entry]})
    assert compare_reference(odd, trace(**full), [])[0] == []
    assert compare_reference(trace(**full), odd, [])[0] == []


def test_rows_are_taken_again_by_call_layer_and_kind():
    found = [
        wrong("a"),
        wrong("a", kind="wiring"),
        Row("u.001", "a", verdict="differs"),
        wrong("b"),
        Row(CALL, "c"),
    ]
    again = [Row(CALL, "a", error=0.5), Row("u.001", "b")]
    made = less_strict(found, lambda: again, "float64")
    assert [row.verdict for row in made] == ["noisy", "differs", "differs", "differs", "equal"]
    assert made[0].error == 0.5 and "float32" in made[0].note
    assert all(row is other for row, other in zip(made[1:], found[1:], strict=True))
    assert less_strict(found, lambda: again, "float32") is found
    assert less_strict(found[4:], lambda: 1 / 0, "float64") == found[4:]


@pytest.mark.parametrize("other", [SAME[None], SAME + 1.0, SAME[::-1]])
def test_buffers_are_the_same_by_shape_and_numbers(other):
    tensors = {f"{CALL}/a/output": SAME, f"{CALL}/b/output": other}
    assert identical_dumps(build_trace(tensors), [wrong("a")])[0].cause == ""


@pytest.mark.parametrize(
    ("differences", "verdict", "doubted"),
    [
        ((0.0099, 0.0), "equal", ""),
        ((0.0101, 0.0), "equal", "1 layer "),
        ((0.5, 0.005, 0.02), "noisy", "2 layers "),
        ((0.5,), "differs", ""),
    ],
)
def test_a_reference_that_is_far_from_a_right_port_is_doubted(differences, verdict, doubted):
    right = np.array([1.0, 2.0])
    names = [f"{CALL}/{i}/output" for i in range(len(differences))]
    other = {
        name: right * [1.0, 1.0 / (1.0 - x)] for name, x in zip(names, differences, strict=True)
    }
    port = build_trace(dict.fromkeys(names, right))
    found, doubts = compare_reference(port, build_trace(other), [Row(CALL, "0", verdict=verdict)])
    assert [row.inherited for row in found] == pytest.approx(list(differences))
    assert [text.startswith(doubted) for text in doubts] == [True] * bool(doubted)


def test_parts_of_layers():
    assert is_within("a.b", ["a"]) and is_within("a", ["a"]) and is_within("a.b.c", ["x", "a.b"])
    assert not is_within("ab", ["a"]) and not is_within("a", ["a.b"]) and not is_within("a", [])
