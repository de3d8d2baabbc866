"""Plain, denoising and sparse autoencoders against loops, mpmath and an analytic denoiser."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf
from scipy.special import rel_entr

from ldmref import math as lm
from ldmref.testing import strategies
from ldmref.testing.mixture import Mixture

mpmath.mp.dps = 50
TURN = np.asarray([[1.0, 2.0, -1.0], [0.5, 0.0, 4.0]])  # (2, 3): an encoder, transposed a decoder
P = st.integers(0, 1024).map(lambda k: k / 1024)
Q = st.integers(1, 1023).map(lambda k: k / 1024)


def linear(matrix, like):
    from array_api_compat import array_namespace

    matrix = array_namespace(like).asarray(matrix.tolist(), dtype=like.dtype)
    return lambda x: x @ matrix


@given(data=st.data())
def test_squared_error_and_l1_sparsity_equal_loops(xp, dtype, xp_assert_close, to_numpy, data):
    x, y = data.draw(strategies.paired(2, xp, dtype))
    n = x.shape[0]
    a, b = (to_numpy(z).astype(np.longdouble).reshape(n, -1) for z in (x, y))
    square = np.zeros(n, np.longdouble)
    size = np.zeros(n, np.longdouble)
    for i in range(n):
        for u, v in zip(a[i], b[i], strict=True):
            square[i] += (u - v) ** 2
            size[i] += abs(u)
    ulps = 2 + a.shape[1]
    xp_assert_close(lm.squared_error(x, y), square.astype(float), like=x, ulps=ulps)
    xp_assert_close(lm.l1_sparsity(x), size.astype(float), like=x, ulps=ulps)


@given(data=st.data())
def test_losses_go_through_the_bottleneck(xp, dtype, xp_assert_close, to_numpy, data):
    x, corrupted = data.draw(strategies.paired(2, xp, dtype, (2, 3)))
    encode = linear(TURN.T, x)
    decode = linear(TURN, x)
    clean, dirty = (to_numpy(z).astype(np.float64) for z in (x, corrupted))
    for got, seen in (
        (lm.autoencoder_loss(x, encode, decode), clean),
        (lm.denoising_loss(x, corrupted, encode, decode), dirty),
    ):
        want = [sum((clean[i] - TURN.T @ (TURN @ seen[i])) ** 2) for i in range(2)]
        # products with TURN have at most 20 bits and are exact; only squares and their sum round
        xp_assert_close(got, np.asarray(want), like=x, ulps=5)


def test_the_best_denoiser_is_the_posterior_mean():
    """E L(h) - E L(best) = E |h - best|^2 for every h; 5 standard errors, 20 000 samples."""
    mixture = Mixture(np.asarray([0.3, 0.7]), np.asarray([[2.0, 0], [-1, 1]]), np.asarray([0.3, 1]))
    rng = np.random.default_rng(3)
    sigma = 0.8
    x = mixture.sample(20_000, rng)
    seen = lm.gaussian_corruption(x, rng.standard_normal(x.shape), sigma)

    def best(z):
        return mixture.denoise(z, sigma)

    same = lm.denoising_loss(x, seen, lambda z: z, best)
    for other in (lambda z: z, lambda z: 0.9 * best(z), lambda z: best(z) + 0.1):
        distance = ((other(seen) - best(seen)) ** 2).sum(axis=1)
        surplus = lm.denoising_loss(x, seen, lambda z: z, other) - same - distance
        assert abs(surplus.mean()) <= 5 * surplus.std(ddof=1) / np.sqrt(surplus.size)
        assert distance.mean() > 0.01


@given(data=st.data(), sigma=st.integers(0, 64).map(lambda k: k / 8))
def test_gaussian_corruption_equals_its_closed_form(
    xp, dtype, xp_assert_close, to_numpy, data, sigma
):
    x, noise = data.draw(strategies.paired(2, xp, dtype))
    a, b = (to_numpy(z).astype(np.longdouble) for z in (x, noise))
    scale = (abs(a) + abs(sigma * b)).astype(float)
    got = lm.gaussian_corruption(x, noise, sigma)
    xp_assert_close(got, (a + sigma * b).astype(float), like=x, ulps=2, scale=scale)


@given(data=st.data(), fraction=st.floats(0, 1))
def test_masking_loses_the_elements_with_the_smallest_noise(xp, dtype, to_numpy, data, fraction):
    shape = data.draw(strategies.shapes(2, 3))
    size = int(np.prod(shape[1:]))
    rows = [data.draw(st.permutations(range(size))) for _ in range(shape[0])]
    noise = xp.asarray(np.reshape(rows, shape).tolist(), dtype=getattr(xp, dtype))
    x = data.draw(strategies.arrays(shape, xp, dtype)) + 9.0
    got = lm.masking_corruption(x, noise, fraction)
    lost = round(fraction * size)
    want = np.where(np.reshape(rows, shape) < lost, 0.0, to_numpy(x))
    assert got.dtype == x.dtype and np.array_equal(to_numpy(got), want)


def test_masking_rounds_halves_to_even_and_refuses_other_fractions():
    x = np.ones((1, 5))
    noise = np.asarray([[5.0, 1, 4, 2, 3]])
    assert lm.masking_corruption(x, noise, 0.5).tolist() == [[1, 0, 1, 0, 1]]
    assert lm.masking_corruption(x[:, :3], noise[:, :3], 0.5).tolist() == [[1, 0, 0]]
    assert lm.masking_corruption(x, noise, 0.0).sum() == 5
    assert lm.masking_corruption(x, noise, 1.0).sum() == 0
    for fraction in (-1e-9, 1 + 1e-9, float("nan")):
        with pytest.raises(ValueError, match="fraction must be in"):
            lm.masking_corruption(x, noise, fraction)


@given(data=st.data(), q=st.lists(Q, min_size=3, max_size=3))
def test_kl_bernoulli_equals_mpmath(xp, dtype, xp_assert_close, data, q):
    p = data.draw(st.lists(P, min_size=3, max_size=3))
    want = []
    scale = []
    for a, b in zip(map(mpf, p), map(mpf, q), strict=True):
        terms = [u * mpmath.log(u / v) if u else mpf(0) for u, v in ((a, b), (1 - a, 1 - b))]
        want.append(float(sum(terms)))
        scale.append(float(sum(map(abs, terms))) + 1)
    p_, q_ = (xp.asarray(z, dtype=getattr(xp, dtype)) for z in (p, q))
    got = lm.kl_bernoulli(p_, q_)
    xp_assert_close(got, np.asarray(want), like=q_, ulps=8, scale=np.asarray(scale))
    for scalar in (p[0], np.float64(p[0]), np.float32(p[0])):
        alone = lm.kl_bernoulli(scalar, q_[:1])
        xp_assert_close(alone, got[:1], ulps=0)
    np.testing.assert_allclose(
        want, rel_entr(p, q) + rel_entr(1 - np.array(p), 1 - np.array(q)), atol=1e-14
    )
    assert not xp.any(lm.kl_bernoulli(q_, q_))


@pytest.mark.parametrize("p", [0.0, 1e-9, 0.004, 0.996, 1.0])
def test_kl_bernoulli_keeps_rare_events(p):
    want = rel_entr(p, 0.25) + rel_entr(1 - p, 0.75)
    assert lm.kl_bernoulli(p, np.asarray([0.25])) == pytest.approx(want, rel=1e-14)


@given(data=st.data(), rho=Q)
def test_kl_sparsity_is_the_divergence_of_the_mean_activations(
    xp, dtype, xp_assert_close, data, rho
):
    rows = data.draw(st.lists(st.lists(Q, min_size=2, max_size=2), min_size=1, max_size=4))
    mean = np.asarray(rows).mean(axis=0)
    want = (rel_entr(rho, mean) + rel_entr(1 - rho, 1 - mean)).sum()
    h = xp.asarray(rows, dtype=getattr(xp, dtype))
    got = lm.kl_sparsity(h, rho)
    scale = 4 + float(2 * abs(np.log(mean)).max() + 2 * abs(np.log1p(-mean)).max())
    xp_assert_close(got, np.asarray(want), like=h, ulps=16, scale=scale)


def test_kl_sparsity_is_least_where_the_units_are_as_active_as_wanted():
    assert lm.kl_sparsity(np.asarray([[0.2], [0.4]]), 0.3) == pytest.approx(0.0, abs=1e-16)
    assert lm.kl_sparsity(np.asarray([[0.31]]), 0.3) > 1e-4
    for rho in (0.0, 1.0, -0.5, 1.5, float("nan")):
        with pytest.raises(ValueError, match="rho must be in"):
            lm.kl_sparsity(np.full((2, 2), 0.5), rho)


@given(data=st.data(), peak=st.sampled_from([None, 1.0, 255.0]))
def test_psnr_equals_loops(xp, dtype, xp_assert_close, to_numpy, data, peak):
    x, y = data.draw(strategies.paired(2, xp, dtype))
    y = y + 9 * xp.ones_like(y)  # never equal
    a, b = (to_numpy(v).astype(np.float64) for v in (x, y))
    mean = [((u - v) ** 2).mean() for u, v in zip(a, b, strict=True)]
    mean = [m if m > 0 else 1.0 for m in mean]
    got = lm.psnr(x, y, *([] if peak is None else [peak]))
    expected = 10 * np.log10((2.0 if peak is None else peak) ** 2 / np.asarray(mean))
    xp_assert_close(got, expected, like=x, ulps=8 + a[0].size, scale=60.0)


def test_psnr_of_bytes_and_of_equal_images():
    x = np.zeros((1, 3))
    assert lm.psnr(x, x + 255.0, 255.0) == pytest.approx(0.0)
    assert lm.psnr(x, x + 2.55, 255.0) == pytest.approx(40.0)
    with np.errstate(divide="ignore"):
        assert np.isposinf(lm.psnr(x, x)).all()
