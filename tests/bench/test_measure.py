"""Turns, repetition, ratios, differences and rates, with a clock that is told what to show."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ldmref.bench.measure import (
    LEAST,
    Pairs,
    difference,
    gemm_peak,
    in_turn,
    repeats,
    seconds,
    time_in_turn,
    times,
)
from ldmref.bench.works import Side


class Clock:
    """A clock that the sides set forward by what their next call takes."""

    def __init__(self):
        self.now, self.order = 100.0, []

    def __call__(self):
        return self.now

    def side(self, name, *taken):
        costs = itertools.chain(taken, itertools.repeat(taken[-1]))

        def call():
            self.order.append(name)
            self.now += next(costs)

        return Side(name, call, np.asarray)


def test_sides_run_in_turn_and_the_warm_up_is_not_counted():
    clock = Clock()
    a, b = clock.side("A", 9.0, 9.0, 1.0, 3.0), clock.side("B", 9.0, 9.0, 2.0, 2.0)
    pairs = time_in_turn(a, b, 2, clock)
    assert "".join(clock.order) == "AB" + "AB" + "ABAB"  # how long, warm-up, two rounds
    assert pairs == Pairs((1.0, 3.0), (2.0, 2.0))
    assert pairs.ratios == [0.5, 1.5]


def test_in_turn_numbers_its_rounds():
    seen = []

    def side(name):
        return lambda i: seen.append((name, i)) or 1.0

    assert in_turn(side("A"), side("B"), 2, warm_up=1) == Pairs((1.0, 1.0), (1.0, 1.0))
    assert seen == [(n, i) for i in (-1, 0, 1) for n in "AB"]


def test_short_calls_are_repeated_equally_often_and_seconds_are_of_one_call():
    clock = Clock()
    pairs = time_in_turn(clock.side("A", LEAST / 7), clock.side("B", LEAST / 3.5), 1, clock)
    assert "".join(clock.order) == "AB" + "AAAABBBB" * 2
    assert pairs.ours == pytest.approx([LEAST / 7]) and pairs.theirs == pytest.approx([LEAST / 3.5])
    clock = Clock()
    assert times(clock.side("A", LEAST / 1.5), 3, clock) == pytest.approx([LEAST / 1.5] * 3)
    assert len(clock.order) == 1 + 3 * 2
    assert repeats(0.0) == 1000 and repeats(10.0) == 1


def test_the_device_is_waited_for_before_and_after():
    clock = Clock()

    def wait():
        clock.order.append("w")
        clock.now += 5.0

    side = clock.side("A", 1.0)
    assert seconds(Side("A", side.call, np.asarray, wait), 2, clock) == (2 * 1.0 + 5.0) / 2
    assert clock.order == ["w", "A", "A", "w"]


def test_the_ratio_is_the_median_of_the_rounds():
    record = Pairs((1.0, 4.0, 9.0), (2.0, 2.0, 1.0)).to_dict()
    assert record["ratio"] == {"median": 2.0, "min": 0.5, "max": 9.0}
    assert record["ours"] == {"values": [1.0, 4.0, 9.0], "median": 4.0}
    assert record["theirs"]["median"] == 2.0


@pytest.mark.parametrize(
    ("a", "b", "want"),
    [
        ([1.0, 2.0], [1.0, 4.0], 0.5),
        ([1.0, -8.0], [1.0, -4.0], 1.0),
        ([0.0], [0.0], 0.0),
        ([1.0], [0.0], math.inf),
        ([math.nan], [1.0], math.inf),
        ([1.0], [math.inf], math.inf),
        ([1.0], [[1.0]], math.inf),
    ],
)
def test_difference_is_relative_to_the_largest(a, b, want):
    assert difference(np.asarray(a), np.asarray(b)) == want


def test_the_peak_is_the_best_rate(monkeypatch):
    taken = iter([9.0, 4.0, 2.0, 3.0, 9.0, 16.0, 16.0, 16.0])
    clock = Clock()
    monkeypatch.setattr("ldmref.bench.measure.time.perf_counter", clock)
    sizes = []

    def multiply(n):
        sizes.append(n)

        def product():
            clock.now += next(taken)

        return product

    best = gemm_peak(multiply, (1000, 2000))
    assert sizes == [1000, 2000] and best == pytest.approx(max(2.0 / 2, 16.0 / 16))
