"""Guidance: exact at its two fixed points, affine between, and with the contrast it promises."""

import statistics
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ldmref import math as lm
from ldmref.testing import strategies

SCALES = st.integers(-80, 240).map(lambda k: k / 8)


@given(data=st.data())
def test_guidance_is_exact_at_0_and_1(xp, dtype, xp_assert_close, data):
    uncond, cond = data.draw(strategies.paired(2, xp, dtype))
    uncond = uncond / 3  # all digits in use
    xp_assert_close(lm.classifier_free_guidance(uncond, cond, 0.0), uncond, ulps=0)
    xp_assert_close(lm.classifier_free_guidance(uncond, cond, 1.0), cond, ulps=0)


@given(data=st.data(), scale=SCALES)
def test_guidance_equals_the_paper_s_form(xp, dtype, xp_assert_close, to_numpy, data, scale):
    """(1 + w) cond - w uncond with w = scale - 1, in exact rational arithmetic."""
    uncond, cond = data.draw(strategies.paired(2, xp, dtype, (3,)))
    w = Fraction(scale) - 1
    exact = []
    size = []
    for u, c in zip(*(map(Fraction, map(float, to_numpy(z))) for z in (uncond, cond)), strict=True):
        exact.append(float((1 + w) * c - w * u))
        size.append(float(abs(u) + abs(Fraction(scale) * (c - u))))
    got = lm.classifier_free_guidance(uncond, cond, scale)
    xp_assert_close(got, np.asarray(exact), like=uncond, ulps=3, scale=np.asarray(size))


@given(data=st.data(), scale=SCALES)
def test_guidance_leaves_agreement_alone(xp, dtype, xp_assert_close, data, scale):
    both = data.draw(strategies.arrays(strategies.shapes(), xp, dtype))
    xp_assert_close(lm.classifier_free_guidance(both, both, scale), both, ulps=0)


@given(data=st.data(), scale=SCALES)
def test_guiding_either_prediction_gives_the_same(xp, dtype, xp_assert_close, data, scale):
    """eps guided, then turned into x0, is x0 guided."""
    xt, uncond, cond = data.draw(strategies.paired(3, xp, dtype))
    late = lm.x0_from_eps(xt, lm.classifier_free_guidance(uncond, cond, scale), 0.5)
    early = lm.classifier_free_guidance(
        lm.x0_from_eps(xt, uncond, 0.5), lm.x0_from_eps(xt, cond, 0.5), scale
    )
    xp_assert_close(late, early, ulps=16, scale=1000.0)


@st.composite
def guided(draw, xp, dtype):
    """Return (guided, cond) of shape (2, 2, 3), no sample constant."""
    pair = draw(strategies.paired(2, xp, dtype, (2, 2, 3)))
    for x in pair:
        assume(all(float(xp.max(row) - xp.min(row)) > 0.5 for row in (x[0, ...], x[1, ...])))
    return pair


@given(data=st.data(), phi=st.integers(0, 16).map(lambda k: k / 16))
def test_rescaled_guidance_has_the_promised_contrast(
    xp, dtype, xp_assert_close, to_numpy, data, phi
):
    """Each sample's standard deviation is mixed from both; the reference is Python's statistics."""
    x, cond = data.draw(guided(xp, dtype))
    got = lm.rescale_guidance(x, cond, phi)
    assert got.shape == x.shape and got.dtype == x.dtype
    for row, row_x, row_cond in zip(*map(to_numpy, (got, x, cond)), strict=True):
        std, before, target = (
            statistics.stdev(map(float, z.reshape(-1))) for z in (row, row_x, row_cond)
        )
        bound = 64 * float(np.finfo(row.dtype).eps) * (target + before)
        assert abs(std - (phi * target + (1 - phi) * before)) <= bound
        factor = (phi * target + (1 - phi) * before) / before
        desired = factor * row_x.astype(np.float64)
        xp_assert_close(row, desired, like=row, ulps=64, scale=abs(row_x))


@given(data=st.data())
def test_rescaled_guidance_at_0_is_untouched(xp, dtype, xp_assert_close, data):
    x, cond = data.draw(strategies.paired(2, xp, dtype, (2, 3)))  # constant samples too
    xp_assert_close(lm.rescale_guidance(x, cond, 0.0), x, ulps=0)


