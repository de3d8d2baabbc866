"""Likelihoods and bounds against mpmath, and against a model whose log p(x) is known.

The model: z ~ N(0, 1), x | z ~ N(w z, s^2). Then x ~ N(0, w^2 + s^2), and z | x is also Gaussian.
Monte Carlo tests allow 5 standard errors.
"""

import itertools

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf
from scipy.stats import norm

from ldmref import math as lm
from ldmref.testing import strategies

mpmath.mp.dps = 50
TINY = st.floats(-2, 2)


def mp(array):
    return [mpf(float(v)) for v in np.asarray(array, np.float64).ravel()]


class LinearGaussian:
    """x is (n, 1), z is (n, 1); w = 1.5, s = 0.5."""

    w = 1.5
    s = 0.5

    def log_likelihood(self, x, z):
        return norm(self.w * z, self.s).logpdf(x)[..., 0]

    def expected_log_likelihood(self, x, mean, logvar):
        spread = self.w**2 * np.exp(logvar)
        gap = (x - self.w * mean) ** 2 + spread
        return (-0.5 * gap / self.s**2 - 0.5 * np.log(2 * np.pi * self.s**2))[..., 0]

    def evidence(self, x):
        return norm(0, np.hypot(self.w, self.s)).logpdf(x)[..., 0]

    def posterior(self, x):
        precision = 1 + self.w**2 / self.s**2
        mean = self.w * x / self.s**2 / precision
        return mean, np.full_like(mean, -np.log(precision))


MODEL = LinearGaussian()


@given(data=st.data())
def test_normal_log_density_equals_mpmath(xp, dtype, xp_assert_close, to_numpy, data):
    x, mean, logvar = drawn = data.draw(strategies.paired(3, xp, dtype, (3,)))
    want = []
    scale = []
    for v, m, l in zip(*(mp(to_numpy(z)) for z in drawn), strict=True):
        square = (v - m) ** 2 * mpmath.exp(-l)
        want.append(float(-(mpmath.log(2 * mpmath.pi) + l + square) / 2))
        scale.append(float((4 + abs(l)) * (1 + abs(l) + square)))
    got = lm.normal_log_density(x, mean, logvar)
    xp_assert_close(got, np.asarray(want), like=x, ulps=1, scale=np.asarray(scale))
    tall = xp.stack([x, x + 1.0])
    assert lm.normal_log_density(tall, mean, logvar).shape == (2, 3)


@given(data=st.data(), variance=st.sampled_from([None, 2.0**-9, 1.0, 3.0]))
def test_gaussian_log_likelihood_equals_mpmath(
    xp, dtype, xp_assert_close, to_numpy, data, variance
):
    x, mean = data.draw(strategies.paired(2, xp, dtype))
    d = int(np.prod(x.shape[1:]))
    v = mpf(variance or 1.0)
    want = []
    scale = []
    for a, b in zip(to_numpy(x), to_numpy(mean), strict=True):
        square = sum((s - t) ** 2 for s, t in zip(mp(a), mp(b), strict=True)) / (2 * v)
        constant = d * mpmath.log(2 * mpmath.pi * v) / 2
        want.append(float(-square - constant))
        scale.append((4 + d) * float(square + abs(constant)))
    got = lm.gaussian_log_likelihood(x, mean, *([variance] if variance else []))
    xp_assert_close(got, np.asarray(want), like=x, ulps=1, scale=np.asarray(scale))


@pytest.mark.parametrize("variance", [0.0, -1.0, float("nan")])
def test_a_variance_that_is_none_is_refused(variance):
    with pytest.raises(ValueError, match="variance must be positive"):
        lm.gaussian_log_likelihood(np.ones((1, 2)), np.ones((1, 2)), variance)


@given(data=st.data())
def test_bernoulli_log_likelihood_equals_mpmath(xp, dtype, xp_assert_close, to_numpy, data):
    logits = data.draw(strategies.arrays(strategies.shapes(1, 3), xp, dtype))
    x = 0.0625 * (data.draw(strategies.arrays(logits.shape, xp, dtype)) + 8.0)
    want = []
    scale = []
    for a, b in zip(to_numpy(x), to_numpy(logits), strict=True):
        ys = [1 / (1 + mpmath.exp(-l)) for l in mp(b)]
        terms = [
            p * mpmath.log(y) + (1 - p) * mpmath.log(1 - y) for p, y in zip(mp(a), ys, strict=True)
        ]
        want.append(float(sum(terms)))
        scale.append((4 + len(ys)) * float(sum(abs(l) + 1 for l in mp(b))))
    got = lm.bernoulli_log_likelihood(x, logits)
    xp_assert_close(got, np.asarray(want), like=x, ulps=1, scale=np.asarray(scale))


