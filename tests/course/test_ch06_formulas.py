"""The displayed formulas of chapter 6, undoing it."""

import itertools

import numpy as np
import pytest
import sympy

from ldmref.math import eps_from_v, kl_normal, q_sample, v_from_x0_eps, x0_from_v

ALPHA_BAR = np.asarray([1.0, 0.8, 0.5, 0.1])  # with alpha-bar_0
T = 3


def log_normal(x, mean, variance):
    return -0.5 * (np.log(2 * np.pi * variance) + (x - mean) ** 2 / variance)


def alpha_of(t):
    return ALPHA_BAR[t] / ALPHA_BAR[t - 1]


def log_forward(x, t):
    """log q(x_t | x_{t-1}) of chains x, (T + 1, n)."""
    return log_normal(x[t], np.sqrt(alpha_of(t)) * x[t - 1], 1 - alpha_of(t))


def log_jump(x, t):
    """log q(x_t | x_0)."""
    return log_normal(x[t], np.sqrt(ALPHA_BAR[t]) * x[0], 1 - ALPHA_BAR[t])


def posterior(x0, xt, t):
    """Mean and variance of q(x_{t-1} | x_t, x_0), by precisions."""
    precision = 1 / (1 - ALPHA_BAR[t - 1]) + alpha_of(t) / (1 - alpha_of(t))
    pull = np.sqrt(ALPHA_BAR[t - 1]) * x0 / (1 - ALPHA_BAR[t - 1])
    pull = pull + np.sqrt(alpha_of(t)) * xt / (1 - alpha_of(t))
    return pull / precision, 1 / precision


GAIN, SHIFT, VARIANCE = (None, 0.7, 0.8, 0.4), (None, 0.1, -0.2, 0.3), (None, 0.15, 0.4, 0.8)


def log_reverse(x, t):
    """log p(x_{t-1} | x_t) of some linear Gaussian model."""
    return log_normal(x[t - 1], GAIN[t] * x[t] + SHIFT[t], VARIANCE[t])


def log_evidence(x0):
    """log p(x_0) of that model: Gaussians stay Gaussian."""
    mean, variance = 0.0, 1.0
    for t in range(T, 0, -1):
        mean = GAIN[t] * mean + SHIFT[t]
        variance = GAIN[t] ** 2 * variance + VARIANCE[t]
    return log_normal(x0, mean, variance)