@given(data=st.data(), k=st.integers(1, 9))
def test_fully_rescaled_guidance_forgets_the_guided_contrast(xp, dtype, xp_assert_close, data, k):
    x, cond = data.draw(guided(xp, dtype))
    once = lm.rescale_guidance(x, cond, 1.0)
    xp_assert_close(lm.rescale_guidance(k * x, cond, 1.0), once, ulps=32, scale=abs(once))
    again = lm.rescale_guidance(once, cond, 1.0)
    xp_assert_close(again, once, ulps=64, scale=abs(once))


def spoiled(rows, dtype, xp):
    return xp.asarray(np.asarray(rows), dtype=getattr(xp, dtype))


def test_guidance_without_contrast_stays_as_it_is(xp, dtype, xp_assert_close, to_numpy):
    """Zeros, and constants whose standard deviation is rounding only; never NaN or infinity."""
    x = spoiled([np.zeros(1000), np.full(1000, 0.1), np.full(1000, 1e3 / 3)], dtype, xp)
    cond = spoiled(np.linspace(-1, 1, 3000).reshape(3, 1000), dtype, xp)
    for phi in (0.7, 1.0):
        xp_assert_close(lm.rescale_guidance(x, cond, phi), x, ulps=0)
    # next to a sample with contrast, which is scaled
    x = xp.concat([x[:1, ...], 4 * cond[:1, ...]])
    got = lm.rescale_guidance(x, cond[:1, ...] + 0 * x, 1.0)
    xp_assert_close(got[0, :], x[0, :], ulps=0)
    xp_assert_close(got[1, :], cond[0, :], ulps=32)


@pytest.mark.parametrize(("steps", "scaled"), [(8, False), (31, False), (33, True), (256, True)])
def test_contrast_is_what_exceeds_16_units_of_rounding(xp, dtype, to_numpy, steps, scaled):
    """A standard deviation of half of `steps` ulp of the largest number; 16 are not contrast."""
    eps = float(xp.finfo(getattr(xp, dtype)).eps)
    x = spoiled([[-1.0 + steps * eps, -1.0] * 50], dtype, xp)
    cond = spoiled([[-1.0, 1.0] * 50], dtype, xp)
    got = to_numpy(lm.rescale_guidance(x, cond, 1.0))
    assert (got != to_numpy(x)).any() == scaled and np.all(np.isfinite(got))


@pytest.mark.parametrize("shape", [(3,), (3, 1), (2, 1, 1)])
def test_a_single_number_has_no_contrast(xp, dtype, xp_assert_close, shape):
    x = xp.ones(shape, dtype=getattr(xp, dtype))
    xp_assert_close(lm.rescale_guidance(x, 3 * x, 1.0), x, ulps=0)


def test_two_numbers_have_contrast(xp, dtype, xp_assert_close):
    x = spoiled([[-2.0, 4.0]], dtype, xp)
    cond = spoiled([[1.0, 2.0]], dtype, xp)
    xp_assert_close(lm.rescale_guidance(x, cond, 1.0), x / 6, ulps=8)


@given(data=st.data(), scale=SCALES)
def test_guidance_is_classifier_guidance_by_the_implicit_classifier(
    xp, dtype, xp_assert_close, data, scale
):
    """Bayes: the score of p(x) p(y | x)^s, with p(y | x) = p(x | y) p(y) / p(x)."""
    uncond, cond = data.draw(strategies.paired(2, xp, dtype))
    gradient = lm.implicit_classifier(cond, uncond)
    bayes = lm.classifier_guidance(uncond, gradient, scale)
    xp_assert_close(
        lm.classifier_free_guidance(uncond, cond, scale), bayes, ulps=4, scale=32 * abs(scale) + 8
    )


def test_contrast_is_measured_example_by_example():
    """A huge neighbour in the batch does not make a faint example constant."""
    faint = np.asarray([[1e-6, -1e-6, 2e-6]])
    guided = np.concatenate([faint, 1e12 + 1e11 * faint * 1e6])
    cond = np.concatenate([3.0 * faint, guided[1:]])
    got = lm.rescale_guidance(guided, cond, 1.0)
    np.testing.assert_allclose(got[0], 3.0 * faint[0], rtol=1e-12)
    np.testing.assert_allclose(got[1], guided[1], rtol=1e-12)


def test_only_the_constant_example_of_a_batch_stays():
    guided = np.asarray([[5.0, 5.0, 5.0], [1.0, 2.0, 3.0]])
    cond = np.asarray([[0.0, 1, 2]] * 2)
    got = lm.rescale_guidance(guided, cond, 1.0)
    np.testing.assert_allclose(got, [[5, 5, 5], [1, 2, 3]])
    np.testing.assert_allclose(lm.rescale_guidance(guided, 2 * cond, 1.0)[1], [2, 4, 6])
