"""Displayed identities of the pages on diffusion, from first principles: sympy or quadrature.

The pages name these tests in a comment before each formula. Nothing here calls ldmref: functions
that compute a displayed formula are checked by the identities of `ldmref check`.
"""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
from scipy import integrate, stats

T = sp.symbols("t", positive=True)
ALPHA_BARS = (0.05, 0.5, 0.95)


def is_zero(expression):
    return sp.simplify(expression) == 0


# -- forward.md -----------------------------------------------------------------------------------


def data_density(x0):
    """Return a density that is neither Gaussian nor symmetric: a triangle on [-1, 1]."""
    return (x0 + 1) / 2


def noised(alpha_bar, xt, weight=lambda x0: 1.0):
    """Return the integral of weight(x0) q(x_t | x_0) p(x_0)."""

    def integrand(x0):
        likelihood = stats.norm.pdf(xt, np.sqrt(alpha_bar) * x0, np.sqrt(1 - alpha_bar))
        return weight(x0) * likelihood * data_density(x0)

    return integrate.quad(integrand, -1, 1, epsabs=1e-13, epsrel=1e-13)[0]


def score(alpha_bar, xt, h=1e-4):
    """Return the gradient of log p(x_t), by differences of the integral."""
    logs = [np.log(noised(alpha_bar, xt + k * h)) for k in (-2, -1, 1, 2)]
    return (logs[0] - 8 * logs[1] + 8 * logs[2] - logs[3]) / (12 * h)


@pytest.mark.parametrize("alpha_bar", ALPHA_BARS)
@pytest.mark.parametrize("xt", [-0.7, 0.4, 1.2])
def test_expected_score_is_the_score_of_all_noisy_data(alpha_bar, xt):
    """E[score of one example | x_t] = score of p(x_t) = -E[eps | x_t] / sqrt(1 - alpha_bar)."""

    def eps(x0):
        return (xt - np.sqrt(alpha_bar) * x0) / np.sqrt(1 - alpha_bar)

    density = noised(alpha_bar, xt)
    of_examples = noised(alpha_bar, xt, lambda x0: -eps(x0) / np.sqrt(1 - alpha_bar)) / density
    from_noise = -noised(alpha_bar, xt, eps) / density / np.sqrt(1 - alpha_bar)
    assert of_examples == pytest.approx(from_noise, rel=1e-10)
    assert score(alpha_bar, xt) == pytest.approx(of_examples, rel=1e-6)


@pytest.mark.parametrize("alpha_bar", ALPHA_BARS)
@pytest.mark.parametrize("xt", [-0.7, 0.4, 1.2])
def test_tweedie(alpha_bar, xt):
    """E[x_0 | x_t] = (x_t + (1 - alpha_bar) score) / sqrt(alpha_bar)."""
    mean = noised(alpha_bar, xt, lambda x0: x0) / noised(alpha_bar, xt)
    assert (xt + (1 - alpha_bar) * score(alpha_bar, xt)) / np.sqrt(alpha_bar) == pytest.approx(
        mean, rel=1e-6
    )


def test_flow_matching_in_both_other_coordinates():
    """x_t / (1 - t) is x_0 + sigma eps; x_t / r is variance preserving."""
    x0, eps = sp.symbols("x_0 epsilon", real=True)
    t = sp.symbols("t", positive=True)
    xt = (1 - t) * x0 + t * eps
    assert is_zero(sp.diff(xt, t) - (eps - x0))
    sigma = t / (1 - t)
    assert is_zero(xt / (1 - t) - (x0 + sigma * eps))
    r = sp.sqrt((1 - t) ** 2 + t**2)
    alpha_bar = (1 - t) ** 2 / r**2
    of_data, of_noise = (sp.diff(xt / r, symbol) for symbol in (x0, eps))
    assert is_zero(of_data**2 - alpha_bar) and is_zero(of_noise**2 - (1 - alpha_bar))
    at = {t: sp.Rational(1, 3)}
    assert of_data.subs(at) > 0 and of_noise.subs(at) > 0  # both are the positive roots


# -- objective.md ---------------------------------------------------------------------------------


def normal(x, mean, variance):
    return sp.exp(-((x - mean) ** 2) / (2 * variance)) / sp.sqrt(2 * sp.pi * variance)


