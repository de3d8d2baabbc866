"""The displayed formulas of chapter 5, destroying data."""

import numpy as np
import pytest
import sympy

from ldmref.math import alphas_cumprod, linear_betas, log_snr, sigma_from_alpha_bar, snr


def test_the_root_keeps_the_variance():
    a, beta, variance = sympy.symbols("a beta V", positive=True)
    mixed = a**2 * variance + beta
    assert sympy.solve(mixed.subs(variance, 1) - 1, a) == [sympy.sqrt(1 - beta)]
    pulled = mixed.subs(a, sympy.sqrt(1 - beta)) - 1
    assert sympy.expand(pulled - (1 - beta) * (variance - 1)) == 0
    # the sum of variances itself, on all pairs of two-point distributions
    x = np.asarray([-1.5, 1.5])
    eps = np.asarray([-1.0, 1.0])
    sums = np.add.outer(0.6 * x, np.sqrt(0.3) * eps)
    assert sums.var() == pytest.approx(0.36 * x.var() + 0.3)


def test_induction_step():
    alpha, before, x0, noise, fresh = sympy.symbols("alpha abar x0 noise fresh", positive=True)
    previous = sympy.sqrt(before) * x0 + sympy.sqrt(1 - before) * noise
    step = sympy.expand(sympy.sqrt(alpha) * previous + sympy.sqrt(1 - alpha) * fresh)
    assert sympy.simplify(step.coeff(x0) - sympy.sqrt(alpha * before)) == 0
    variance = step.coeff(noise) ** 2 + step.coeff(fresh) ** 2
    assert sympy.expand(variance - (1 - alpha * before)) == 0


def test_reused_noise_has_variance_224():
    betas = linear_betas(1000)
    x = np.zeros(2)
    eps = np.asarray([1.0, -2.0])
    amplitude = 0.0
    for beta in betas:
        x = np.sqrt(1 - beta) * x + np.sqrt(beta) * eps
        amplitude = np.sqrt(1 - beta) * amplitude + np.sqrt(beta)
    np.testing.assert_allclose(x, amplitude * eps, rtol=1e-12)
    assert amplitude**2 == pytest.approx(224, abs=0.5)


def test_four_names_of_one_quantity():
    alpha_bar = np.linspace(0.001, 0.999, 50)
    ratio = alpha_bar / (1 - alpha_bar)
    sigma = np.sqrt((1 - alpha_bar) / alpha_bar)
    np.testing.assert_allclose(ratio, 1 / sigma**2)
    np.testing.assert_allclose(np.log(ratio), -2 * np.log(sigma), atol=1e-12)
    np.testing.assert_allclose(snr(alpha_bar), ratio)
    np.testing.assert_allclose(log_snr(alpha_bar), np.log(ratio), atol=1e-12)
    np.testing.assert_allclose(sigma_from_alpha_bar(alpha_bar), sigma)


def test_cosine_ratio_without_cancellation():
    a, b = sympy.symbols("a b", real=True)
    difference = 1 - sympy.cos(b) ** 2 / sympy.cos(a) ** 2
    product = sympy.sin(b - a) * sympy.sin(a + b) / sympy.cos(a) ** 2
    assert sympy.simplify(difference - product) == 0


def test_brightness_leaks_through_the_last_step():
    d = 12
    alpha_bar = 0.3
    x0 = np.linspace(-1.0, 2.0, d)
    # the mean is linear in the noise with coefficients sqrt(1 - alpha_bar) / d
    means = [np.mean(np.sqrt(1 - alpha_bar) * row) for row in np.eye(d)]
    assert np.sqrt(np.sum(np.square(means))) == pytest.approx(np.sqrt((1 - alpha_bar) / d))
    assert np.mean(np.sqrt(alpha_bar) * x0) == pytest.approx(np.sqrt(alpha_bar) * x0.mean())


def test_numbers_in_the_text_of_the_linear_schedule():
    betas = linear_betas(1000)
    assert 1 + betas.sum() == pytest.approx(11.05)  # without a factor
    assert 1 - alphas_cumprod(betas)[-1] == pytest.approx(1.0, abs=1e-4)
