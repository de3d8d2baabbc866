"""The formulas and facts of chapter 0, computed in two ways."""

import numpy as np
import sympy

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(20)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def normal(x, mean, variance):
    return np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)


def test_error_of_a_mean():
    """All means of three throws of a die with unequal faces, counted."""
    faces = np.asarray([1.0, 2.0, 5.0, 11.0])
    means = [(faces[i] + faces[j] + faces[k]) / 3 for i, j, k in np.ndindex(4, 4, 4)]
    assert np.isclose(np.std(means), np.sqrt(faces.var() / 3))


def test_variance_of_the_fourth_power():
    fourth, eighth = (WEIGHTS @ NODES**k for k in (4, 8))
    assert np.isclose(fourth, 3.0) and np.isclose(eighth - fourth**2, 96.0)


def test_moments_and_sums():
    """The density of a sum by convolution of two densities on a grid."""
    assert np.isclose(WEIGHTS @ (0.5 + 2.0 * NODES) ** 2, 0.5**2 + 2.0**2)
    x = np.linspace(-30, 30, 6001)
    dx = x[1] - x[0]
    both = np.convolve(normal(x, 0.5, 2.0), normal(x, -1.0, 0.7), "same") * dx
    assert np.allclose(both, normal(x, -0.5, 2.7), atol=1e-9)


def test_product_of_gaussians():
    """The ratio of both sides does not depend on x."""
    x = np.linspace(-2, 2, 9)
    variance = 1 / (1 / 0.4 + 1 / 1.5)
    mean = variance * (1.0 / 0.4 - 0.5 / 1.5)
    ratio = normal(x, 1.0, 0.4) * normal(x, -0.5, 1.5) / normal(x, mean, variance)
    assert np.allclose(ratio, ratio[0])


def test_length_and_angle():
    """E |a|^2 = d, and the squared cosine of two directions is 1 / d on average, by symmetry."""
    a, b = np.random.default_rng(0).standard_normal((2, 4000, 64))
    cosines = np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert abs(np.sum(a * a, axis=1).mean() / 64 - 1) < 0.02
    assert abs(np.mean(cosines**2) * 64 - 1) < 0.1


def test_gradient_of_a_logarithm():
    x = sympy.Symbol("x", real=True)
    p = sympy.exp(-(x**2)) + sympy.exp(-((x - 1) ** 2) / 3)
    assert sympy.simplify(sympy.diff(sympy.log(p), x) - sympy.diff(p, x) / p) == 0


def test_convolution():
    """The formula, written as loops, against ldmref's convolution."""
    from ldmref.backends import get_backend

    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 2, 5, 4)).astype(np.float32)
    weight = rng.standard_normal((3, 2, 3, 3)).astype(np.float32)
    bias = rng.standard_normal(3).astype(np.float32)
    y = np.zeros((3, 5, 4)) + bias[:, None, None]
    for o, i, u, v in np.ndindex(3, 2, 3, 3):
        for r, s in np.ndindex(5, 4):
            row, column = r + u - 1, s + v - 1
            if 0 <= row < 5 and 0 <= column < 4:
                y[o, r, s] += weight[o, i, u, v] * x[0, i, row, column]
    got = get_backend("numpy").conv2d(x, weight, bias, padding=1)
    assert np.allclose(got[0], y, atol=1e-5)
