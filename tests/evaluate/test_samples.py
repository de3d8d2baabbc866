"""Distances and retrieval where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.evaluate.evaluation import coverage, distances, nearest, retrieval


def values(section):
    return {row.name: row.value for row in section.rows}


def test_features_moved_by_a_vector_are_its_square_apart():
    """The covariances are equal, so Frechet's distance is that of the means."""
    rng = np.random.default_rng(0)
    real = rng.standard_normal((200, 4))
    shift = np.array([3.0, 0.0, -4.0, 0.0])
    moved, same = (values(distances(real, real + by, "x")) for by in (shift, 0 * shift))
    assert moved["Frechet distance"] == pytest.approx(25.0, rel=1e-6)
    assert same["Frechet distance"] == pytest.approx(0.0, abs=1e-6)
    other = values(distances(real, rng.standard_normal((200, 4)), "x"))
    name = "kernel distance"  # unbiased: around 0 for two samples of one distribution
    assert abs(other[name]) < 0.05 < 1 < moved[name]


def test_retrieval_counts_the_images_that_are_nearer():
    """The images are on a line; those generated for some prompts are away from their own."""
    real = np.arange(20.0)[:, None]
    drawn = real.copy()
    drawn[:5, 0] += 1.6  # the two to the right are nearer: ranks 2 and 3 for the one at the edge
    drawn[5:8, 0] += 4.0  # 7 or 8 are nearer
    rank = np.array([(np.abs(real - z) < np.abs(real[i] - z)).sum() for i, z in enumerate(drawn)])
    assert set(rank[:5]) <= {2, 3} and (rank[5:8] >= 5).all() and not rank[8:].any()
    found = values(retrieval(real, drawn, "x"))
    assert found == {
        "nearest": pytest.approx(12 / 20),
        "among the 5 nearest": pytest.approx(17 / 20),
    }


def clusters(seed, n, number):
    """Return points around the corners of a square, of the first `number` corners, 100 apart."""
    rng = np.random.default_rng(seed)
    corners = np.array([[0, 0], [100, 0], [0, 100], [100, 100]])[:number]
    return corners[np.arange(n) % number] + rng.standard_normal((n, 2))


def test_samples_of_the_data_have_all_of_it():
    found = values(coverage(clusters(0, 400, 4), clusters(1, 400, 4), "x"))
    assert found["precision, 3 neighbours"] > 0.85 and found["recall, 3 neighbours"] > 0.85
    assert found["density, 5 neighbours"] == pytest.approx(1.0, abs=0.15)
    # the closed form of 400 and 400 is 0.969
    assert found["coverage, 5 neighbours"] == pytest.approx(0.969, abs=0.03)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_lost_modes_are_missing_from_recall_and_coverage_alone(number):
    found = values(coverage(clusters(0, 400, 4), clusters(1, 400, number), "x"))
    assert found["precision, 3 neighbours"] > 0.8
    assert found["recall, 3 neighbours"] <= number / 4
    assert found["coverage, 5 neighbours"] <= number / 4 + 0.01


def test_samples_that_are_no_data_are_missing_from_precision_and_density():
    samples = clusters(1, 400, 4)
    samples[:100] += 50.0  # in the middle of the square, or outside of it
    found = values(coverage(clusters(0, 400, 4), samples, "x"))
    assert found["precision, 3 neighbours"] <= 0.75
    assert found["density, 5 neighbours"] <= 0.8
    assert found["coverage, 5 neighbours"] > 0.9


def test_coverage_has_intervals_and_needs_more_images_than_neighbours():
    section = coverage(clusters(0, 40, 4), clusters(1, 40, 4), "x")
    assert all(low < row.value <= high for row in section.rows for low, high in [row.interval])
    assert not coverage(clusters(0, 5, 4), clusters(1, 5, 4), "x").rows


def test_copies_are_nearer_than_images_of_the_data_to_each_other():
    data = clusters(0, 200, 4)
    name = "samples nearer than half of the data"
    assert values(nearest(data, data + 1e-6, "x"))[name] == 1.0
    assert values(nearest(data, clusters(1, 200, 4), "x"))[name] == pytest.approx(0.5, abs=0.12)
    far = values(nearest(data, clusters(1, 200, 4) + 30.0, "x"))
    assert far[name] == 0.0 and far["from a sample"] > 10.0