@pytest.mark.parametrize(("at_s", "at_t"), [(0.9, 0.8), (0.5, 0.1), (0.99, 0.98)])
def test_a_forward_step_reversed_by_bayes_rule(at_s, at_t):
    """q(x_t | x_s) = q(x_s | x_t, x_0) q(x_t | x_0) / q(x_s | x_0), for s >= 1."""
    rng = np.random.default_rng(0)
    alpha = at_t / at_s
    beta = 1 - alpha
    for _ in range(20):
        x0, xs, xt = rng.standard_normal(3)
        mean = (np.sqrt(at_s) * beta * x0 + np.sqrt(alpha) * (1 - at_s) * xt) / (1 - at_t)
        variance = (1 - at_s) / (1 - at_t) * beta

        def log(x, m, v):
            return stats.norm.logpdf(x, m, np.sqrt(v))

        forward = log(xt, np.sqrt(alpha) * xs, beta)
        ratio = log(xt, np.sqrt(at_t) * x0, 1 - at_t) - log(xs, np.sqrt(at_s) * x0, 1 - at_s)
        assert forward == pytest.approx(log(xs, mean, variance) + ratio, rel=1e-9, abs=1e-9)


def test_bound_by_jensen_and_its_equality():
    """-log p(x_0) <= E_q[-log p(x_0:T) / q(x_1:T | x_0)], on chains of three states and T = 2.

    It is an equality if and only if q is the model's posterior.
    """
    rng = np.random.default_rng(1)

    def distribution(*shape):
        return rng.dirichlet(np.ones(3), shape)

    prior, reverse1, reverse0 = distribution(1)[0], distribution(3), distribution(3)
    # p[x0, x1, x2] = p(x2) p(x1 | x2) p(x0 | x1)
    joint = np.einsum("c,cb,ba->abc", prior, reverse1, reverse0)
    evidence = joint.sum((1, 2))
    forward1, forward2 = distribution(3), distribution(3)
    q = np.einsum("ab,bc->abc", forward1, forward2)
    bound = -(q * np.log(joint / q)).sum((1, 2))
    assert (bound > -np.log(evidence) + 1e-3).all()
    terms = (
        -np.log(prior)[None, None, :]
        - np.log(reverse1.T[None, :, :] / forward2[None, :, :])
        - np.log(reverse0.T[:, :, None] / forward1[:, :, None])
    )
    assert (q * terms).sum((1, 2)) == pytest.approx(bound, rel=1e-12)
    posterior = joint / evidence[:, None, None]
    tight = -(posterior * np.log(joint / posterior)).sum((1, 2))
    assert tight == pytest.approx(-np.log(evidence), rel=1e-12)


def test_weight_of_a_squared_error_of_x0():
    """The factor of L_{t-1} with variance beta-tilde is half the difference of the SNRs."""
    a_s, a_t = sp.symbols("a_s a_t", positive=True)
    beta = 1 - a_t / a_s
    beta_tilde = (1 - a_s) / (1 - a_t) * beta
    weight = a_s * (beta / (1 - a_t)) ** 2 / (2 * beta_tilde)
    assert is_zero(weight - (a_s / (1 - a_s) - a_t / (1 - a_t)) / 2)
    assert is_zero(weight - (a_s - a_t) / (2 * (1 - a_s) * (1 - a_t)))


# -- schedules.md ---------------------------------------------------------------------------------


def test_ratio_of_two_squared_cosines():
    a, b = sp.symbols("a b", real=True)
    left = 1 - sp.cos(b) ** 2 / sp.cos(a) ** 2
    right = sp.sin(b - a) * sp.sin(a + b) / sp.cos(a) ** 2
    assert is_zero(sp.expand_trig(left - right))


# -- guidance.md ----------------------------------------------------------------------------------


def test_three_conditional_scores_are_one():
    """grad_x of log p(x|y), log p(x, y) and log p(x) + log p(y|x), for a mixture of Gaussians."""
    x, y = sp.symbols("x y", real=True)
    parts = [(0.3, -1, 2, 1.0), (0.7, 1, -1, 0.5)]
    joint = sum(w * normal(x, m, v) * normal(y, n, v) for w, m, n, v in parts)
    of_x = sum(w * normal(x, m, v) for w, m, _, v in parts)
    of_y = sum(w * normal(y, n, v) for w, _, n, v in parts)
    at = {x: sp.Rational(3, 10), y: sp.Rational(-2, 5)}
    scores = [
        sp.diff(sp.log(joint / of_y), x),
        sp.diff(sp.log(joint), x),
        sp.diff(sp.log(of_x) + sp.log(joint / of_x), x),
    ]
    values = [complex(score.subs(at).evalf(30)).real for score in scores]
    assert values == pytest.approx([values[0]] * 3, rel=1e-12)
    of_given = sp.diff(sp.log(joint / of_x), y), sp.diff(sp.log(joint), y)
    blocks = [float(score.subs(at).evalf(30)) for score in of_given]
    assert blocks[0] == pytest.approx(blocks[1], rel=1e-12)


