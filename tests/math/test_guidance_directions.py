"""Thresholds and projections: the promised bounds, right angles, and the cases that are plain."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldmref import math as lm
from ldmref.testing import strategies

SCALES = st.integers(-16, 80).map(lambda k: k / 8)
SHAPE = (2, 2, 3)


def inner(a, b):
    return (a.astype(np.float64) * b).reshape(len(a), -1).sum(axis=1)


@given(data=st.data(), ratio=st.floats(0.0, 1.0))
def test_the_quantile_is_numpy_s(xp, dtype, to_numpy, data, ratio):
    x = data.draw(strategies.arrays(st.just(SHAPE), xp, dtype))
    got = to_numpy(lm.magnitude_quantile(x, ratio))
    want = np.quantile(np.abs(to_numpy(x).astype(np.float64)).reshape(2, -1), ratio, axis=1)
    eps = float(np.finfo(got.dtype).eps)
    np.testing.assert_allclose(got, want, rtol=8 * eps, atol=8 * eps * (1 + np.abs(want).max()))
    assert got.shape == (2,) and str(got.dtype) == dtype


@given(data=st.data(), ratio=st.floats(0.0, 1.0), bound=st.floats(0.25, 4.0))
def test_thresholded_data_are_within_the_bound_and_keep_their_signs(
    xp, dtype, to_numpy, data, ratio, bound
):
    x = data.draw(strategies.arrays(st.just(SHAPE), xp, dtype))
    got = lm.dynamic_threshold(x, ratio, bound)
    assert got.dtype == x.dtype and got.shape == x.shape
    got, x = to_numpy(got), to_numpy(x)
    assert np.abs(got).max() <= bound * (1 + 4 * np.finfo(got.dtype).eps)
    assert (got * x >= 0).all() and (np.abs(got) <= np.abs(x) * (1 + 1e-5)).all()
    inside = np.abs(x).reshape(2, -1).max(axis=1) <= bound
    np.testing.assert_allclose(got[inside], x[inside], rtol=4 * np.finfo(got.dtype).eps)


def test_a_largest_threshold_and_a_bound_for_each_example(xp, dtype, to_numpy):
    x = xp.asarray(np.asarray([[1.0, -2.0, 4.0], [1.0, -2.0, 4.0]]), dtype=getattr(xp, dtype))
    assert to_numpy(lm.dynamic_threshold(x, 1.0, largest=2.0)).tolist() == [[0.5, -1.0, 1.0]] * 2
    bounds = xp.asarray(np.asarray([2.0, 8.0]), dtype=getattr(xp, dtype))
    got = to_numpy(lm.dynamic_threshold(x, 1.0, bounds)).tolist()
    assert got == [[0.5, -1.0, 2.0], [1.0, -2.0, 4.0]]


@given(data=st.data())
def test_the_rest_of_a_projection_is_perpendicular(xp, dtype, to_numpy, data):
    x, direction = data.draw(strategies.paired(2, xp, dtype, SHAPE))
    parallel = lm.parallel_part(x, direction)
    x, direction, parallel = map(to_numpy, (x, direction, parallel))
    norms = np.sqrt(inner(x, x) * inner(direction, direction))
    eps = float(np.finfo(x.dtype).eps)
    assert (np.abs(inner(x - parallel, direction)) <= 64 * eps * norms).all()
    zero = inner(direction, direction) == 0
    assert (parallel[zero] == 0).all()


def test_a_projection_on_tiny_and_huge_directions_is_the_same(xp, dtype, to_numpy):
    x = xp.asarray(np.asarray([[1.0, 2.0, 3.0]]), dtype=getattr(xp, dtype))
    want = to_numpy(lm.parallel_part(x, 0.5 * xp.ones_like(x)))
    for size in (1e-30, 1e30):
        got = to_numpy(lm.parallel_part(x, size * xp.ones_like(x)))
        np.testing.assert_allclose(got, want, rtol=1e-6)


@given(data=st.data(), scale=SCALES)
def test_without_weight_or_with_an_empty_negative_it_is_classifier_free(
    xp, dtype, xp_assert_close, data, scale
):
    empty, cond, negative = data.draw(strategies.paired(3, xp, dtype, SHAPE))
    plain = lm.classifier_free_guidance(empty, cond, scale)
    for args in ((negative, scale, 0.0), (empty, scale, 1.0)):
        got = lm.perpendicular_negative_guidance(empty, cond, *args)
        xp_assert_close(got, plain, ulps=16, scale=1000.0 * (1 + abs(scale)))


@given(data=st.data(), factor=st.integers(-3, 3))
def test_a_negative_prompt_along_the_prompt_takes_nothing_away(xp, dtype, to_numpy, data, factor):
    """Its part perpendicular to the prompt is zero."""
    empty, cond = data.draw(strategies.paired(2, xp, dtype, SHAPE))
    negative = empty + factor * (cond - empty)
    got = to_numpy(lm.perpendicular_negative_guidance(empty, cond, negative, 2.0))
    plain = to_numpy(lm.classifier_free_guidance(empty, cond, 2.0))
    largest = max(np.abs(to_numpy(z)).max() for z in (empty, cond))
    eps = float(np.finfo(got.dtype).eps)
    np.testing.assert_allclose(got, plain, rtol=0, atol=512 * eps * (1.0 + largest))


@given(data=st.data(), scale=SCALES)
def test_perturbed_attention_is_a_second_guidance(xp, dtype, xp_assert_close, data, scale):
    cond, worse = data.draw(strategies.paired(2, xp, dtype, SHAPE))
    got = lm.perturbed_attention_guidance(cond, cond, worse, scale)
    want = lm.classifier_free_guidance(worse, cond, 1.0 + scale)
    xp_assert_close(got, want, ulps=8, scale=1000.0 * (1 + abs(scale)))
    xp_assert_close(lm.perturbed_attention_guidance(cond, cond, cond, scale), cond, ulps=0)


@given(data=st.data(), scale=SCALES, momentum=st.integers(-4, 4).map(lambda k: k / 4))
def test_projected_guidance_moves_perpendicular_to_the_prediction(
    xp, dtype, to_numpy, data, scale, momentum
):
    uncond, cond, average = data.draw(strategies.paired(3, xp, dtype, SHAPE))
    radius = 2.0
    got, remembered = lm.adaptive_projected_guidance(
        uncond, cond, scale, 0.0, radius, momentum, average
    )
    uncond, cond, average, got, remembered = map(to_numpy, (uncond, cond, average, got, remembered))
    eps = float(np.finfo(cond.dtype).eps)
    largest = max(1.0, np.abs(cond).max())
    moved = got.astype(np.float64) - cond
    room = 1024 * eps * (1 + abs(scale)) * largest
    assert (np.abs(inner(moved, cond)) <= room * np.sqrt(inner(cond, cond)) + room).all()
    assert (np.sqrt(inner(moved, moved)) <= abs(scale - 1) * radius * (1 + 64 * eps) + room).all()
    want = cond.astype(np.float64) - uncond + momentum * average.astype(np.float64)
    np.testing.assert_allclose(remembered, want, rtol=0, atol=8 * eps * (largest + 4e3))


def test_projected_guidance_at_scale_1_and_without_a_difference(xp, dtype, to_numpy):
    cond = xp.asarray(np.asarray([[1.0, -2.0], [0.0, 0.0]]), dtype=getattr(xp, dtype))
    for uncond in (cond, cond - 1.0):
        got, _ = lm.adaptive_projected_guidance(uncond, cond, 1.0, radius=0.5)
        assert to_numpy(got).tolist() == to_numpy(cond).tolist()
    got, average = lm.adaptive_projected_guidance(cond, cond, 5.0, radius=0.5)
    assert to_numpy(got).tolist() == to_numpy(cond).tolist() and not to_numpy(average).any()


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_momentum_sums_a_geometric_series(eta):
    """The same difference every step, with momentum m: 1 + m + m^2 + ... of it."""
    uncond, cond = np.asarray([[[1.0, 1.0]], [[2.0, 0.0]]])
    average = None
    for k in range(60):
        _, average = lm.adaptive_projected_guidance(uncond, cond, 2.0, eta, math.inf, -0.5, average)
        total = (1 - (-0.5) ** (k + 1)) / 1.5
        np.testing.assert_allclose(average, total * (cond - uncond), rtol=1e-12)
