"""Means with confidence intervals, against SciPy and against samples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ldmref.evaluate.estimate import estimate


def interval(values):
    """Half the width of the 95 % interval by SciPy, of the mean's normal limit."""
    return stats.norm.interval(0.95, loc=0.0, scale=stats.sem(values, ddof=1))[1]


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
    """E[half_width^2] / 1.96^2 = sigma^2 / n; with 1 / n in place of 1 / (n - 1) it is 3/4 of that
    for n = 4. The estimate of 40,000 samples errs by sqrt(2 / 3 / 40,000) = 0.41 %, six of which
    are 2.5 %."""
    samples = np.random.default_rng(1).standard_normal((40_000, 4))
    widths = np.array([estimate(row).half_width for row in samples])
    quantile = estimate(np.asarray([0.0, 0.0, 2.0, 2.0])).half_width / np.sqrt(4 / 3 / 4)
    assert (widths**2).mean() / quantile**2 == pytest.approx(1 / 4, rel=0.025)
