"""EDM's preconditioning against mpmath, against what it promises, and against v-prediction."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf

from ldmref import math as lm
from ldmref.testing import strategies

mpmath.mp.dps = 50
SCALES = strategies.sigma_values(2.0**-6, 2.0**6)


@given(data=st.data(), sigma_data=SCALES)
def test_preconditioning_equals_mpmath(xp, dtype, xp_assert_close, to_numpy, data, sigma_data):
    drawn = data.draw(st.lists(SCALES, min_size=1, max_size=3))
    sigma = xp.asarray(drawn, dtype=getattr(xp, dtype))
    got = lm.edm_preconditioning(sigma, sigma_data)
    d = mpf(sigma_data)
    exact = {
        "c_skip": lambda s: d**2 / (s**2 + d**2),
        "c_out": lambda s: s * d / mpmath.sqrt(s**2 + d**2),
        "c_in": lambda s: 1 / mpmath.sqrt(s**2 + d**2),
        "c_noise": lambda s: mpmath.log(s) / 4,
    }
    assert got._fields == tuple(exact)
    for name, formula in exact.items():
        want = np.asarray([float(formula(mpf(v))) for v in drawn])
        xp_assert_close(getattr(got, name), want, like=sigma, ulps=6)


@given(data=st.data(), sigma_data=SCALES)
def test_loss_weight_equals_mpmath(xp, dtype, xp_assert_close, data, sigma_data):
    drawn = data.draw(st.lists(SCALES, min_size=1, max_size=3))
    sigma = xp.asarray(drawn, dtype=getattr(xp, dtype))
    d = mpf(sigma_data)
    want = np.asarray([float((mpf(s) ** 2 + d**2) / (mpf(s) * d) ** 2) for s in drawn])
    xp_assert_close(lm.edm_loss_weight(sigma, sigma_data), want, like=sigma, ulps=6)


@given(SCALES, SCALES)
def test_python_numbers_give_python_numbers(sigma, sigma_data):
    alone = lm.edm_preconditioning(sigma, sigma_data)
    each = lm.edm_preconditioning(np.asarray([sigma]), sigma_data)
    assert all(isinstance(c, float) for c in alone)
    np.testing.assert_allclose(alone, [c[0] for c in each], rtol=1e-14)
    np.testing.assert_allclose(
        lm.edm_loss_weight(sigma, sigma_data), 1 / alone.c_out**2, rtol=1e-13
    )


def test_data_have_standard_deviation_one_half_unless_said_otherwise():
    x = np.asarray([[2.0]])

    def network(y, c):
        return 3.0 * y + c

    assert lm.edm_preconditioning(0.7) == lm.edm_preconditioning(0.7, 0.5)
    assert lm.edm_denoise(network, x, 0.7) == lm.edm_denoise(network, x, 0.7, 0.5)
    assert lm.edm_target(0.5 * x, x, 0.7) == lm.edm_target(0.5 * x, x, 0.7, 0.5)
    assert lm.edm_loss_weight(0.7) == lm.edm_loss_weight(0.7, 0.5)


@given(SCALES, SCALES)
def test_preconditioning_keeps_its_promises(sigma, sigma_data):
    """Karras et al., appendix B.6: input and target of variance 1, F's error amplified least."""
    c = lm.edm_preconditioning(sigma, sigma_data)
    data = sigma_data**2
    noise = sigma**2
    np.testing.assert_allclose(c.c_in**2 * (data + noise), 1, rtol=1e-14)
    target = ((1 - c.c_skip) ** 2 * data + c.c_skip**2 * noise) / c.c_out**2
    np.testing.assert_allclose(target, 1, rtol=1e-11)
    for other in (c.c_skip - 0.01, c.c_skip + 0.01):
        assert (1 - other) ** 2 * data + other**2 * noise > c.c_out**2
    np.testing.assert_allclose(lm.edm_loss_weight(sigma, sigma_data) * c.c_out**2, 1, rtol=1e-13)