def forward_chains(x0, nodes):
    """Return all chains of Gauss-Hermite nodes from x0, (T + 1, nodes^T), and their weights."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    weights = weights / weights.sum()
    noise = np.asarray(list(itertools.product(points, repeat=T))).T
    weight = np.prod(np.asarray(list(itertools.product(weights, repeat=T))), axis=1)
    x = [np.full(noise.shape[1], x0)]
    for t in range(1, T + 1):
        x.append(np.sqrt(alpha_of(t)) * x[-1] + np.sqrt(1 - alpha_of(t)) * noise[t - 1])
    return np.asarray(x), weight


@pytest.mark.parametrize("x0", [-1.3, 0.0, 2.0])
def test_every_line_of_the_bound(x0):
    steps = range(1, T + 1)
    x, weight = forward_chains(x0, 40)
    log_p = log_normal(x[T], 0.0, 1.0) + sum(log_reverse(x, t) for t in steps)
    log_q = sum(log_forward(x, t) for t in steps)
    assert np.log(weight @ np.exp(log_p - log_q)) == pytest.approx(log_evidence(x0), abs=1e-3)

    by_chains = weight @ (
        -log_normal(x[T], 0.0, 1.0) - sum(log_reverse(x, t) - log_forward(x, t) for t in steps)
    )
    assert by_chains == pytest.approx(-(weight @ (log_p - log_q)))
    assert by_chains > -log_evidence(x0)

    end = kl_normal(np.sqrt(ALPHA_BAR[T]) * x0, np.log(1 - ALPHA_BAR[T]), 0.0, 0.0)
    middle = 0.0
    for t in range(2, T + 1):
        mean, variance = posterior(x0, x[t], t)
        theirs = GAIN[t] * x[t] + SHIFT[t]
        log = np.log(variance), np.log(VARIANCE[t])
        middle += weight @ (
            0.5 * (log[1] - log[0] + (variance + (mean - theirs) ** 2) / VARIANCE[t] - 1)
        )
    decoder = -(weight @ log_reverse(x, 1))
    assert end + middle + decoder == pytest.approx(by_chains)


def test_the_log_ratio_is_not_a_divergence():
    s, t, beta = sympy.symbols("x_s x_t beta", real=True)

    def quadratic(x, mean):
        return -((x - mean) ** 2) / (2 * beta)

    root = sympy.sqrt(1 - beta)
    ratio = quadratic(t, root * s) - quadratic(s, root * t)
    assert sympy.simplify(ratio - (s**2 - t**2) / 2) == 0
    for x0 in (0.0, 0.5, 2.0):
        x, weight = forward_chains(x0, 4)
        for i in range(1, T + 1):
            mean = weight @ ((x[i - 1] ** 2 - x[i] ** 2) / 2)
            assert mean == pytest.approx((ALPHA_BAR[i - 1] - ALPHA_BAR[i]) * (x0**2 - 1) / 2)
            assert (mean < 0) == (x0 < 1)


@pytest.mark.parametrize("t", [2, 3])
def test_bayes_given_the_data(t):
    x, _ = forward_chains(0.7, 3)
    mean, variance = posterior(x[0], x[t], t)
    reverse = log_normal(x[t - 1], mean, variance)
    np.testing.assert_allclose(log_forward(x, t), reverse + log_jump(x, t) - log_jump(x, t - 1))


def test_telescoping():
    x, _ = forward_chains(-0.4, 3)
    product = sum(log_jump(x, t) - log_jump(x, t - 1) for t in range(2, T + 1))
    np.testing.assert_allclose(product, log_jump(x, T) - log_jump(x, 1), atol=1e-12)


def divergence(mean, variance, other_mean, other_variance):
    square = (variance + (mean - other_mean) ** 2) / other_variance
    return 0.5 * (np.log(other_variance / variance) + square - 1)


@pytest.mark.parametrize("x0", [-1.3, 0.0, 2.0])
def test_lines_from_the_product_to_the_terms(x0):
    """Every bracket has the same value for every chain, so the means agree as well."""
    x, weight = forward_chains(x0, 8)
    late = range(2, T + 1)
    end, decoder = log_normal(x[T], 0.0, 1.0), log_reverse(x, 1)
    reverse = {t: log_normal(x[t - 1], *posterior(x[0], x[t], t)) for t in late}
    steps = {t: log_reverse(x, t) - log_forward(x, t) for t in range(1, T + 1)}
    ratios = {t: log_reverse(x, t) - reverse[t] for t in late}
    first = decoder - log_jump(x, 1)
    jumps = sum(log_jump(x, t - 1) - log_jump(x, t) for t in late)
    lines = [
        -end - sum(steps.values()),
        -end - sum(steps[t] for t in late) - first,
        -end - sum(ratios.values()) - jumps - first,
        -end - sum(ratios.values()) - (log_jump(x, 1) - log_jump(x, T)) - first,
        -(end - log_jump(x, T)) - sum(ratios.values()) - decoder,
        (log_jump(x, T) - end) + sum(-r for r in ratios.values()) - decoder,
    ]
    for line in lines[1:]:
        np.testing.assert_allclose(line, lines[0], atol=1e-11)
    mean, variance = np.sqrt(ALPHA_BAR[T]) * x0, 1 - ALPHA_BAR[T]
    assert weight @ (log_jump(x, T) - end) == pytest.approx(divergence(mean, variance, 0.0, 1.0))


@pytest.mark.parametrize("t", [2, 3])
def test_the_tower_rule_makes_divergences(t):
    x, weight = forward_chains(0.7, 8)
    mean, variance = posterior(x[0], x[t], t)
    log_ratio = log_normal(x[t - 1], mean, variance) - log_reverse(x, t)
    inner = divergence(mean, variance, GAIN[t] * x[t] + SHIFT[t], VARIANCE[t])
    assert weight @ log_ratio == pytest.approx(weight @ inner)
    assert np.ptp(inner) > 0.01  # the inner mean depends on x_t


def test_the_noise_is_a_score():
    """Against quadrature over a density of the data that is neither Gaussian nor symmetric."""
    x0 = np.linspace(-1.0, 2.0, 4001)
    p = (x0 + 1.0) * np.exp(-x0)
    p /= p.sum()
    a, step = 0.3, 1e-5

    def log_q(xt):
        return np.log(p @ np.exp(log_normal(xt, np.sqrt(a) * x0, 1 - a)))

    for xt in (-1.5, 0.2, 2.0):
        likelihood = p * np.exp(log_normal(xt, np.sqrt(a) * x0, 1 - a))
        eps = (xt - np.sqrt(a) * x0) / np.sqrt(1 - a)
        expected = likelihood @ eps / likelihood.sum()
        score = (log_q(xt + step) - log_q(xt - step)) / (2 * step)
        assert score == pytest.approx(-expected / np.sqrt(1 - a), abs=1e-8)


def symbols():
    alpha, before = sympy.symbols("alpha abar", positive=True)
    return alpha, before, 1 - alpha, alpha * before


def test_posterior_by_precisions():
    alpha, before, beta, now = symbols()
    x0, xt = sympy.symbols("x0 xt", real=True)
    precision = 1 / (1 - before) + alpha / beta
    assert sympy.simplify(precision - (beta + alpha - now) / (beta * (1 - before))) == 0
    assert sympy.simplify(precision - (1 - now) / (beta * (1 - before))) == 0
    root = sympy.sqrt
    mean = (root(before) * x0 / (1 - before) + alpha / beta * xt / root(alpha)) / precision
    displayed = root(before) * beta / (1 - now) * x0 + root(alpha) * (1 - before) / (1 - now) * xt
    assert sympy.simplify(mean - displayed) == 0


def test_mean_and_noise_are_equivalent():
    alpha, before, beta, now = symbols()
    xt, eps = sympy.symbols("xt eps", real=True)
    root = sympy.sqrt
    x0 = (xt - root(1 - now) * eps) / root(now)
    mean = root(before) * beta / (1 - now) * x0 + root(alpha) * (1 - before) / (1 - now) * xt
    displayed = (xt - beta / root(1 - now) * eps) / root(alpha)
    for coefficient in (xt, eps):
        difference = sympy.expand(mean - displayed).coeff(coefficient)
        assert sympy.simplify(difference) == 0


def test_v_is_a_rotation():
    rng = np.random.default_rng(0)
    x0, eps = rng.standard_normal((2, 4, 3))
    for a in (0.0, 0.3, 1.0):
        xt = q_sample(x0, a, eps)
        v = np.sqrt(a) * eps - np.sqrt(1 - a) * x0
        np.testing.assert_allclose(v_from_x0_eps(x0, eps, a), v)
        np.testing.assert_allclose(np.sqrt(a) * xt - np.sqrt(1 - a) * v, x0, atol=1e-12)
        np.testing.assert_allclose(np.sqrt(1 - a) * xt + np.sqrt(a) * v, eps, atol=1e-12)
        np.testing.assert_allclose(x0_from_v(xt, v, a), x0, atol=1e-12)
        np.testing.assert_allclose(eps_from_v(xt, v, a), eps, atol=1e-12)


def test_one_timestep_is_unbiased():
    terms = np.asarray([0.3, 2.0, 0.7, 5.0])
    estimates = len(terms) * terms  # each with probability 1 / T
    assert estimates.mean() == pytest.approx(terms.sum())


def test_errors_of_the_data_in_the_table():
    rng = np.random.default_rng(1)
    x0, eps, error = rng.standard_normal((3, 5))
    a = 0.3
    xt = np.sqrt(a) * x0 + np.sqrt(1 - a) * eps
    wrong = (xt - np.sqrt(1 - a) * (eps + error)) / np.sqrt(a)
    assert np.sum((wrong - x0) ** 2) == pytest.approx((1 - a) / a * np.sum(error**2))
    v = v_from_x0_eps(x0, eps, a)
    wrong = x0_from_v(xt, v + error, a)
    assert np.sum((wrong - x0) ** 2) == pytest.approx((1 - a) * np.sum(error**2))