def test_completing_the_square():
    """N(x; mu, S) e^(w g x) / N(x; mu + w S g, S) does not depend on x."""
    x, mu, g, w = sp.symbols("x mu g w", real=True)
    variance = sp.symbols("S", positive=True)
    exponent = -((x - mu) ** 2) / (2 * variance) + w * g * x
    shifted = -((x - mu - w * variance * g) ** 2) / (2 * variance)
    assert is_zero(sp.diff(exponent - shifted, x))


def test_likelihood_of_the_prediction_at_small_noise():
    """For Gaussian data and y = x_0 + noise of variance v, both sides are known.

    The exact left side has the posterior's variance in addition to v; the factor between the two
    tends to 1 with sigma. The right side is the chain rule.
    """
    x, y = sp.symbols("x y", real=True)
    sigma, v = sp.symbols("sigma v", positive=True)
    prediction = x / (1 + sigma**2)
    spread = sigma**2 / (1 + sigma**2)  # the posterior's variance
    left = sp.diff(-((y - prediction) ** 2) / (2 * (v + spread)), x)
    right = sp.diff(-((y - prediction) ** 2) / (2 * v), x)
    estimate = sp.symbols("e", real=True)
    chain = sp.diff(prediction, x) * sp.diff(-((y - estimate) ** 2) / (2 * v), estimate)
    assert is_zero(right - chain.subs(estimate, prediction))
    assert is_zero(left / right - v / (v + spread))
    assert sp.limit(left / right, sigma, 0) == 1


# -- samplers.md ----------------------------------------------------------------------------------


def test_slope_of_a_straight_path():
    x0, eps, sigma, f = sp.symbols("x_0 epsilon sigma f")
    x = (1 - f * sigma) * x0 + sigma * eps
    assert sp.simplify(sp.diff(x, sigma) - (eps - f * x0)) == 0
    assert sp.simplify(sp.diff(x, sigma) - (x - x0) / sigma) == 0


def test_straight_line_of_a_constant_slope():
    """If eps is constant, x' = x_0 + sigma' / sigma (x - x_0) with x_0 = x - sigma eps."""
    x, eps, rho = sp.symbols("x epsilon rho", real=True)
    sigma, after = sp.symbols("sigma sigma_1", positive=True)
    solution = x + sp.integrate(eps, (rho, sigma, after))
    x0 = x - sigma * eps
    assert is_zero(solution - (x0 + after / sigma * (x - x0)))


def test_noise_of_an_ancestral_step():
    """sigma_up for eta = 1 is the deviation of q(x_s | x_t, x_0) over sqrt(alpha_bar_s)."""
    a_s, a_t = sp.symbols("a_s a_t", positive=True)
    before, after = ((1 - a) / a for a in (a_t, a_s))  # squared sigmas
    beta_tilde = (1 - a_s) / (1 - a_t) * (1 - a_t / a_s)
    up = after * (1 - after / before)
    assert is_zero(beta_tilde / a_s - up)
    # the mean of the posterior has sigma_down eps in addition to x_0
    eps = sp.symbols("epsilon", real=True)
    mean = sp.sqrt(a_t / a_s) * (1 - a_s) / (1 - a_t) * sp.sqrt(1 - a_t) * eps
    assert is_zero(mean**2 / a_s - (after - up) * eps**2)


def test_exact_solution_of_the_reverse_equations():
    """Its mean and variance solve dx = -(1 + eta)(x - x_0) dh + sqrt(2 eta) sigma dB."""
    h, u = sp.symbols("h u", positive=True)
    eta, sigma, x, a, b = sp.symbols("eta sigma x a b", positive=True)
    k = (1 + eta) * h

    def x0(u):
        return a + b * u**2

    integral = sp.integrate((1 + eta) * sp.exp(-(1 + eta) * (h - u)) * x0(u), (u, 0, h))
    mean = sp.exp(-k) * x + integral
    assert is_zero(sp.diff(mean, h) + (1 + eta) * (mean - x0(h)))
    assert is_zero(mean.subs(h, 0) - x)
    level = sigma * sp.exp(-h)
    variance = level**2 * (1 - sp.exp(-2 * eta * h))
    slope = -2 * (1 + eta) * variance + 2 * eta * level**2
    assert is_zero(sp.diff(variance, h) - slope) and variance.subs(h, 0) == 0