def test_bernoulli_probabilities_sum_to_one_and_never_overflow():
    logits = np.asarray([[0.3, -2.0, 4.0]])
    images = np.asarray(list(itertools.product([0.0, 1.0], repeat=3)))
    log_p = lm.bernoulli_log_likelihood(images, np.repeat(logits, 8, axis=0))
    assert np.exp(log_p).sum() == pytest.approx(1, rel=1e-14)
    far = lm.bernoulli_log_likelihood(
        np.asarray([[1.0], [0.0], [1.0]]), np.asarray([[1e4], [1e4], [-1e4]])
    )
    assert far.tolist() == [0.0, -1e4, -1e4]


@given(data=st.data())
def test_elbo_is_likelihood_less_divergence(xp, dtype, xp_assert_close, to_numpy, data):
    mean, logvar = data.draw(strategies.gaussians(xp, dtype, strategies.shapes(1, 3), 2))
    n = mean.shape[0]
    samples = data.draw(strategies.arrays((3, n), xp, dtype))
    want = []
    for i in range(n):
        pairs = zip(mp(to_numpy(mean)[i]), mp(to_numpy(logvar)[i]), strict=True)
        want.append(float(sum((m * m + mpmath.exp(l) - 1 - l) / 2 for m, l in pairs)))
    one = to_numpy(samples)[0].astype(float)
    average = to_numpy(samples).astype(float).mean(axis=0)
    scale = 10.0 + np.asarray(want)
    got = lm.elbo(samples[0, :], mean, logvar)
    xp_assert_close(got, one - want, like=mean, ulps=32, scale=scale)
    got = lm.elbo(samples, mean, logvar, 0.5)
    xp_assert_close(got, average - 0.5 * np.asarray(want), like=mean, ulps=32, scale=scale)


@given(x=TINY, mean=TINY, logvar=TINY)
def test_the_bound_misses_the_evidence_by_the_divergence_from_the_posterior(x, mean, logvar):
    x, mean, logvar = (np.asarray([[v]]) for v in (x, mean, logvar))
    bound = lm.elbo(MODEL.expected_log_likelihood(x, mean, logvar), mean, logvar)
    gap = lm.kl_normal(mean, logvar, *MODEL.posterior(x)).sum(axis=1)
    np.testing.assert_allclose(MODEL.evidence(x) - bound, gap, rtol=1e-10, atol=1e-12)
    assert bound <= MODEL.evidence(x) + 1e-12


@given(x=TINY, mean=TINY, logvar=TINY)
def test_estimates_average_to_the_bound(x, mean, logvar):
    """Noise of +-1 has the moments of the normal up to the third, and the estimate is quadratic."""
    x, mean, logvar = (np.asarray([[v]]) for v in (x, mean, logvar))
    estimates = [
        lm.elbo_estimate(x, np.asarray([[e]]), lambda x: (mean, logvar), MODEL.log_likelihood)
        for e in (1.0, -1.0)
    ]
    bound = lm.elbo(MODEL.expected_log_likelihood(x, mean, logvar), mean, logvar)
    np.testing.assert_allclose(np.mean(estimates, axis=0), bound, rtol=1e-12, atol=1e-12)


def test_elbo_estimate_hands_the_image_to_encoder_and_decoder():
    seen = []
    x = np.asarray([[3.0]])
    noise = np.asarray([[0.5]])

    def encode(x):
        seen.append(x)
        return 2 * x, np.log(np.asarray([[4.0]]))

    def log_likelihood(x, z):
        seen.extend([x, z])
        return np.asarray([-1.0])

    got = lm.elbo_estimate(x, noise, encode, log_likelihood)
    assert seen[0] is x and seen[1] is x and seen[2] == pytest.approx(7.0)
    assert got == pytest.approx(-1 - 0.5 * (36 + 4 - 1 - np.log(4)))


