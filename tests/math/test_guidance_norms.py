"""Guidance by norms: the promised lengths and right angles, and the cases that are plain."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldmref import math as lm
from ldmref.testing import strategies
from ldmref.testing.mixture import three_modes

SCALES = st.integers(-16, 80).map(lambda k: k / 8)
SHAPE = (2, 2, 3)
COMPARING = ("zero_star_guidance", "tangential_guidance", "magnitude_aware_guidance")


def inner(a, b):
    return (a.astype(np.float64) * b).reshape(len(a), -1).sum(axis=1)


def lengths(a):
    return np.sqrt(inner(a, a))


@pytest.mark.parametrize("name", COMPARING)
@given(data=st.data())
def test_scale_1_is_exactly_the_conditional_prediction(xp, dtype, to_numpy, name, data):
    uncond, cond = data.draw(strategies.paired(2, xp, dtype, SHAPE))
    got = getattr(lm, name)(uncond, cond, 1.0)
    assert got.dtype == cond.dtype and to_numpy(got).tolist() == to_numpy(cond).tolist()


@pytest.mark.parametrize("name", COMPARING)
@given(data=st.data(), scale=SCALES)
def test_equal_predictions_are_not_guided(xp, dtype, to_numpy, name, data, scale):
    (cond,) = data.draw(strategies.paired(1, xp, dtype, SHAPE))
    got = to_numpy(getattr(lm, name)(cond, cond, scale))
    eps = float(np.finfo(got.dtype).eps)
    room = 128 * eps * (1 + abs(scale)) * (1 + np.abs(to_numpy(cond)).max())
    np.testing.assert_allclose(got, to_numpy(cond), rtol=0, atol=room)


@given(data=st.data(), scale=SCALES)
def test_zero_star_moves_perpendicular_to_the_unconditional(xp, dtype, to_numpy, data, scale):
    """Along the unconditional prediction the result is the conditional one, at every scale."""
    uncond, cond = data.draw(strategies.paired(2, xp, dtype, SHAPE))
    got = to_numpy(lm.zero_star_guidance(uncond, cond, scale))
    uncond, cond = to_numpy(uncond), to_numpy(cond)
    eps = float(np.finfo(got.dtype).eps)
    room = 256 * eps * (1 + abs(scale)) * lengths(uncond) * (1 + lengths(cond))
    assert (np.abs(inner(got.astype(np.float64) - cond, uncond)) <= room).all()


def test_zero_star_without_an_unconditional_prediction_is_a_multiple(xp, dtype, to_numpy):
    cond = xp.asarray(np.asarray([[1.0, -2.0]]), dtype=getattr(xp, dtype))
    assert to_numpy(lm.zero_star_guidance(0.0 * cond, cond, 3.0)).tolist() == [[3.0, -6.0]]


@pytest.mark.parametrize("over", ["image", "token", "row"])
@given(data=st.data(), grow=st.booleans())
def test_renormalised_norms_are_those_of_the_conditional(xp, dtype, to_numpy, over, data, grow):
    guided, cond = data.draw(strategies.paired(2, xp, dtype, (2, 3, 2, 4)))
    got = to_numpy(lm.renormalize_guidance(guided, cond, over, 1.0, grow))
    guided, cond = to_numpy(guided), to_numpy(cond)
    eps = float(np.finfo(got.dtype).eps)

    def cut(x):
        x = x.astype(np.float64)
        if over == "token":
            x = x.reshape(2, 3, 1, 2, 2, 2).transpose(0, 2, 4, 1, 3, 5)
        rows = {"image": 2, "token": 4, "row": 12}[over]
        return np.linalg.norm(x.reshape(rows, -1), axis=1)

    before = cut(guided)
    want = np.where(before > 0, cut(cond), 0.0)
    if not grow:
        want = np.minimum(want, before)
    np.testing.assert_allclose(cut(got), want, rtol=256 * eps, atol=256 * eps)


def test_tokens_are_patches_with_all_channels():
    """Two patches in a row: the first is brought to norm 1, the second keeps its own."""
    guided = np.zeros((1, 2, 2, 4))
    guided[0, :, :, 0] = 5.0
    guided[0, 1, 0, 2] = 0.5
    cond = np.zeros_like(guided)
    cond[0, 0, 0, 1] = 1.0
    cond[0, 0, 1, 3] = 0.5
    got = lm.renormalize_guidance(guided, cond, "token", grow=True)
    np.testing.assert_allclose(got[0, :, :, 0], 0.5)
    np.testing.assert_allclose(got[0, 1, 0, 2], 0.5)
    assert np.count_nonzero(got) == 5
    rows = lm.renormalize_guidance(guided, cond, "row", grow=True)
    np.testing.assert_allclose(rows[0, :, :, 0], [[1.0, 0.5], [0.0, 0.0]])


@given(data=st.data())
def test_what_tcfg_removes_is_perpendicular_to_what_it_keeps(xp, dtype, to_numpy, data):
    """At scale 0 the result is the projection of the unconditional prediction."""
    uncond, cond = data.draw(strategies.paired(2, xp, dtype, SHAPE))
    kept = to_numpy(lm.tangential_guidance(uncond, cond, 0.0)).astype(np.float64)
    uncond = to_numpy(uncond)
    eps = float(np.finfo(uncond.dtype).eps)
    removed = uncond - kept
    size = lengths(uncond) + lengths(to_numpy(cond))
    assert (np.abs(inner(removed, kept)) <= 256 * eps * size**2 + 1e-30).all()


@pytest.mark.parametrize("factor", [-0.5, 0.25, 2.0])
def test_tcfg_of_parallel_predictions_is_classifier_free(factor):
    cond = np.random.default_rng(0).standard_normal((2, 6))
    got = lm.tangential_guidance(factor * cond, cond, 4.0)
    np.testing.assert_allclose(got, lm.classifier_free_guidance(factor * cond, cond, 4.0))


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_tcfg_of_tiny_and_huge_predictions_is_the_same(xp, dtype, to_numpy, size):
    pair = np.asarray([[[1.0, 2.0, 0.5]], [[2.0, 1.0, 0.0]]])
    uncond, cond = (xp.asarray(one, dtype=getattr(xp, dtype)) for one in pair)
    want = to_numpy(lm.tangential_guidance(uncond, cond, 3.0))
    got = to_numpy(lm.tangential_guidance(size * uncond, size * cond, 3.0))
    np.testing.assert_allclose(got / got.dtype.type(size), want, rtol=1e-5)


@given(data=st.data(), scale=SCALES, strength=st.integers(0, 40).map(lambda k: k / 4))
def test_magnitude_aware_is_between_conditional_and_classifier_free(
    xp, dtype, to_numpy, data, scale, strength
):
    uncond, cond = data.draw(strategies.paired(2, xp, dtype, SHAPE))
    got = to_numpy(lm.magnitude_aware_guidance(uncond, cond, scale, strength))
    full = to_numpy(lm.classifier_free_guidance(uncond, cond, scale))
    cond = to_numpy(cond)
    eps = float(np.finfo(got.dtype).eps)
    room = 16 * eps * (1 + abs(scale)) * (2e3 + np.abs(cond).max())
    low, high = np.minimum(full, cond), np.maximum(full, cond)
    assert (got >= low - room).all() and (got <= high + room).all()


def test_magnitude_aware_without_an_unconditional_prediction_is_conditional():
    cond = np.ones((1, 3))
    np.testing.assert_array_equal(lm.magnitude_aware_guidance(0 * cond, cond, 5.0), cond)
    np.testing.assert_array_equal(lm.magnitude_aware_guidance(0 * cond, 0 * cond, 5.0), 0 * cond)


@given(data=st.data(), scale=SCALES)
def test_normalised_attention_stays_within_its_bounds(xp, dtype, to_numpy, data, scale):
    positive, negative = data.draw(strategies.paired(2, xp, dtype, SHAPE))
    got = to_numpy(lm.normalized_attention_guidance(positive, negative, scale, 2.0, 0.5))
    positive = to_numpy(positive).astype(np.float64)
    eps = float(np.finfo(got.dtype).eps)
    size = np.linalg.norm(positive, axis=-1)
    moved = np.linalg.norm(got - positive, axis=-1)
    assert (moved <= 0.5 * (2.0 + 1.0) * size * (1 + 256 * eps) + 1e-30).all()


def test_normalised_attention_without_guidance_or_blend_is_the_positive_one():
    positive, negative = np.random.default_rng(0).standard_normal((2, 2, 3, 4))
    for options in ({"scale": 1.0}, {"scale": 5.0, "blend": 0.0}):
        got = lm.normalized_attention_guidance(positive, negative, **options)
        np.testing.assert_allclose(got, positive, rtol=1e-12)


def test_zero_star_beats_classifier_free_where_the_unconditional_model_is_too_weak():
    """An unconditional velocity that is damped, as an untrained network's: alpha undoes it."""
    problem = three_modes()
    s = 0.7
    xs = np.random.default_rng(0).standard_normal((64, 2))
    x0 = problem.denoise(xs / (1 - s), s / (1 - s))
    velocity = (xs - x0) / s
    for damping in (0.2, 3.0):
        for one in velocity:
            one = one[None]
            got = lm.zero_star_guidance(damping * one, one, 5.0)
            np.testing.assert_allclose(got, one, rtol=1e-12)
            assert not np.allclose(lm.classifier_free_guidance(damping * one, one, 5.0), one)
