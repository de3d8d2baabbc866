"""SSIM, the Frechet and the kernel distance against scipy and their laws."""

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st

from ldmref import math as lm


def images(seed, *shape):
    return np.random.default_rng(seed).uniform(-1, 1, shape)


def test_ssim_is_that_of_filtered_images():
    """scipy's Gaussian filter, cut off at the window, away from the border."""
    x = scipy.ndimage.gaussian_filter(images(0, 1, 1, 40, 30), (0, 0, 2, 2))
    y = x + 0.1 * images(1, 1, 1, 40, 30)

    def mean(z):
        return scipy.ndimage.gaussian_filter(z[0, 0], 1.5, truncate=5 / 1.5)[5:-5, 5:-5]

    mx = mean(x)
    my = mean(y)
    c1 = 0.02**2
    c2 = 0.06**2
    variances = mean(x * x) - mx**2 + mean(y * y) - my**2
    ssim = (2 * mx * my + c1) * (2 * (mean(x * y) - mx * my) + c2)
    ssim /= (mx**2 + my**2 + c1) * (variances + c2)
    np.testing.assert_allclose(lm.structural_similarity(x, y), [ssim.mean()], rtol=1e-9)


@given(st.integers(0, 2**32 - 1), st.floats(0.5, 255.0))
def test_ssim_laws(seed, peak):
    """1 of an image and itself, symmetric, unchanged when images and range are scaled."""
    x, y = images(seed, 2, 1, 2, 12, 13)
    same, xy, yx = (lm.structural_similarity(*z) for z in ((x, x), (x, y), (y, x)))
    np.testing.assert_allclose(same, 1.0)
    np.testing.assert_allclose(xy, yx, rtol=1e-9)
    assert (np.abs(xy) <= 1).all()
    scaled = lm.structural_similarity(peak / 2 * x, peak / 2 * y, peak)
    np.testing.assert_allclose(scaled, xy, rtol=1e-6)


def test_ssim_of_an_image_smaller_than_the_window():
    with pytest.raises(ValueError, match="smaller"):
        lm.structural_similarity(np.zeros((1, 1, 10, 40)), np.zeros((1, 1, 10, 40)))


def gaussian(seed, d=5, rank=5):
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((d, rank))
    return rng.standard_normal(d), factor @ factor.T


@given(st.integers(0, 2**32 - 2))
def test_frechet_distance_is_that_of_scipys_root(seed):
    (m1, c1) = gaussian(seed)
    (m2, c2) = gaussian(seed + 1)
    root = scipy.linalg.sqrtm(c1 @ c2)
    expected = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * root.real)
    np.testing.assert_allclose(lm.frechet_distance(m1, c1, m2, c2), expected, rtol=1e-6, atol=1e-5)


@given(st.integers(0, 2**32 - 2))
def test_frechet_laws(seed):
    """Zero to itself and symmetric, of deficient rank too; the squared shift of a shifted one."""
    (m1, c1) = gaussian(seed, rank=2)
    (m2, c2) = gaussian(seed + 1)
    scale = np.trace(c1 + c2) * 1e-6
    assert abs(lm.frechet_distance(m1, c1, m1, c1)) < scale
    there = lm.frechet_distance(m1, c1, m2, c2)
    back = lm.frechet_distance(m2, c2, m1, c1)
    assert abs(there - back) < scale and there > -scale
    assert abs(lm.frechet_distance(m1, c1, m1 + 3, c1) - 45) < scale


def test_kernel_distance_is_unbiased():
    """Its mean is 0 for equal distributions, otherwise the difference of their moments."""
    rng = np.random.default_rng(0)
    same = [lm.kernel_distance(*rng.standard_normal((2, 6, 1))) for _ in range(4000)]
    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(4000)
    shifted = []
    for _ in range(4000):
        x, y = rng.standard_normal((2, 6, 1))
        shifted.append(lm.kernel_distance(x, y + 1))
    # k = sum of binom(3, i) (ab)^i: moments of N(0, 1) are 0, 1, 0, of N(1, 1) are 1, 2, 4
    expected = 3 * 1**2 + 3 * (2 - 1) ** 2 + 4**2
    assert abs(np.mean(shifted) - expected) < 4 * np.std(shifted) / np.sqrt(4000)


def test_kernel_distance_needs_two_of_each():
    with pytest.raises(ValueError, match="two"):
        lm.kernel_distance(np.zeros((1, 2)), np.zeros((3, 2)))


@given(st.floats(-20, 20))
def test_the_entropy_is_minus_the_mean_log_density(logvar):
    import scipy.stats

    expected = scipy.stats.norm(scale=np.exp(logvar / 2)).entropy()
    np.testing.assert_allclose(lm.normal_entropy(np.asarray([logvar])), [expected], atol=1e-12)
