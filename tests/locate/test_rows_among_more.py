"""Rows of tokens among more of them, before, between and behind which a port has others."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from fault_calls import call_of

from ldmref.locate.recorded.kept_rows import find_rows
from ldmref.locate.replay.points import Frame, Point

ROUNDING = 1e-6
REPLAY = SimpleNamespace(arguments={})


def rows_of(seed, *shape):
    """Return an array of other numbers for each seed."""
    return np.random.default_rng(seed).standard_normal(shape)


def point_of(recorded, computed):
    """Return a point at which a port has other rows."""
    call = call_of("linear", lambda input: input, {"input": computed})
    frame = Frame("", lambda inputs: None, {}, Counter(), [])
    return Point(call, "", computed, recorded, {}, frame, (), ())


@pytest.mark.parametrize("begin", [0, 3, 7, 10])
def test_rows_are_found_before_others_behind_others_and_between_both(begin):
    computed = rows_of(0, 2, 6, 4)
    recorded = rows_of(1, 2, 16, 4)
    recorded[:, begin : begin + 6] = computed
    found = find_rows(REPLAY, point_of(recorded, computed), ROUNDING)
    assert [indices.tolist() for indices in found.taken] == [[*range(begin, begin + 6)]] * 2
    assert np.array_equal(found.array, computed) and not found.lacks.any()
    assert found.text == "16 rows of tokens for 6"


def test_rows_of_a_wrong_array_are_those_of_an_earlier_one():
    """A fault that changes all numbers does not hide where the expected rows are."""
    computed, recorded = rows_of(0, 2, 6, 4), rows_of(1, 2, 16, 4)
    assert find_rows(REPLAY, point_of(recorded, computed), ROUNDING) is None
    right = recorded.copy()
    right[:, 3:9] = computed
    earlier = find_rows(REPLAY, point_of(right, computed), ROUNDING)
    known = {earlier.counts: earlier.taken}
    found = find_rows(REPLAY, point_of(recorded, computed), ROUNDING, known)
    assert np.array_equal(found.array, recorded[:, 3:9])
    other = find_rows(REPLAY, point_of(recorded[:, :15], computed), ROUNDING, known)
    assert other is None  # arrays of other lengths say nothing of each other


def test_rows_of_an_array_that_is_partly_wrong_are_those_of_an_earlier_one():
    """Other rows that are alike are nearer than the wrong ones."""
    computed, recorded = (1.0 + 0.01 * rows_of(seed, 2, n, 4) for seed, n in ((0, 6), (1, 16)))
    recorded[:, 3:9] = computed
    earlier = find_rows(REPLAY, point_of(recorded, computed), ROUNDING)
    recorded[:, 6] += 0.3
    known = {earlier.counts: earlier.taken}
    found = find_rows(REPLAY, point_of(recorded, computed), ROUNDING, known)
    assert np.array_equal(found.array, recorded[:, 3:9])
