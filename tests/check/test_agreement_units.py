"""Which difference of two results counts, and what is noted of the calls that are compared."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from ldmref.check.agreement import (
    ArrayKind,
    first_fault,
    lost_numbers,
    with_negative_noise,
)
from ldmref.check.identity import public
from ldmref.check.made_calls import STEP, STEP_RESULT
from ldmref.check.watching import Leaf, WatchedCall, WatchedFunctions, leaves

KIND = ArrayKind(2.0**-52, "numpy")
ALLOWED = 2.0**-13  # the fourth root of the rounding


def call(values, name="q_sample", library="numpy"):
    """A call with one result of these values; a list has several."""
    items = values if isinstance(values, list) else [values]
    found = [
        Leaf(str(i), None if x is None else np.asarray(x), library) for i, x in enumerate(items)
    ]
    return WatchedCall(name, [found])


def fault(theirs, ours, name="q_sample", library="numpy", kind=KIND):
    return first_fault([call(theirs, name, library)], [call(ours, name)], kind)


def test_equal_results_have_no_fault():
    x = np.linspace(0, 1, 6).reshape(2, 3)
    assert fault(x, x.copy()) is None
    assert first_fault([], [], KIND) is None
    assert fault(np.zeros((0, 2)), np.zeros((0, 2))) is None


@pytest.mark.parametrize("scale", [0.25, 1.0, 100.0])
def test_other_numbers_differ_by_more_than_the_fourth_root_of_the_rounding(scale):
    ours = np.asarray([0.5, -1.0]) * scale
    allowed = ALLOWED * max(1.0, scale)
    assert fault(ours + 0.99 * allowed, ours) is None
    for sign in (1, -1):
        found = fault(ours + sign * 1.01 * allowed, ours)
        assert found is not None and found.in_law


def test_the_rounding_of_single_precision_allows_more():
    ours = np.asarray([0.5, -1.0])
    single = ArrayKind(2.0**-23, "numpy")
    assert fault(ours + 0.99 * 2.0**-5.75, ours, kind=single) is None
    assert fault(ours + 1.01 * 2.0**-5.75, ours, kind=single) is not None


def test_where_ldmref_has_no_number_none_is_needed():
    ours = np.asarray([np.nan, np.inf, 1.0])
    assert fault(np.asarray([5.0, 7.0, 1.0]), ours) is None
    assert fault(np.asarray([5.0, np.inf, 1.0]), ours) is None
    lost = fault(np.asarray([5.0, np.nan, 1.0]), ours)
    assert lost is not None and not lost.in_law
    assert fault(np.asarray([np.nan, np.inf, 2.0]), ours).in_law
    for bad in (np.nan, np.inf, -np.inf):
        found = fault(np.asarray([5.0, 7.0, bad]), ours)
        assert found is not None and not found.in_law


def test_other_shapes_kinds_and_libraries_are_faults():
    x = np.ones((2, 3))
    for other in (x[0], x[None], x.T, x > 0, x.astype(np.int64), x + 0j):
        found = fault(other, x)
        assert found is not None and not found.in_law
    assert fault(x, x, library="torch") is not None
    assert fault(x, x, library="torch", kind=ArrayKind(2.0**-52, "torch")) is None
    assert fault(x.astype(np.uint8), x.astype(np.int64)) is None
    assert fault(x.astype(np.float32), x) is None


def test_numbers_may_be_of_any_real_kind():
    assert fault(2, 2.0) is None and fault(2.0, 2) is None
    assert fault(np.asarray([2]), 2.0) is not None
    assert fault(2.0 + 0j, 2.0) is not None
    assert fault(2.0, 2.0 + 0j) is not None
    assert fault(2.0, 2.0, library="builtins") is None
    assert fault(None, 2.0) is not None
    assert fault(2.0, None) is None


def test_another_number_of_values_or_items_is_a_fault():
    assert not fault([1.0], [1.0, 2.0]).in_law
    assert not fault([1.0, 2.0], [1.0]).in_law
    short, long = call(1.0), call(1.0)
    long.items.append(long.items[0])
    assert not first_fault([short], [long], KIND).in_law
    assert not first_fault([long], [short], KIND).in_law


def test_the_gravest_fault_is_told():
    mine = [call(2.0), call(np.ones(2))]
    right = [call(1.0), call(np.ones(3))]
    assert not first_fault(mine, right, KIND).in_law
    assert first_fault(mine[:1], right[:1], KIND).in_law
    both = first_fault([call(2.0), call(5.0)], [call(1.0), call(4.0)], KIND)
    assert "got 2" in both.text


def test_a_result_may_broadcast_only_where_the_docstring_says_so():
    mean, std = np.ones((2, 3, 4)), np.full((2, 3, 4), 0.5)
    name = "q_posterior"
    for other in (0.5, np.full((2, 1, 1), 0.5), np.full(4, 0.5)):
        assert fault([mean, other], [mean, std], name) is None
        assert fault([mean, other], [mean, std], "q_sample") is not None
    assert fault([mean, std], [mean, 0.5], name) is None
    assert fault([mean, np.asarray([0.5, 0.7])], [mean, np.asarray([0.5, 0.7])], name) is None
    per_example = np.asarray([0.5, 0.7])
    spread = np.broadcast_to(per_example[:, None, None], (2, 3, 4))
    assert fault([mean, spread], [mean, per_example], name) is None
    assert fault([mean, np.ones(3)], [mean, std], name) is not None
    assert fault([mean[:1], std], [mean, std], name) is not None


def test_components_have_no_sign():
    theirs, ours = np.asarray([[1.0, 2.0]]), np.asarray([[-1.0, -2.0]])
    for part, is_free in (("components", True), ("mean", False)):
        calls = [
            WatchedCall("principal_components", [[Leaf(part, x, "numpy")]]) for x in (theirs, ours)
        ]
        assert (first_fault(calls[:1], calls[1:], KIND) is None) == is_free
    calls = [WatchedCall("q_sample", [[Leaf("components", x, "numpy")]]) for x in (theirs, ours)]
    assert first_fault(calls[:1], calls[1:], KIND).in_law


def test_lost_numbers_count_where_ldmref_never_loses_one():
    good, bad, endless = call(1.0), call(np.nan), call(np.inf)
    other = call(np.nan, "slerp")
    assert lost_numbers([good], [good]) is None
    assert lost_numbers([good, bad], [good]) is not None
    assert lost_numbers([endless], [good]) is not None
    assert lost_numbers([bad], [good, bad]) is None
    assert lost_numbers([other], [good]) is None
    assert lost_numbers([good, call([1.0, np.nan])], [good]) is not None
    assert lost_numbers([call(None)], [good]) is None


# -- noise of the other sign ----------------------------------------------------------------------


def test_noise_is_negated_by_name_by_place_and_in_functions():
    def q_sample(x0, alpha_bar, eps=None):
        return x0, alpha_bar, eps() if callable(eps) else eps

    negative = with_negative_noise("q_sample", q_sample)
    assert negative(1.0, 2.0, 3.0) == (1.0, 2.0, -3.0)
    assert negative(1.0, 2.0, eps=3.0) == (1.0, 2.0, -3.0)
    assert negative(1.0, 2.0, lambda: 3.0) == (1.0, 2.0, -3.0)
    assert negative(1.0, 2.0, None) == (1.0, 2.0, None)
    assert with_negative_noise("Schedule", SimpleNamespace) is SimpleNamespace


def test_noise_of_steps_is_negated():
    made = with_negative_noise("ancestral", lambda *args: lambda *call: [*call[:-1], call[-1]()])
    assert made()(1, 2, 3, 4, lambda: 5.0) == [1, 2, 3, 4, -5.0]
    assert made()(1, 2, 3, lambda: 5.0) == [1, 2, 3, 5.0]
    plain = with_negative_noise("ancestral", lambda *args: lambda *call: call)
    assert plain()(1, 2, 3, 4, 5) == (1, 2, 3, 4, 5)
    assert with_negative_noise("ancestral", lambda *args: 7.0)() == 7.0


# -- calls that are watched -----------------------------------------------------------------------


class Pair(NamedTuple):
    mean: Any
    std: Any


def test_leaves_have_names_values_and_libraries():
    assert [*leaves("f", 1.5)] == [Leaf("", np.asarray(1.5), "builtins")]
    (text,) = leaves("f", "text")
    assert text == Leaf("", None, "builtins")
    named = [*leaves("f", Pair(np.ones(2), 3))]
    assert [leaf.name for leaf in named] == ["mean", "std"]
    assert [leaf.library for leaf in named] == ["numpy", "builtins"]
    assert [leaf.name for leaf in leaves("f", (1, 2, 3))] == ["0", "1", "2"]
    (odd,) = leaves("f", np.asarray(["a"]))
    assert odd.values is None and odd.library == "numpy"
    kinds = [np.asarray(x) for x in (True, 1, np.uint8(1), 1.0, 1j)]
    assert all(next(leaves("f", x)).values is not None for x in kinds)
    assert next(leaves("f", 1j)).values is not None


def test_a_step_is_watched_without_its_history():
    result = tuple(range(len(STEP_RESULT)))
    assert [leaf.name for leaf in leaves("f", result, True)] == [*STEP_RESULT[:2]]
    assert len([*leaves("f", result)]) == len(STEP_RESULT)
    longer = (*result, 9)
    assert len([*leaves("f", longer, True)]) == len(longer)


def watched(**functions):
    names = [name for name in functions if name != "other"]
    return WatchedFunctions(SimpleNamespace(**functions), names)


def test_calls_within_calls_are_kept_apart():
    functions = watched(inner=lambda x: x + 1, outer=lambda x: functions.inner(x) * 2, other=len)
    assert functions.outer(3) == 8 and functions.inner(1) == 2 and functions.other("ab") == 2
    assert [c.function for c in functions.calls] == ["outer", "inner"]
    assert [c.function for c in functions.within] == ["inner"]
    assert functions.calls[0].items[0][0].values == 8
    assert functions.within[0].items[0][0].values == 4


def test_a_call_that_raises_ends():
    def fails():
        raise ValueError

    functions = watched(fails=fails, good=lambda: 1.0)
    with pytest.raises(ValueError):
        functions.fails()
    functions.good()
    assert [c.function for c in functions.calls] == ["fails", "good"]
    assert functions.calls[0].items == [] and functions.within == []


def test_items_made_functions_and_methods_are_calls():
    class Law:
        def mean(self):
            return 2.0

        def _own(self):
            return 3.0

    functions = watched(
        states=lambda: iter([1.0, 2.0]),
        make=lambda: lambda *args: (4.0, 5.0, 6.0),
        pair=lambda: (lambda: 7.0, lambda: 8.0),
        Law=Law,
    )
    assert [*functions.states()] == [1.0, 2.0]
    assert [item[0].values for item in functions.calls[0].items] == [1.0, 2.0]
    made = functions.make()
    assert made(*range(len(STEP))) == (4.0, 5.0, 6.0)
    assert [c.function for c in functions.calls[1:]] == ["make", "make"]
    assert functions.calls[1].items == []
    assert [leaf.name for leaf in functions.calls[2].items[0]] == [*STEP_RESULT[:2]]
    made(0.0)
    assert len(functions.calls[3].items[0]) == 3
    one, two = functions.pair()
    assert (one(), two()) == (7.0, 8.0)
    law = functions.Law()
    before = len(functions.calls)
    assert law.mean() == 2.0 and law._own() == 3.0 and isinstance(law, Law)
    assert len(functions.calls) == before + 1
    assert functions.calls[-1].function == "Law"


def test_functions_are_replaced_before_they_are_watched():
    functions = WatchedFunctions(
        SimpleNamespace(silu=public("silu")), ["silu"], lambda name, f: lambda x: name
    )
    assert functions.silu(np.zeros(2)) == "silu"
    assert functions.calls[0].items[0][0].values is None
