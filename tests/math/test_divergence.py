"""Divergences against quadrature, matrices, and Monte Carlo with a stated bound.

Monte Carlo tests allow 5 standard errors: a right formula fails 1 seed in 1.7 million, and the
seeds are fixed.
"""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf
from scipy.stats import multivariate_normal, norm

from ldmref import math as lm
from ldmref.testing import strategies

mpmath.mp.dps = 50
ULP = float(np.finfo(np.float64).eps)
MODERATE = st.floats(-3, 3)
CASES = [(0.0, 0.0, 1.0, 0.5), (2.0, -3.0, -1.0, 1.0), (0.3, 2.0, 0.0, 0.0), (1.0, 1.0, 1.0, -1.0)]


def arrays(*numbers):
    return tuple(np.asarray(x) for x in numbers)


def log_density(x, mean, logvar):
    return norm(mean, np.exp(logvar / 2)).logpdf(x)


@given(MODERATE, MODERATE, MODERATE, MODERATE)
def test_kl_normal_equals_quadrature(mean1, logvar1, mean2, logvar2):
    x = mean1 + np.exp(logvar1 / 2) * np.linspace(-14, 14, 4001)
    log_p = log_density(x, mean1, logvar1)
    desired = (np.exp(log_p) * (log_p - log_density(x, mean2, logvar2))).sum() * (x[1] - x[0])
    got = lm.kl_normal(*arrays(mean1, logvar1, mean2, logvar2))
    np.testing.assert_allclose(got, desired, rtol=1e-10, atol=1e-10)


@given(data=st.data())
def test_kl_normal_equals_mpmath_within_its_stated_accuracy(
    xp, dtype, xp_assert_close, to_numpy, data
):
    mean1, logvar1, mean2, logvar2 = drawn = data.draw(strategies.paired(4, xp, dtype, (3,)))
    exact = []
    terms = []
    for m1, l1, m2, l2 in zip(*(map(mpf, map(float, to_numpy(z))) for z in drawn), strict=True):
        square = (m1 - m2) ** 2 * mpmath.exp(-l2)
        d = l1 - l2
        exact.append(float((l2 - l1 - 1 + mpmath.exp(d) + square) / 2))
        terms.append(float((4 + abs(d)) * (square + abs(d) + abs(mpmath.expm1(d)))))
    got = lm.kl_normal(mean1, logvar1, mean2, logvar2)
    xp_assert_close(got, np.asarray(exact), like=mean1, ulps=1, scale=np.asarray(terms))


@given(data=st.data())
def test_kl_standard_normal_equals_mpmath_within_its_stated_accuracy(
    xp, dtype, xp_assert_close, to_numpy, data
):
    mean, logvar = data.draw(strategies.gaussians(xp, dtype, (4,)))
    shrink = 10.0 ** -data.draw(st.integers(0, 12))  # towards N(0, 1), where digits cancel
    mean = mean * shrink
    logvar = logvar * shrink
    exact = []
    terms = []
    for m, v in zip(*(map(mpf, map(float, to_numpy(z))) for z in (mean, logvar)), strict=True):
        exact.append(float((m**2 + mpmath.expm1(v) - v) / 2))
        terms.append(float(m**2 + abs(v) + abs(mpmath.expm1(v))))
    got = lm.kl_standard_normal(mean, logvar)
    xp_assert_close(got, np.asarray(exact), like=mean, ulps=4, scale=np.asarray(terms))


@given(data=st.data())
def test_kl_standard_normal_is_kl_normal_against_0_and_1(xp, dtype, xp_assert_close, data):
    mean, logvar = data.draw(strategies.gaussians(xp, dtype))
    zero = xp.zeros_like(mean)
    general = lm.kl_normal(mean, logvar, zero, zero)
    xp_assert_close(lm.kl_standard_normal(mean, logvar), general, ulps=8)


@given(data=st.data())
def test_kl_is_positive_and_0_only_for_equals(xp, dtype, data):
    p, q = (data.draw(strategies.gaussians(xp, dtype, (2,), bound=4)) for _ in range(2))
    between = lm.kl_normal(*p, *q)
    same = (p[0] == q[0]) & (p[1] == q[1])
    assert xp.all((between > 0) | same) and xp.all((between == 0) | ~same)
    assert xp.all(lm.kl_normal(*p, *p) == 0)
    assert xp.all(lm.kl_standard_normal(xp.zeros((2,)), xp.zeros((2,))) == 0)


