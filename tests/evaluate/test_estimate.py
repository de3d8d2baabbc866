"""Intervals against scipy, and their coverage."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ldmref.evaluate.intervals import estimate, proportion
from ldmref.evaluate.report import Section, to_dict, to_lines

VALUES = hnp.arrays(np.float64, st.integers(2, 30), elements=st.floats(-100, 100, width=16))


@given(VALUES)
def test_the_interval_of_a_mean_is_students(values):
    got = estimate(values)
    scale = scipy.stats.sem(values)  # with n - 1
    if scale > 0:
        low, high = scipy.stats.t.interval(0.95, len(values) - 1, np.mean(values), scale)
        assert got.low == pytest.approx(low, rel=1e-9, abs=1e-9)
        assert got.high == pytest.approx(high, rel=1e-9, abs=1e-9)
    assert got.mean == pytest.approx(np.mean(values)) and got.images == len(values)


@given(st.integers(1, 200), st.data())
def test_the_interval_of_a_share_is_wilsons(n, data):
    k = data.draw(st.integers(0, n))
    want = scipy.stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    got = proportion(np.arange(n) < k)
    assert got.mean == pytest.approx(k / n)
    assert (got.low, got.high) == pytest.approx((want.low, want.high), abs=1e-9)
    assert got.low <= got.mean <= got.high and got.low < got.high


@pytest.mark.parametrize("n", [2, 8, 64])
def test_an_interval_covers_the_mean_in_95_of_100_cases(n):
    """5 deviations of the share of 4,000 cases; 1.96 standard errors cover 70 % at n = 2."""
    rng = np.random.default_rng(n)
    cases = 4000
    intervals = [estimate(rng.normal(1.0, 2.0, n)) for _ in range(cases)]
    covered = np.mean([e.low < 1.0 < e.high for e in intervals])
    assert abs(covered - 0.95) < 5 * math.sqrt(0.95 * 0.05 / cases)


@pytest.mark.parametrize("p", [0.02, 0.5, 0.99])
def test_an_interval_of_a_share_covers_it(p):
    """The exact coverage, as a sum over all counts; the plain interval covers 0.02 in 87 %."""
    n = 100
    counts = np.arange(n + 1)
    intervals = [proportion(np.arange(n) < k) for k in counts]
    inside = np.array([e.low <= p <= e.high for e in intervals])
    assert scipy.stats.binom.pmf(counts, n, p)[inside].sum() > 0.91


def test_a_single_image_has_no_interval_and_json_stays_valid():
    section = Section("Title", "note", 4)
    section.add("one image", estimate(np.asarray([1.5])), "bits/dim")
    section.add("not finite", math.inf)
    section.add("share", proportion(np.asarray([True] * 4)))
    section.add("mean", estimate(np.asarray([1.0, 2.0, 3.0, 4.0])))
    text = json.dumps(to_dict([section]), allow_nan=False)
    rows = json.loads(text)["Title"]
    assert rows["one image"] == {"value": 1.5, "interval": None, "unit": "bits/dim", "images": 1}
    assert rows["not finite"]["value"] is None and len(rows["share"]["interval"]) == 2
    lines = to_lines([section])
    assert lines[0] == "Title, 4 images" and lines[2].split(None, 4)[:3] == ["one", "image,", "1"]
    assert " +- 2.05" in lines[-1] and "(0.5101 to 1)" in lines[-2]


def interval(values):
    """Half the width of the 95 % interval by SciPy: Student's t."""
    return scipy.stats.t.interval(0.95, len(values) - 1, scale=scipy.stats.sem(values, ddof=1))[1]


@pytest.mark.parametrize("n", [2, 3, 5, 30, 1000])
def test_the_interval_is_that_of_scipy(n):
    """n - 1 in the variance: with n it would be narrower by sqrt(1 - 1 / n), 29 % for a pair."""
    values = np.random.default_rng(n).gamma(2.0, 3.0, n)
    found = estimate(values)
    assert found.mean == pytest.approx(values.mean(), rel=1e-14)
    assert found.half_width == pytest.approx(interval(values), rel=1e-13)


def test_the_interval_does_not_depend_on_where_the_numbers_lie():
    values = np.random.default_rng(0).standard_normal(50)
    assert estimate(values + 100.0).half_width == pytest.approx(estimate(values).half_width)
    assert estimate(-2.0 * values).half_width == pytest.approx(2.0 * estimate(values).half_width)


def test_a_single_number_has_no_interval_and_equal_ones_have_none_to_speak_of():
    assert estimate(np.asarray([3.0])).mean == 3.0
    assert np.isnan(estimate(np.asarray([3.0])).half_width)
    assert estimate(np.full(9, 3.0)).half_width == 0.0


def test_the_variance_of_the_mean_is_estimated_without_bias():
    """E[half_width^2] / t^2 = sigma^2 / n; with 1 / n instead of 1 / (n - 1) it is 3/4 of that
    for n = 4. The estimate of 40,000 samples errs by sqrt(2 / 3 / 40,000) = 0.41 %, six of which
    are 2.5 %."""
    samples = np.random.default_rng(1).standard_normal((40_000, 4))
    widths = np.array([estimate(row).half_width for row in samples])
    quantile = estimate(np.asarray([0.0, 0.0, 2.0, 2.0])).half_width / np.sqrt(4 / 3 / 4)
    assert (widths**2).mean() / quantile**2 == pytest.approx(1 / 4, rel=0.025)
