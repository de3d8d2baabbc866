"""Alternation, repetition, ratios, errors and rates, measured with a simulated clock."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from benchmarks.compare import PairedSamples, alternate, relative_error, time_alternately
from benchmarks.machine import gemm_peak
from benchmarks.work import MIN_SECONDS, Workload, repeat_count


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", clock)
    return clock


class Clock:
    """A clock that the workloads advance by the duration of each call."""

    def __init__(self):
        self.now = 100.0
        self.order = []

    def __call__(self):
        return self.now

    def workload(self, name, *durations):
        durations = itertools.chain(durations, itertools.repeat(durations[-1]))

        def call():
            self.order.append(name)
            self.now += next(durations)

        return Workload(call, np.asarray)


def test_sides_alternate_and_the_warm_up_is_not_counted(clock):
    a = clock.workload("A", 9.0, 9.0, 1.0, 3.0)
    b = clock.workload("B", 9.0, 9.0, 2.0, 2.0)
    pairs = time_alternately(a, b, 2)
    assert "".join(clock.order) == "AB" + "AB" + "ABAB"  # duration, warm-up, two rounds
    assert pairs == PairedSamples((1.0, 3.0), (2.0, 2.0))
    assert pairs.ratios == [0.5, 1.5]


def test_alternate_drops_the_warm_up_rounds():
    order = []
    values = iter([9.0, 9.0, 1.0, 2.0, 3.0, 4.0])

    def measure(side):
        order.append(side)
        return next(values)

    assert alternate(measure, 2, warm_up=1) == PairedSamples((1.0, 3.0), (2.0, 4.0))
    assert order == ["ours", "theirs"] * 3


def test_short_calls_are_repeated_equally_often_and_seconds_are_of_one_call(clock):
    short = MIN_SECONDS / 7
    long = MIN_SECONDS / 3.5
    pairs = time_alternately(clock.workload("A", short), clock.workload("B", long), 1)
    assert "".join(clock.order) == "AB" + "AAAABBBB" * 2
    assert pairs.ours == pytest.approx([short]) and pairs.theirs == pytest.approx([long])
    clock.order.clear()
    middle = MIN_SECONDS / 1.5
    assert clock.workload("A", middle).time(3) == pytest.approx([middle] * 3)
    assert len(clock.order) == 1 + 3 * 2
    assert repeat_count(0.0) == 1000 and repeat_count(10.0) == 1


def test_the_device_is_synchronized_before_and_after(clock):
    def wait():
        clock.order.append("w")
        clock.now += 5.0

    workload = Workload(clock.workload("A", 1.0).run, np.asarray, wait)
    assert workload.seconds_per_call(2) == (2 * 1.0 + 5.0) / 2
    assert clock.order == ["w", "A", "A", "w"]


def test_the_ratio_is_the_median_of_the_rounds():
    record = PairedSamples((3.0, 4.0, 9.0), (6.0, 2.0, 1.0)).to_dict()
    assert record["ratio"] == {"median": 2.0, "min": 0.5, "max": 9.0, "least": 3.0}
    assert record["ours"] == {"values": [3.0, 4.0, 9.0], "median": 4.0}
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
def test_the_error_is_relative_to_the_largest(a, b, want):
    assert relative_error(np.asarray(a), np.asarray(b)) == want


def test_the_peak_is_the_best_rate(clock):
    durations = iter([9.0, 4.0, 2.0, 3.0, 9.0, 16.0, 16.0, 16.0])
    sizes = []

    def multiply(n):
        sizes.append(n)

        def product():
            clock.now += next(durations)

        return product

    peak = gemm_peak(multiply, (1000, 2000))
    assert sizes == [1000, 2000] and peak == pytest.approx(max(2.0 / 2, 16.0 / 16))