@given(data=st.data(), sigma_data=SCALES)
def test_denoiser_feeds_the_network_and_mixes_its_answer(
    xp, dtype, xp_assert_close, to_numpy, data, sigma_data
):
    x, answer = data.draw(strategies.paired(2, xp, dtype))
    drawn = data.draw(st.lists(SCALES, min_size=x.shape[0], max_size=x.shape[0]))
    sigma = xp.asarray(drawn, dtype=x.dtype)
    seen = []
    got = lm.edm_denoise(lambda y, c: seen.append((y, c)) or answer, x, sigma, sigma_data)
    level = np.asarray(drawn).reshape((-1,) + (1,) * (x.ndim - 1))
    total = np.sqrt(level**2 + sigma_data**2)
    wide, wide_answer = (to_numpy(z).astype(np.float64) for z in (x, answer))
    ((scaled, noise),) = seen
    xp_assert_close(scaled, wide / total, like=x, ulps=8)
    xp_assert_close(noise, np.log(drawn) / 4, like=x, ulps=8)
    terms = sigma_data**2 / total**2 * wide, level * sigma_data / total * wide_answer
    xp_assert_close(got, terms[0] + terms[1], like=x, ulps=8, scale=abs(terms[0]) + abs(terms[1]))


@given(data=st.data(), sigma_data=SCALES)
def test_a_network_that_hits_its_target_denoises(xp, dtype, xp_assert_close, data, sigma_data):
    x0, eps = data.draw(strategies.paired(2, xp, dtype))
    sigma = xp.asarray(
        data.draw(st.lists(SCALES, min_size=x0.shape[0], max_size=x0.shape[0])), dtype=x0.dtype
    )
    x = x0 + xp.reshape(sigma, (-1,) + (1,) * (x0.ndim - 1)) * eps
    target = lm.edm_target(x0, x, sigma, sigma_data)
    got = lm.edm_denoise(lambda y, c: target, x, sigma, sigma_data)
    xp_assert_close(got, x0, ulps=16, scale=abs(x0) + abs(x))


@given(data=st.data())
def test_with_unit_data_the_network_predicts_minus_v(xp, dtype, xp_assert_close, data):
    """c_in x is the variance-preserving x_t, and the target is -v: EDM is the same family."""
    x0, eps, a = data.draw(strategies.diffusions(xp, dtype, 0.05, 0.95))
    sigma = lm.sigma_from_alpha_bar(a)
    x = x0 + xp.reshape(sigma, (-1,) + (1,) * (x0.ndim - 1)) * eps
    xp_assert_close(
        lm.edm_target(x0, x, sigma, 1.0), -lm.v_from_x0_eps(x0, eps, a), ulps=64, scale=32.0
    )
    seen = []
    lm.edm_denoise(lambda y, c: seen.append(y) or y, x, sigma, 1.0)
    xp_assert_close(seen[0], lm.q_sample(x0, a, eps), ulps=16, scale=32.0)


@given(SCALES)
def test_loss_weight_of_unit_data_is_one_more_than_the_snr(sigma):
    weight = lm.edm_loss_weight(sigma, 1.0)
    np.testing.assert_allclose(weight, 1 + lm.snr(lm.alpha_bar_from_sigma(sigma)), rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_gaussian_data_are_denoised_by_a_constant_network(seed):
    """For x0 ~ N(m, sigma_data^2), E[x0 | x] = m + c_skip (x - m): F need not look at x."""
    rng = np.random.default_rng(seed)
    mean = rng.normal()
    sigma_data = rng.uniform(0.2, 2)
    sigma = rng.uniform(0.2, 2)
    x = rng.standard_normal((6, 2))
    precision = 1 / sigma_data**2 + 1 / sigma**2
    exact = (mean / sigma_data**2 + x / sigma**2) / precision
    c = lm.edm_preconditioning(sigma, sigma_data)
    got = lm.edm_denoise(lambda y, _: (1 - c.c_skip) / c.c_out * mean + 0 * y, x, sigma, sigma_data)
    np.testing.assert_allclose(got, exact, rtol=1e-12)


def test_levels_of_another_length_are_refused(xp):
    x = xp.ones((3, 4))
    for bad in (xp.ones((2,)), xp.ones((3, 1))):
        with pytest.raises(ValueError, match="does not fit"):
            lm.edm_denoise(lambda y, c: y, x, bad)
        with pytest.raises(ValueError, match="does not fit"):
            lm.edm_target(x, x, bad)
