"""The displayed formulas of docs/course/09-samplers.md, computed in a second way."""

import math

import numpy as np
import sympy as sp
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import ndtr

from ldmref.samplers import SAMPLERS, sample
from ldmref.testing.mixture import Mixture

MIXTURE = Mixture(
    np.array([0.5, 0.3, 0.2]), np.array([[1.0], [-1.2], [0.2]]), np.array([0.25, 0.4, 0.1])
)


def slope(x, sigma):
    return (x - float(MIXTURE.denoise(np.array([[x]]), sigma)[0, 0])) / sigma


def share(x, sigma):
    return float(MIXTURE.weights @ ndtr((x - MIXTURE.means[:, 0]) / np.hypot(MIXTURE.stds, sigma)))


def test_velocity_of_one_path():
    x0, eps, sigma = sp.symbols("x0 epsilon sigma", positive=True)
    x = x0 + sigma * eps
    assert sp.simplify(sp.diff(x, sigma) - (x - x0) / sigma) == 0


def test_mean_velocity_moves_the_density():
    """d/dsigma E[psi(x_sigma)] is E[psi'(x) (x - E[x0|x]) / sigma], for psi = exp(-(x - 1/2)^2)."""

    def psi(x):
        return math.exp(-((x - 0.5) ** 2))

    def density(x, sigma):
        return float(MIXTURE.density(np.array([[x]]), sigma)[0])

    def mean(function, sigma):
        return quad(lambda x: function(x) * density(x, sigma), -9, 9, limit=200, epsabs=1e-12)[0]

    sigma, step = 0.7, 1e-3
    change = (mean(psi, sigma + step) - mean(psi, sigma - step)) / (2 * step)
    moved = mean(lambda x: -2 * (x - 0.5) * psi(x) * slope(x, sigma), sigma)
    assert abs(change - moved) < 1e-5 and abs(moved) > 1e-2


def test_derivative_of_the_denoiser():
    """dE[x0|x]/dx is Var[x0|x] / sigma^2, by quadrature over bounded data (uniform, sloped)."""
    x0 = np.linspace(-1.0, 2.0, 20_001)
    sigma, step = 0.4, 1e-5

    def moment(x, power):
        weight = (x0 + 1.5) * np.exp(-0.5 * ((x - x0) / sigma) ** 2)
        return float(weight @ x0**power / weight.sum())

    for x in (-3.0, 0.1, 1.8):
        derivative = (moment(x + step, 1) - moment(x - step, 1)) / (2 * step)
        variance = moment(x, 2) - moment(x, 1) ** 2
        assert math.isclose(derivative, variance / sigma**2, rel_tol=1e-6)
        assert derivative <= (3.0 / 2) ** 2 / sigma**2  # Popoviciu: bounded data, bounded slope


def test_mean_velocity_is_the_mean_noise():
    """E[eps | x] by Bayes' rule over all x0 that lead to x is the slope."""
    x, sigma = 0.3, 0.7

    def weight(x0):
        prior = float(MIXTURE.density(np.array([[x0]]))[0])
        return prior * math.exp(-((x - x0) ** 2) / (2 * sigma**2))

    total = quad(weight, -4, 4, limit=200)[0]
    eps = quad(lambda x0: (x - x0) / sigma * weight(x0), -4, 4, limit=200)[0]
    assert math.isclose(eps / total, slope(x, sigma), rel_tol=1e-7)


def test_the_equation_keeps_quantiles():
    """The point with a constant share of the probability to its left moves with the slope."""
    for start in (-1.5, 0.1, 2.0):
        sigma, step = 0.8, 1e-4
        target = share(start, sigma)
        ends = [
            brentq(lambda y: share(y, sigma + d) - target, -9, 9, xtol=1e-14)  # noqa: B023
            for d in (-step, step)
        ]
        assert math.isclose((ends[1] - ends[0]) / (2 * step), slope(start, sigma), rel_tol=1e-6)


