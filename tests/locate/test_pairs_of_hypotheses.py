"""Pairs of hypotheses: what each computes, how two are joined, and which pairs come first."""

from __future__ import annotations

from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest

from ldmref.backends.named import LayerCall
from ldmref.locate.causes.pairs import Tried, likely_pairs, sample
from ldmref.locate.faults.hypothesis import Hypothesis


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


# -- hypotheses -----------------------------------------------------------------------------------


POINT = SimpleNamespace(kept=lambda x: x + 100.0)


def computed(hypothesis, result=None, error=None, **options):
    """Return what a hypothesis computes, and what it asked of the replay."""
    asked = []

    def rerun(*values, **named):
        asked.append((values, named))
        if error is not None:
            raise error
        return result

    return hypothesis.compute(SimpleNamespace(rerun=rerun), POINT, **options), asked


def test_a_hypothesis_asks_for_its_changes():
    changes, arguments = {"a": max}, {"b": 1}
    x = np.arange(3.0)
    found, asked = computed(Hypothesis("t", changes, arguments, True), x, low=True)
    assert np.array_equal(found, x + 100.0)
    assert asked == [((POINT, changes), {"arguments": arguments, "low": True, "free": True})]
    found, asked = computed(Hypothesis("t"), x)
    assert np.array_equal(found, x + 100.0)
    assert asked == [((POINT, None), {"arguments": None, "low": False, "free": False})]
    assert computed(Hypothesis("t"))[0] is None


def test_a_hypothesis_of_an_array_computes_nothing():
    found, asked = computed(Hypothesis("t", array=np.zeros(2)))
    assert found.tolist() == [100.0, 100.0] and not asked


@pytest.mark.parametrize("kind", [ValueError, IndexError, KeyError, TypeError, ZeroDivisionError])
def test_a_fault_that_does_not_fit_gives_nothing(kind):
    assert computed(Hypothesis("t"), np.zeros(2), kind("x"))[0] is None
    with pytest.raises(RuntimeError):
        computed(Hypothesis("t"), np.zeros(2), RuntimeError("x"))


def test_changes_of_one_operation_are_one_within_the_other():
    call = LayerCall("a", "silu", {}, {}, {}, lambda x: x["input"])
    twice = Hypothesis("twice", {"a": lambda c, x: 2.0 * c.compute(x)})
    more = Hypothesis("more", {"a": lambda c, x: c.compute({"input": x["input"] + 1.0}) + 10.0})
    for first, second, wanted in ((twice, more, 28.0), (more, twice, 18.0)):
        both = first.joined(second)
        assert both is not None and list(both.changes) == ["a"]
        assert both.changes["a"](call, {"input": 3.0}) == wanted
        assert call.compute({"input": 3.0}) == 3.0


def test_what_is_joined_and_what_is_not():
    a = Hypothesis("a", {"x": max})
    b = Hypothesis("b", None, {"p": 1}, True)
    for both in (a.joined(b), b.joined(a)):
        assert both is not None and both.array is None
        assert both.changes == {"x": max} and both.arguments == {"p": 1} and both.free
    neither = a.joined(Hypothesis("c", {"y": min}))
    assert neither is not None and neither.text == "a, and c"
    assert neither.changes == {"x": max, "y": min}
    assert neither.arguments is None and neither.free is False
    two = b.joined(Hypothesis("c", None, {"q": 2}))
    assert two is not None and two.arguments == {"p": 1, "q": 2} and two.changes == {}
    assert b.joined(Hypothesis("c", None, {"q": 2, "p": 3})) is None
    given = Hypothesis("g", array=np.zeros(1))
    assert a.joined(given) is None and given.joined(a) is None


# -- samples --------------------------------------------------------------------------------------


STEPS = [(0, 1), (1, 1), (2047, 1), (2048, 1), (4095, 1), (4096, 2), (6144, 3)]


def test_samples_are_evenly_spaced():
    for size, step in STEPS:
        found = sample(np.arange(size))
        assert found.dtype == np.float64
        assert found.tolist() == list(range(0, size, step))


# -- ranking --------------------------------------------------------------------------------------


def tried_of(effects, nearest=0):
    return [Tried(Hypothesis(str(i)), float(i != nearest), x) for i, x in enumerate(effects)]


def numbers(difference, tried):
    return [
        (int(a.hypothesis.text), int(b.hypothesis.text)) for a, b in likely_pairs(difference, tried)
    ]


@pytest.mark.parametrize("nearest", [0, 3, 6])
def test_pairs_are_sorted_by_what_their_sum_leaves(nearest):
    """First those of the hypothesis that leaves least, then all others."""
    effects = normal(1, 7, 20) * np.arange(1.0, 8.0)[:, None]
    difference = normal(2, 20)
    left = {
        (i, j): np.linalg.norm(difference - effects[i] - effects[j])
        for i, j in combinations(range(7), 2)
    }
    order = sorted(left, key=left.get)
    first = [(nearest, sum(pair) - nearest) for pair in order if nearest in pair]
    others = [pair for pair in order if nearest not in pair]
    assert numbers(difference, tried_of(effects, nearest)) == first + others


def test_thirty_two_pairs_of_each_kind_are_computed():
    effects = np.eye(60)
    effects[5] *= 1e3  # which is in no good pair
    found = numbers(np.ones(60), tried_of(effects, 5))
    assert len(found) == 64
    assert [i for i, _ in found[:32]] == [5] * 32
    assert not any(5 in pair for pair in found[32:])
    few = numbers(np.ones(60), tried_of(effects[:33], 5))
    assert len(few) == 64 and [j for _, j in few[:32]] == [j for j in range(33) if j != 5]


def test_pairs_that_are_as_good_keep_the_order_of_their_hypotheses():
    effects = np.ones((50, 4))
    found = numbers(np.ones(4), tried_of(effects, 49))
    assert found[:32] == [(49, j) for j in range(32)]
    assert found[32:] == [(0, j) for j in range(1, 33)]
    kinds = np.eye(4)[np.arange(50) % 2]
    found = numbers(np.array([1.0, 1.0, 0.0, 0.0]), tried_of([*kinds, np.full(4, 9.0)], 50))
    assert found[32:] == [(0, j) for j in range(1, 50, 2)] + [(1, j) for j in range(2, 15, 2)]


def test_hypotheses_without_an_effect_are_in_no_pair():
    difference = np.array([1000.0, 0.0, 0.0])
    large, small = np.array([0.0, 2.0, 0.0]), np.array([0.0, 0.0, -1.0])
    other = np.array([5.0, 0.0, 0.0])
    assert numbers(difference, tried_of([large, small, other])) == [(0, 2)]
    seen = tried_of([large, 1.001 * small, other])
    assert numbers(difference, seen) == [(0, 2), (0, 1), (1, 2)]
    assert numbers(difference, tried_of([large, small])) == []
    for partly in ([np.nan, 2.0, 0.0], [np.inf, 2.0, 0.0]):
        assert numbers(difference, tried_of([large, np.array(partly), other])) == [(0, 2)]
    assert numbers(difference, tried_of([large, large[:2], other])) == [(0, 2)]
    assert numbers(difference, tried_of([large, other])) == [(0, 1)]
    assert numbers(difference, []) == []