def test_integral_of_a_parabola():
    h, u = sp.symbols("h u", positive=True)
    eta, x0, first, second = sp.symbols("eta x_0 D_1 D_2", positive=True)
    k = (1 + eta) * h
    parabola = x0 + first * u / h + second * (u / h) ** 2
    integral = sp.integrate((1 + eta) * sp.exp(-(1 + eta) * (h - u)) * parabola, (u, 0, h))
    phi = 1 - (1 - sp.exp(-k)) / k
    assert is_zero(integral - ((1 - sp.exp(-k)) * x0 + phi * first + (1 - 2 * phi / k) * second))


def test_scale_of_cfgpp():
    """CFG++ with scale lambda is Euler's step with w = lambda sigma / (sigma - sigma')."""
    x, of_empty, of_prompt, scale = sp.symbols("x f_0 f_c lambda", real=True)
    sigma, after = sp.symbols("sigma sigma_1", positive=True)

    def guided(w):
        return of_empty + w * (of_prompt - of_empty)

    published = guided(scale) + after / sigma * (x - of_empty)
    w = scale * sigma / (sigma - after)
    euler = guided(w) + after / sigma * (x - guided(w))
    assert is_zero(published - euler)


# -- score.md -------------------------------------------------------------------------------------

B0, B1 = sp.symbols("b_0 b_1", positive=True)
BETA = B0 + (B1 - B0) * T  # linear
INTEGRAL = sp.integrate(BETA, (T, 0, T))
LOW, HIGH = sp.symbols("l h", positive=True)
LEVEL = LOW * (HIGH / LOW) ** T
PROCESSES = {  # drift coefficient, squared diffusion coefficient, mean, variance
    "VP": (-BETA / 2, BETA, sp.exp(-INTEGRAL / 2), 1 - sp.exp(-INTEGRAL)),
    "sub-VP": (
        -BETA / 2,
        BETA * (1 - sp.exp(-2 * INTEGRAL)),
        sp.exp(-INTEGRAL / 2),
        (1 - sp.exp(-INTEGRAL)) ** 2,
    ),
    "VE": (sp.Integer(0), sp.diff(LEVEL**2, T), sp.Integer(1), LEVEL**2),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_mean_and_variance_of_the_diffusions(name):
    """m' = f m and (s^2)' = 2 f s^2 + g^2 for the table's closed forms, from their own starts."""
    f, g2, m, s2 = PROCESSES[name]
    assert is_zero(sp.diff(m, T) - f * m)
    assert is_zero(sp.expand(sp.diff(s2, T) - 2 * f * s2 - g2))
    assert m.subs(T, 0) == 1
    assert is_zero(s2.subs(T, 0) - (LOW**2 if name == "VE" else 0))


@pytest.mark.parametrize("name", PROCESSES)
def test_transitions_of_the_diffusions(name):
    """x(t) given x(t') has mean a x(t') and variance v, which solve the same equations from t'."""
    f, g2, m, s2 = PROCESSES[name]
    start = sp.symbols("t_1", positive=True)
    a = m / m.subs(T, start)
    v = s2 - a**2 * s2.subs(T, start)
    assert is_zero(sp.diff(a, T) - f * a)
    assert is_zero(sp.expand(sp.diff(v, T) - 2 * f * v - g2))
    assert is_zero(a.subs(T, start) - 1) and is_zero(v.subs(T, start))


def test_diffusion_term_moves_into_the_drift():
    """-(f x p)' + g^2 p'' / 2 = -((f x - g^2 (log p)' / 2) p)', for every density p > 0."""
    x, f, g = sp.symbols("x f g", real=True)
    p = sp.Function("p", positive=True)(x)
    left = -sp.diff(f * x * p, x) + g**2 / 2 * sp.diff(p, x, 2)
    right = -sp.diff((f * x - g**2 / 2 * sp.diff(sp.log(p), x)) * p, x)
    assert is_zero(left - right)
