"""Distances and retrieval where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.evaluate.evaluation import distances, retrieval


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