@given(data=st.data())
def test_log_importance_weight_equals_mpmath(xp, dtype, xp_assert_close, to_numpy, data):
    mean, logvar = data.draw(strategies.gaussians(xp, dtype, (2, 2), 2))
    z = data.draw(strategies.arrays((3, 2, 2), xp, dtype, 2))
    log_p = data.draw(strategies.arrays((3, 2), xp, dtype))
    want = to_numpy(log_p).astype(float)
    for k, i, j in np.ndindex(3, 2, 2):
        v, m, l = (
            mpf(float(a))
            for a in (to_numpy(z)[k, i, j], to_numpy(mean)[i, j], to_numpy(logvar)[i, j])
        )
        want[k, i] += float((l + (v - m) ** 2 * mpmath.exp(-l) - v**2) / 2)
    got = lm.log_importance_weight(log_p, z, mean, logvar)
    xp_assert_close(got, want, like=z, ulps=64, scale=60.0)
    one = lm.log_importance_weight(log_p[0, :], z[0, ...], mean, logvar)
    xp_assert_close(one, got[0, :], ulps=8, scale=60.0)


@given(x=TINY, z=st.lists(TINY, min_size=1, max_size=5))
def test_with_the_posterior_every_weight_is_the_evidence(x, z):
    x = np.asarray([[x]])
    z = np.asarray(z)[:, None, None]
    log_w = lm.log_importance_weight(MODEL.log_likelihood(x, z), z, *MODEL.posterior(x))
    np.testing.assert_allclose(log_w, np.full_like(log_w, MODEL.evidence(x)[0]), rtol=1e-11)
    np.testing.assert_allclose(lm.iwae_bound(log_w), MODEL.evidence(x), rtol=1e-11)


@given(data=st.data(), shift=st.sampled_from([0.0, 1e4, -1e4]))
def test_iwae_bound_equals_mpmath_without_overflow(
    xp, dtype, xp_assert_close, to_numpy, data, shift
):
    k = data.draw(st.integers(1, 4))
    log_w = data.draw(strategies.arrays((k, 2), xp, dtype)) + shift
    columns = [mp(to_numpy(log_w)[:, i]) for i in range(2)]
    want = [float(mpmath.log(sum(map(mpmath.exp, c)) / k)) for c in columns]
    scale = [(4 + k) * (1 + float(max(map(abs, c)))) for c in columns]
    got = lm.iwae_bound(log_w)
    xp_assert_close(got, np.asarray(want), like=log_w, ulps=1, scale=np.asarray(scale))
    slack = 16 * float(xp.finfo(log_w.dtype).eps) * (9 + abs(shift))
    assert xp.all(got >= xp.mean(log_w, axis=0) - slack)  # Jensen


def test_weights_far_apart_do_not_overflow():
    with np.errstate(over="raise"):
        bound = lm.iwae_bound(np.asarray([[1e4, 0.0], [-1e4, 0.0]]))
    np.testing.assert_allclose(bound, [1e4 - np.log(2), 0.0], rtol=1e-15)


def test_bounds_rise_with_the_number_of_samples_to_the_evidence():
    """100 000 samples from a q that is not the posterior."""
    x, mean, logvar = (np.asarray([[v]]) for v in (1.0, 0.2, -0.5))
    n = 100_000
    noise = np.random.default_rng(5).standard_normal((n, 1, 1))
    z = lm.reparameterize(mean, logvar, noise)
    log_w = lm.log_importance_weight(MODEL.log_likelihood(x, z), z, mean, logvar)[:, 0]
    bounds = {k: lm.iwae_bound(log_w.reshape(k, n // k)) for k in (1, 4, 100)}
    errors = {k: b.std(ddof=1) / np.sqrt(b.size) for k, b in bounds.items()}
    elbo = lm.elbo(MODEL.expected_log_likelihood(x, mean, logvar), mean, logvar)[0]
    evidence = MODEL.evidence(x)[0]
    assert abs(bounds[1].mean() - elbo) <= 5 * errors[1]
    assert elbo + 0.1 < bounds[4].mean() - 5 * errors[4]
    assert bounds[4].mean() + 5 * errors[4] < bounds[100].mean() - 5 * errors[100]
    assert bounds[100].mean() <= evidence + 5 * errors[100]
    w = np.exp(log_w)
    assert abs(w.mean() - np.exp(evidence)) <= 5 * w.std(ddof=1) / np.sqrt(n)


def test_importance_weights_sum_over_the_elements_of_one_sample():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((4, 3, 2))
    mean = rng.standard_normal((3, 2))
    logvar = np.zeros((3, 2))
    got = lm.log_importance_weight(np.zeros((4, 3)), z, mean, logvar)
    want = 0.5 * ((z - mean) ** 2 - z**2).sum(axis=-1)
    np.testing.assert_allclose(got, want, rtol=1e-12)
