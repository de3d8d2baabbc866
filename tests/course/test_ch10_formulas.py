"""The displayed formulas of docs/course/10-the-score.md, computed in a second way."""

import math

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import quad

from ldmref.testing.mixture import Mixture

MIXTURE = Mixture(
    np.array([0.5, 0.3, 0.2]), np.array([[1.0], [-1.2], [0.2]]), np.array([0.25, 0.4, 0.1])
)


def normal(x, mean, variance):
    return math.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def prior(x0):
    terms = zip(MIXTURE.weights, MIXTURE.means[:, 0], MIXTURE.stds, strict=True)
    return sum(w * normal(x0, m, s**2) for w, m, s in terms)


def test_tweedie():
    """The score by a difference of the blurred density; the mean of x0 by Bayes' rule."""
    sigma = 0.6

    def blurred(x, power=0):
        value = lambda x0: x0**power * prior(x0) * normal(x, x0, sigma**2)  # noqa: E731
        return quad(value, -5, 5, limit=200, epsabs=1e-13)[0]

    for x in (-0.7, 0.4):
        step = 1e-4
        score = (math.log(blurred(x + step)) - math.log(blurred(x - step))) / (2 * step)
        mean = blurred(x, 1) / blurred(x)
        assert math.isclose(score, (mean - x) / sigma**2, rel_tol=1e-6)


def test_tweedie_holds_for_data_without_a_density():
    """Two points at +-1: E[x0|x] = tanh(x / sigma^2)."""
    x, sigma = sp.symbols("x sigma", positive=True)
    density = sp.exp(-((x - 1) ** 2) / (2 * sigma**2)) + sp.exp(-((x + 1) ** 2) / (2 * sigma**2))
    score = sp.diff(sp.log(density), x)
    difference = score - (sp.tanh(x / sigma**2) - x) / sigma**2
    assert abs(difference.subs({x: 0.37, sigma: 0.8}).evalf()) < 1e-12


def test_denoising_score_matching():
    """Both losses differ by a number that is the same for every function F."""
    sigma = 0.6
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    x0 = MIXTURE.means + MIXTURE.stds[:, None] * nodes  # (k, nodes)
    x = x0[:, :, None] + sigma * nodes
    weight = MIXTURE.weights[:, None, None] * weights[:, None] * weights
    score = MIXTURE.score(x.reshape(-1, 1), sigma).reshape(x.shape)
    gaps = []
    for function in (np.sin, lambda x: 0.3 * x**2 - x, np.zeros_like):
        f = function(x)
        explicit = np.sum(weight * (f - score) ** 2)
        denoising = np.sum(weight * (f + nodes / sigma) ** 2)
        gaps.append(denoising - explicit)
    assert np.ptp(gaps) < 1e-6 * abs(gaps[0]) and gaps[0] > 0.1, gaps


def test_scale_and_noise_of_a_linear_sde():
    t = sp.Symbol("t", positive=True)
    kappa, noise, a = (sp.Function(name)(t) for name in ("kappa", "sigma", "a"))
    g2 = sp.diff(kappa**2 * noise**2, t) - 2 * a * kappa**2 * noise**2
    g2 = g2.doit().subs(sp.Derivative(kappa, t), a * kappa)
    assert sp.simplify(g2 - kappa**2 * sp.diff(noise**2, t)) == 0

    beta, exploding = sp.Function("beta")(t), sp.Function("sigma")(t)
    abar = sp.Function("abar")(t)
    rows = {
        "VP": (sp.sqrt(abar), sp.sqrt((1 - abar) / abar), -beta / 2, beta),
        "VE": (sp.Integer(1), exploding, sp.Integer(0), sp.diff(exploding**2, t)),
        "straight": (1 - t, t / (1 - t), -1 / (1 - t), 2 * t / (1 - t)),
    }
    for name, (scale, level, drift, square) in rows.items():
        known = {sp.Derivative(abar, t): -beta * abar}  # abar = exp(-integral of beta)
        assert sp.simplify(sp.diff(scale, t).subs(known) - drift * scale) == 0, name
        g2 = (scale**2 * sp.diff(level**2, t)).doit().subs(known)
        assert sp.simplify(g2 - square) == 0, name