@given(MODERATE, MODERATE, MODERATE, MODERATE, MODERATE, MODERATE)
def test_kl_normal_ignores_a_common_shift_and_scale(m1, l1, m2, l2, shift, log_scale):
    before = lm.kl_normal(*arrays(m1, l1, m2, l2))
    scale = np.exp(log_scale / 2)
    moved = arrays(m1 * scale + shift, l1 + log_scale, m2 * scale + shift, l2 + log_scale)
    np.testing.assert_allclose(lm.kl_normal(*moved), before, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("seed", range(4))
def test_kl_normal_sums_to_the_divergence_of_vectors(seed):
    """With full covariance matrices, after a rotation that no elementwise formula knows of."""
    rng = np.random.default_rng(seed)
    m1, l1, m2, l2 = rng.uniform(-2, 2, (4, 5))
    turn = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    s1, s2 = (turn @ np.diag(np.exp(v)) @ turn.T for v in (l1, l2))
    gap = turn @ (m2 - m1)
    desired = 0.5 * (
        np.trace(np.linalg.solve(s2, s1))
        + gap @ np.linalg.solve(s2, gap)
        - 5
        + np.linalg.slogdet(s2)[1]
        - np.linalg.slogdet(s1)[1]
    )
    np.testing.assert_allclose(lm.kl_normal(m1, l1, m2, l2).sum(), desired, rtol=1e-11)


@pytest.mark.parametrize("case", CASES)
def test_kl_equals_monte_carlo(case):
    mean1, logvar1, mean2, logvar2 = case
    noise = np.random.default_rng(7).standard_normal(200_000)
    x = lm.reparameterize(np.full_like(noise, mean1), np.full_like(noise, logvar1), noise)
    p, q = (multivariate_normal(m, np.exp(v)) for m, v in ((mean1, logvar1), (mean2, logvar2)))
    ratio = p.logpdf(x) - q.logpdf(x)
    bound = 5 * ratio.std(ddof=1) / np.sqrt(ratio.size)
    assert abs(ratio.mean() - lm.kl_normal(*arrays(*case))) <= bound
    ratio = p.logpdf(x) - norm.logpdf(x)
    bound = 5 * ratio.std(ddof=1) / np.sqrt(ratio.size) + 8 * ULP
    assert abs(ratio.mean() - lm.kl_standard_normal(*arrays(mean1, logvar1))) <= bound


@pytest.mark.parametrize(("mean", "logvar"), [(0.0, 0.0), (-3.0, 2.0), (5.0, -4.0)])
def test_reparameterize_has_the_moments_it_is_given(mean, logvar):
    n = 200_000
    noise = np.random.default_rng(11).standard_normal(n)
    z = lm.reparameterize(np.full(n, mean), np.full(n, logvar), noise)
    variance = np.exp(logvar)
    assert abs(z.mean() - mean) <= 5 * np.sqrt(variance / n)
    assert abs(z.var(ddof=1) - variance) <= 5 * variance * np.sqrt(2 / n)


@given(data=st.data())
def test_reparameterize_equals_its_closed_form(xp, dtype, xp_assert_close, to_numpy, data):
    drawn = data.draw(strategies.paired(3, xp, dtype, (4,)))
    exact = []
    terms = []
    for m, v, e in zip(*(map(mpf, map(float, to_numpy(z))) for z in drawn), strict=True):
        spread = mpmath.exp(v / 2) * e
        exact.append(float(m + spread))
        terms.append(float(abs(m) + abs(spread)))
    got = lm.reparameterize(*drawn)
    xp_assert_close(got, np.asarray(exact), like=drawn[0], ulps=4, scale=np.asarray(terms))


@given(data=st.data())
def test_reparameterize_without_noise_is_the_mean(xp, dtype, xp_assert_close, data):
    mean, logvar = data.draw(strategies.gaussians(xp, dtype))
    xp_assert_close(lm.reparameterize(mean, logvar, xp.zeros_like(mean)), mean, ulps=0)


def test_reparameterize_lets_gradients_through():
    torch = pytest.importorskip("torch")
    mean, logvar = (torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (1.0, -2.0))
    lm.reparameterize(mean, logvar, torch.tensor([3.0], dtype=torch.float64)).sum().backward()
    np.testing.assert_allclose(mean.grad.numpy(), [1.0], rtol=1e-15)
    np.testing.assert_allclose(logvar.grad.numpy(), [1.5 * np.exp(-1.0)], rtol=1e-14)
