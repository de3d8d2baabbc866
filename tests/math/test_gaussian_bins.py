"""Discretised likelihoods against mpmath; every pixel value counted, they add up to one."""

import functools

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf
from scipy.special import log_ndtr

from ldmref import math as lm

N = 240


def values(bins):
    return 2 * np.arange(bins) / (bins - 1) - 1


@functools.cache
def draws(dtype, bins):
    """(x, mean, logvar) in `dtype`, far and near, narrow and wide; and their log-probabilities."""
    rng = np.random.default_rng(bins)
    logvar = rng.uniform(-16, 4, N).astype(dtype)
    x = values(bins)[rng.integers(0, bins, N)].astype(dtype)
    x[:8] = -1
    x[8:16] = 1
    mean = rng.uniform(-1.5, 1.5, N).astype(dtype)
    near = rng.random(N) < 0.7
    mean[near] = (x + np.exp(logvar / 2) * rng.uniform(-4, 4, N))[near]
    rows = zip(x, mean, logvar, strict=True)
    return x, mean, logvar, np.asarray([exact(*map(float, row), bins) for row in rows])


def exact(x, mean, logvar, bins):
    with mpmath.workdps(60):
        half = mpf(1) / (bins - 1)
        scale = mpmath.exp(mpf(logvar) / 2) * mpmath.sqrt(2)
        low = (mpf(x) - half - mpf(mean)) / scale
        high = (mpf(x) + half - mpf(mean)) / scale
        low = -mpmath.inf if x == -1 else low
        high = mpmath.inf if x == 1 else high
        if low > 0:
            return float(mpmath.log((mpmath.erfc(low) - mpmath.erfc(high)) / 2))
        return float(mpmath.log((mpmath.erfc(-high) - mpmath.erfc(-low)) / 2))


@pytest.mark.parametrize("bins", [256, 2, 3, 17])
def test_log_likelihood_equals_mpmath(xp, dtype, xp_assert_close, bins):
    x, mean, logvar, desired = draws(dtype, bins)
    z = (np.abs(x - mean) + 1 / (bins - 1)) * np.exp(-0.5 * logvar)
    arrays = [xp.asarray(a, dtype=getattr(xp, dtype)) for a in (x, mean, logvar)]
    with np.errstate(divide="raise", over="raise", invalid="raise"):  # in neither branch
        got = lm.discretized_gaussian_log_likelihood(*arrays, bins)
    size = 1 + np.abs(logvar) + z * z
    xp_assert_close(got, desired, like=arrays[0], ulps=8, scale=size)


@pytest.mark.parametrize("bins", [2, 3, 16, 256])
@given(mean=st.floats(-3, 3), logvar=st.floats(-8, 6))
def test_probabilities_add_up_to_one(xp, dtype, to_numpy, bins, mean, logvar):
    x = xp.asarray(values(bins), dtype=getattr(xp, dtype))
    got = lm.discretized_gaussian_log_likelihood(x, mean + 0 * x, logvar + 0 * x, bins)
    assert xp.all(got <= 0)
    # log p is within 12 ulp of |log p|, whose mean is below log 256; centres rounded by ulp / 2 are
    # off by 27 ulp of the smallest sigma; exp and the precision add less than 20 ulp
    tolerance = 128 * np.finfo(dtype).eps
    assert abs(np.exp(to_numpy(got).astype(float)).sum() - 1) < tolerance


@given(st.integers(0, 255), st.floats(-2, 2), st.floats(-16, 4))
def test_likelihood_is_symmetric(k, mean, logvar):
    x, mean, logvar = (np.asarray([z]) for z in (values(256)[k], mean, logvar))
    size = 1 + abs(logvar) + (abs(x - mean) + 1 / 255) ** 2 * np.exp(-logvar)
    there, back = (lm.discretized_gaussian_log_likelihood(s * x, s * mean, logvar) for s in (1, -1))
    assert abs(there - back) <= 16 * np.finfo(float).eps * size


def test_there_are_256_pixel_values_and_the_outer_ones_are_open():
    mean = np.asarray([[-3.0], [0.3], [5.0]])
    logvar = np.asarray([-2.0])
    x = values(256)
    got = lm.discretized_gaussian_log_likelihood(x, mean, logvar)
    assert got.shape == (3, 256)
    scale = np.exp(-1.0)
    np.testing.assert_allclose(got[:, 0], log_ndtr((x[0] + 1 / 255 - mean[:, 0]) / scale), 1e-13)
    np.testing.assert_allclose(got[:, -1], log_ndtr((mean[:, 0] - x[-1] + 1 / 255) / scale), 1e-13)


@pytest.mark.parametrize("bins", [1, 0, -3])
def test_fewer_than_two_values_are_refused(bins):
    x = np.zeros(1)
    with pytest.raises(ValueError, match="at least 2"):
        lm.discretized_gaussian_log_likelihood(x, x, x, bins)
    assert lm.discretized_gaussian_log_likelihood(x + 1, x, x, 2) == np.log(0.5)


def test_gradients_are_finite_and_right_on_every_branch():
    torch = pytest.importorskip("torch")
    mean = torch.tensor([-1.0, 0.9, 0.1, 0.5, 0.0], dtype=torch.float64, requires_grad=True)
    logvar = torch.tensor([-3.0, -9.0, -2.0, -12.0, -16.0], dtype=torch.float64, requires_grad=True)
    x = torch.tensor(values(256)[[0, 255, 130, 190, 250]])
    lm.discretized_gaussian_log_likelihood(x, mean, logvar).sum().backward()

    def total(m, v):
        return np.asarray(lm.discretized_gaussian_log_likelihood(x.numpy(), m, v))

    m = mean.detach().numpy()
    v = logvar.detach().numpy()
    h = 1e-6
    by_mean = (total(m + h, v) - total(m - h, v)) / (2 * h)
    by_logvar = (total(m, v + h) - total(m, v - h)) / (2 * h)
    np.testing.assert_allclose(mean.grad.numpy(), by_mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(logvar.grad.numpy(), by_logvar, rtol=1e-5, atol=1e-7)


@given(st.floats(0.1, 20), st.integers(1, 10**6))
def test_bits_per_dimension_undoes_the_code_length(bits, dimensions):
    nats = dimensions * bits * np.log(2)
    np.testing.assert_allclose(lm.bits_per_dimension(nats, dimensions), bits, rtol=1e-15)


def test_equally_likely_bytes_cost_eight_bits(xp, dtype, xp_assert_close):
    nats = xp.asarray([3 * 8 * np.log(2.0), 0.0], dtype=getattr(xp, dtype))
    desired = np.asarray([8.0, 0.0])
    xp_assert_close(lm.bits_per_dimension(nats, 3), desired, like=nats, ulps=2)