def gaussian_under_a_linear_sde():
    """Return (x, t, a, g^2, p) of data N(mu, tau^2) with the straight path's kappa and sigma."""
    x = sp.Symbol("x", real=True)
    t, mu, tau = sp.symbols("t mu tau", positive=True)
    variance = (1 - t) ** 2 * tau**2 + t**2
    p = sp.exp(-((x - (1 - t) * mu) ** 2) / (2 * variance)) / sp.sqrt(2 * sp.pi * variance)
    return x, t, -1 / (1 - t), 2 * t / (1 - t), p


def test_fokker_planck():
    x, t, a, g2, p = gaussian_under_a_linear_sde()
    right = -sp.diff(a * x * p, x) + g2 / 2 * sp.diff(p, x, 2)
    assert sp.simplify((sp.diff(p, t) - right) / p) == 0
    # the lines before, for psi = x^2: d/dt E[x^2] = 2 a E[x^2] + g^2
    mu, tau = sp.symbols("mu tau", positive=True)
    square = ((1 - t) * mu) ** 2 + (1 - t) ** 2 * tau**2 + t**2
    assert sp.simplify(sp.diff(square, t) - 2 * a * square - g2) == 0


def test_spreading_is_transport():
    x, g2 = sp.symbols("x g2", positive=True)
    p = sp.Function("p")(x)
    transport = sp.diff(g2 / 2 * p * sp.diff(sp.log(p), x), x)
    assert sp.simplify(transport - g2 / 2 * sp.diff(p, x, 2)) == 0


def test_family_of_reverse_processes():
    """The right-hand side is that of Fokker-Planck for every eta."""
    x, a, g2, eta = sp.symbols("x a g2 eta", positive=True)
    p = sp.Function("p")(x)
    score = sp.diff(sp.log(p), x)
    drift = a * x - (1 + eta**2) / 2 * g2 * score
    family = -sp.diff(drift * p, x) - eta**2 * g2 / 2 * sp.diff(p, x, 2)
    forward = -sp.diff(a * x * p, x) + g2 / 2 * sp.diff(p, x, 2)
    assert sp.simplify(family - forward) == 0


def test_time_reversal():
    """In tau = -t the density solves the Fokker-Planck equation of the reversed process."""
    x, t, a, g2, p = gaussian_under_a_linear_sde()
    eta, tau = sp.Symbol("eta", positive=True), sp.Symbol("tau", negative=True)
    drift = -(a * x - (1 + eta**2) / 2 * g2 * sp.diff(sp.log(p), x))
    reversed_p, drift, noise = (e.subs(t, -tau) for e in (p, drift, eta**2 * g2))
    right = -sp.diff(drift * reversed_p, x) + noise / 2 * sp.diff(reversed_p, x, 2)
    assert sp.simplify((sp.diff(reversed_p, tau) - right) / reversed_p) == 0


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_every_eta_reverses_the_variance(eta):
    """For data N(0, 4) under VP with beta = 2: the variance of the reverse process, by its ODE."""
    n = 20_000
    end = 1.5
    variance = 1 + 3 * math.exp(-2 * end)
    for i in range(n):
        t = end * (1 - (i + 0.5) / n)
        true = 1 + 3 * math.exp(-2 * t)
        linear = -1 + (1 + eta**2) / 2 * 2 / true  # dx = linear x dt + eta g dB, dt < 0
        variance += -end / n * 2 * linear * variance + end / n * eta**2 * 2
    assert math.isclose(variance, 4.0, rel_tol=1e-3)


def test_bias_of_langevin():
    h, sigma = sp.symbols("h Sigma", positive=True)
    (solution,) = sp.solve(sp.Eq(sigma, (1 - h) ** 2 * sigma + 2 * h), sigma)
    assert sp.simplify(solution - 1 / (1 - h / 2)) == 0


def test_change_of_the_log_density():
    x, t, a, g2, p = gaussian_under_a_linear_sde()
    velocity = a * x - g2 / 2 * sp.diff(sp.log(p), x)
    along = (sp.diff(p, t) + velocity * sp.diff(p, x)) / p
    assert sp.simplify(along + sp.diff(velocity, x)) == 0
    assert sp.simplify((sp.diff(p, t) + sp.diff(velocity * p, x)) / p) == 0


def test_velocity_of_the_straight_path():
    x0, eps, t = sp.symbols("x0 epsilon t", positive=True)
    assert sp.simplify(eps - x0 - ((1 - t) * x0 + t * eps - x0) / t) == 0
