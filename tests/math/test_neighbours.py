"""Precision, recall, density, coverage and nearest distances, against scipy and their laws."""

import numpy as np
import pytest
import scipy.spatial
from hypothesis import given
from hypothesis import strategies as st

from ldmref import math as lm

SEEDS = st.integers(0, 2**32 - 1)


def sets(seed, n=12, m=15, d=3):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), rng.standard_normal((m, d)) + rng.normal()


def radii(reference, k):
    """Return the distance to the k-th other example; the nearest in scipy's tree is itself."""
    return scipy.spatial.cKDTree(reference).query(reference, [k + 1])[0][:, 0]


@given(SEEDS, st.integers(1, 9))
def test_distances_are_those_of_scipys_tree(seed, k):
    x, reference = sets(seed)
    expected = scipy.spatial.cKDTree(reference).query(x, [k])[0][:, 0]
    np.testing.assert_allclose(lm.nearest_distance(x, reference, k), expected, rtol=1e-13)


@given(SEEDS, st.integers(1, 9))
def test_counts_are_those_of_scipys_tree(seed, k):
    x, reference = sets(seed)
    apart = scipy.spatial.distance.cdist(x, reference)
    expected = (apart <= radii(reference, k)).sum(axis=1)
    np.testing.assert_array_equal(lm.neighbourhood_counts(x, reference, k), expected)
    held = (apart <= radii(reference, k)).any(axis=0)
    np.testing.assert_array_equal(lm.neighbourhood_coverage(reference, x, k), held)


@given(SEEDS, st.floats(0.1, 50.0))
def test_neighbours_do_not_change_by_turning_scaling_and_order(seed, scale):
    x, reference = sets(seed)
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    order = rng.permutation(len(reference))
    moved = [scale * (z @ turn) + 1.5 for z in (x, reference[order])]
    counts = lm.neighbourhood_counts(x, reference)
    np.testing.assert_array_equal(lm.neighbourhood_counts(*moved), counts)
    covered = lm.neighbourhood_coverage(reference, x)
    np.testing.assert_array_equal(lm.neighbourhood_coverage(*reversed(moved)), covered[order])
    expected = scale * lm.nearest_distance(x, reference)
    np.testing.assert_allclose(lm.nearest_distance(*moved), expected, rtol=1e-8)


@given(SEEDS)
def test_a_set_has_all_of_itself(seed):
    """Each example is within its own neighbourhood and k others' in the mean."""
    _, reference = sets(seed)
    counts = lm.neighbourhood_counts(reference, reference, 4)
    assert (counts >= 1).all() and counts.mean() == 5
    assert lm.neighbourhood_coverage(reference, reference, 4).all()
    assert not lm.nearest_distance(reference, reference).any()


@given(SEEDS)
def test_more_neighbours_and_more_samples_never_have_less(seed):
    x, reference = sets(seed)
    counts = [lm.neighbourhood_counts(x, reference, k) for k in (1, 3, 7)]
    assert (np.diff(counts, axis=0) >= 0).all()
    covered = [lm.neighbourhood_coverage(reference, x[:n]) for n in (1, 4, 12)]
    assert (np.diff(covered, axis=0) >= 0).all()


def test_a_far_sample_is_in_no_neighbourhood():
    x, reference = sets(0)
    assert not lm.neighbourhood_counts(x + 100, reference).any()
    assert not lm.neighbourhood_coverage(reference, x + 100).any()


@pytest.mark.parametrize(("n", "m", "k"), [(20, 30, 5), (60, 20, 3), (15, 15, 1)])
def test_coverage_of_one_distribution_is_the_closed_form(n, m, k):
    """It does not depend on the distribution: a heavy-tailed one here."""
    rng = np.random.default_rng(0)
    found = [
        lm.neighbourhood_coverage(rng.standard_t(2, (m, 2)), rng.standard_t(2, (n, 2)), k).mean()
        for _ in range(400)
    ]
    missed = np.prod([(m - i) / (n + m - i) for i in range(1, k + 1)])
    assert abs(np.mean(found) - (1 - missed)) < 4 * np.std(found) / np.sqrt(len(found))


def test_density_of_one_distribution_is_one():
    rng = np.random.default_rng(1)
    found = [
        lm.neighbourhood_counts(*rng.standard_normal((2, 25, 2)), k=5).mean() / 5
        for _ in range(400)
    ]
    assert abs(np.mean(found) - 1) < 4 * np.std(found) / np.sqrt(len(found))


def test_lost_modes_lower_coverage_and_recall_and_not_precision():
    """Of two clusters, the samples have one."""
    rng = np.random.default_rng(2)
    data = rng.standard_normal((200, 2)) + np.where(np.arange(200) % 2, 50.0, 0.0)[:, None]
    samples = rng.standard_normal((200, 2))
    assert (lm.neighbourhood_counts(samples, data, 3) > 0).mean() > 0.8
    assert (lm.neighbourhood_counts(data, samples, 3) > 0).mean() < 0.6
    assert lm.neighbourhood_coverage(data, samples).mean() < 0.55


@pytest.mark.parametrize("k", [0, 15])
def test_there_must_be_k_others(k):
    x, reference = sets(0)
    with pytest.raises(ValueError, match="reference examples"):
        lm.neighbourhood_counts(x, reference, k)
    with pytest.raises(ValueError, match="reference examples"):
        lm.neighbourhood_coverage(reference, x, k)
    with pytest.raises(ValueError, match="reference examples"):
        lm.nearest_distance(x, reference, k + (k > 0))