def test_ddim_is_euler():
    rng = np.random.default_rng(0)
    xt = rng.standard_normal((5, 2))
    x0 = rng.standard_normal((5, 2))
    for abar, abar_prev in ((0.1, 0.3), (0.5, 0.99)):
        eps = (xt - np.sqrt(abar) * x0) / np.sqrt(1 - abar)
        ddim = np.sqrt(abar_prev) * x0 + np.sqrt(1 - abar_prev) * eps
        sigma, sigma_next = (np.sqrt((1 - a) / a) for a in (abar, abar_prev))
        x = xt / np.sqrt(abar)
        line = x0 + sigma_next / sigma * (x - x0)
        np.testing.assert_allclose(ddim / np.sqrt(abar_prev), line, rtol=1e-12)
        euler = SAMPLERS["euler"].make()
        got = list(sample(lambda x, s: x0, x, [sigma, sigma_next], euler))[-1].x
        np.testing.assert_allclose(got, line, rtol=1e-12)


def test_ancestral_variance():
    """The old noise, scaled by sigma_down / sigma, and the new one add up to sigma_next."""
    s, t, eta = sp.symbols("sigma sigma_next eta", positive=True)
    up = eta * t * sp.sqrt(1 - t**2 / s**2)
    down = sp.sqrt(t**2 - up**2)
    assert sp.simplify((down / s) ** 2 * s**2 + up**2 - t**2) == 0
    # eta = 0 is the straight line
    assert down.subs(eta, 0) == t


def test_posterior_variance_in_sigma():
    s, t = sp.symbols("sigma sigma_next", positive=True)
    now, before = 1 / (1 + s**2), 1 / (1 + t**2)
    posterior = (1 - before) / (1 - now) * (1 - now / before)
    middle = t**2 * (1 - (1 + t**2) / (1 + s**2)) / (s**2 / (1 + s**2))
    assert sp.simplify(posterior / before - middle) == 0
    assert sp.simplify(middle - t**2 * (s**2 - t**2) / s**2) == 0
    assert sp.simplify(middle - t**2 * (1 - t**2 / s**2)) == 0


def test_local_errors():
    """One step of Euler's method errs by h^2, one of Heun's by h^3, against the exact flow."""
    x = np.array([[0.4]])
    logs = {"euler": [], "heun": []}
    lengths = (0.08, 0.04, 0.02)
    for h in lengths:
        target = share(0.4, 1.0)
        exact = brentq(lambda y: share(y, 1.0 - h) - target, -9, 9, xtol=1e-15)  # noqa: B023
        for name, errors in logs.items():
            step = SAMPLERS[name].make()
            got = list(sample(MIXTURE.denoise, x, [1.0, 1.0 - h], step))[-1].x
            errors.append(math.log(abs(float(got[0, 0]) - exact)))
    orders = {name: np.polyfit(np.log(lengths), errors, 1)[0] for name, errors in logs.items()}
    assert abs(orders["euler"] - 2) < 0.15 and abs(orders["heun"] - 3) < 0.25, orders


def test_variation_of_constants():
    """The integral form holds along the exact flow."""
    sigma, sigma_next, start = 2.0, 0.5, 1.3
    target = share(start, sigma)

    def path(rho):
        return brentq(lambda y: share(y, rho) - target, -20, 20, xtol=1e-14)

    def integrand(rho):
        return float(MIXTURE.denoise(np.array([[path(rho)]]), rho)[0, 0]) / rho**2

    integral = quad(integrand, sigma_next, sigma, epsabs=1e-10)[0]
    assert math.isclose(
        path(sigma_next), sigma_next / sigma * start + sigma_next * integral, rel_tol=1e-8
    )
    # with a constant prediction it is Euler's step
    s, t, rho, x, x0 = sp.symbols("sigma sigma_next rho x x0", positive=True)
    constant = t / s * x + t * sp.integrate(x0 / rho**2, (rho, t, s))
    assert sp.simplify(constant - (x0 + t / s * (x - x0))) == 0


def test_weight_of_the_line():
    h, r = sp.symbols("h r", positive=True)
    weight = sp.exp(-h) * sp.integrate(r * sp.exp(r), (r, 0, h))
    assert sp.simplify(weight - (h - 1 + sp.exp(-h))) == 0
    published = h * (1 - sp.exp(-h)) / 2
    for form in (weight, published):
        assert sp.series(form, h, 0, 3).removeO() - h**2 / 2 == 0
    # the substitution rho = sigma e^-r turns sigma' d rho / rho^2 into e^-h e^r dr
    sigma = sp.Symbol("sigma", positive=True)
    rho = sigma * sp.exp(-r)
    kernel = sigma * sp.exp(-h) / rho**2 * -sp.diff(rho, r)
    assert sp.simplify(kernel - sp.exp(-h) * sp.exp(r)) == 0
