"""Predictions kept within bounds, against NumPy's quantiles, image by image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldmref.samplers.clipping import clip_to, configured_clip, threshold_at
from ldmref.samplers.config import SchedulerConfig


def thresholded(x0, ratio, largest):
    """Each image by itself: clipped to its own quantile, and divided by it."""
    images = []
    for one in x0:
        s = np.clip(np.quantile(np.abs(one), ratio), 1.0, None)
        s = min(s, largest)
        images.append(np.clip(one, -s, s) / s)
    return np.stack(images)


@given(
    st.integers(0, 2**32),
    st.integers(1, 4),
    st.integers(1, 7),
    st.floats(0.0, 1.0),
    st.floats(0.5, 1e3),
)
def test_dynamic_thresholding_is_by_the_quantile_of_each_image(seed, n, size, ratio, largest):
    scales = np.geomspace(3e2, 0.3, n).reshape(n, 1, 1)
    x0 = scales * np.random.default_rng(seed).standard_normal((n, size, 3))
    got = threshold_at(ratio, largest)(x0)
    np.testing.assert_allclose(got, thresholded(x0, ratio, largest), rtol=1e-9, atol=1e-12)


def test_the_largest_and_the_smallest_element_are_quantiles_too():
    x0 = np.array([[1.0, -2.0, 3.0, -4.0]])
    assert threshold_at(1.0, 10.0)(x0).tolist() == [[0.25, -0.5, 0.75, -1.0]]
    assert threshold_at(0.0, 10.0)(x0).tolist() == [[1.0, -1.0, 1.0, -1.0]]
    assert threshold_at(0.5, 10.0)(x0).tolist() == [[0.4, -0.8, 1.0, -1.0]]
    x0 *= 10.0  # position 2.7 of 0 to 3
    assert threshold_at(0.9, 50.0)(x0)[0, 2] == 30.0 / 37.0
    x0 /= 10.0
    assert threshold_at(1.0, 2.0)(x0).tolist() == [[0.5, -1.0, 1.0, -1.0]]


@pytest.mark.parametrize("bound", [0.5, 1.0])
def test_clipping_is_on_both_sides(bound):
    x0 = np.array([[-2.0, -bound, -0.1, 0.0, 0.1, bound, 2.0]])
    assert clip_to(bound)(x0).tolist() == [[-bound, -bound, -0.1, 0.0, 0.1, bound, bound]]


def test_a_scheduler_that_asks_for_both_thresholds():
    """As in diffusers, where `clip_sample` counts only without `thresholding`."""
    x0 = np.array([[1.0, -2.0, 3.0, -4.0]])
    both = SchedulerConfig(clip_sample_range=0.1, thresholding_ratio=1.0, sample_max_value=2.0)
    assert configured_clip(both)(x0).tolist() == [[0.5, -1.0, 1.0, -1.0]]
    assert configured_clip(SchedulerConfig(clip_sample_range=1.5))(x0).tolist() == [
        [1.0, -1.5, 1.5, -1.5]
    ]


def test_by_default_thresholding_lets_through_what_is_at_most_one():
    x0 = np.array([[1.0, -2.0, 3.0, -4.0]])
    assert configured_clip(SchedulerConfig(thresholding_ratio=1.0))(x0).tolist() == [
        [1.0, -1.0, 1.0, -1.0]
    ]
