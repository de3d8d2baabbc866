"""The forward process, and the prediction types of a network."""

from __future__ import annotations

import numpy as np

from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, spread, to_host
from ldmref.math import q_posterior
from ldmref.math.arrays import Array, along

chapter = Chapter("forward")
PREDICTIONS = ("x0_from_eps", "eps_from_x0", "v_from_x0_eps", "x0_from_v", "eps_from_v")


# Roundings: 2.5 in each of 6 steps, 8 in the oracle.
@chapter.identity("q_step", "the closed form of the chain", 24)
def coefficients_of_the_chain_make_alpha_bar(f: Functions, rng: RandomInputs) -> Comparison:
    """Represent the state by its coefficients: of x_0, then of the noise of every step."""
    betas = rng.betas(6)
    state = rng.array(np.eye(1, 7))
    noise = rng.array(np.eye(7))
    for t, beta in enumerate(betas):
        state = f.q_step(state, float(beta), noise[t + 1 : t + 2, ...])
    coefficients = to_host(state)[0]
    alpha_bar = np.prod(1 - betas)
    got = [coefficients[0], np.sum(coefficients[1:] ** 2)]
    return got, [np.sqrt(alpha_bar), 1 - alpha_bar]


# Roundings: 3.5 in each of the oracle's 6 steps, 6 of alpha-bar, 3 of the function.
@chapter.identity("q_sample", "moments of the chain q(x_t|x_{t-1})", 30)
def chain_of_single_steps(f: Functions, rng: RandomInputs) -> Comparison:
    """Mean and variance of x_t, step by step: m <- sqrt(1-b) m, v <- (1-b) v + b."""
    betas = rng.betas(6)
    x0 = rng.normal(3, 4)
    mean = 1.0
    variance = 0.0
    for beta in betas:
        mean = np.sqrt(1 - beta) * mean
        variance = (1 - beta) * variance + beta
    alpha_bar = float(np.prod(1 - betas))
    zero = 0.0 * x0
    got = [f.q_sample(x0, alpha_bar, zero), f.q_sample(zero, alpha_bar, x0)]
    return got, [mean * to_host(x0), np.sqrt(variance) * to_host(x0)]


# Roundings: 6 of x - mean and 2 of the square; 8 of the three densities that are wider; 18 each in
# mean and variance, since 1 - alpha amplifies the 2 of alpha up to 9 times.
@chapter.identity("q_posterior", "Bayes' rule on log densities", 52, amplified=9)
def bayes_rule_in_log_densities(f: Functions, rng: RandomInputs) -> Comparison:
    """log q(x_s|x_t,x_0) + log q(x_t|x_0) = log q(x_t|x_s) + log q(x_s|x_0), at any x_s."""
    before = rng.number(0.3, 0.95)
    alpha = rng.number(0.3, 0.9)
    now = before * alpha
    (x0, xt, xs) = rng.normals(3, 4, 3)
    mean, variance = f.q_posterior(x0, xt, now, before)
    variance = spread(variance, x0)

    def log_density(x: Array, m: Array, v: Array) -> np.ndarray:
        return -0.5 * (to_host(x) - to_host(m)) ** 2 / v - 0.5 * np.log(2 * np.pi * v)

    got = log_density(xs, mean, variance) + log_density(xt, now**0.5 * to_host(x0), 1 - now)
    step = log_density(xt, alpha**0.5 * to_host(xs), 1 - alpha)
    sizes = sum(abs(to_host(x)) for x in (x0, xt, xs))
    expected = step + log_density(xs, before**0.5 * to_host(x0), 1 - before)
    narrowest = (1 - before) * (1 - alpha) / (1 - now)
    return got, expected, sizes**2 / narrowest


# Roundings: 8 here; 1 - a / b amplifies up to 9 roundings in the oracle, 7 more.
@chapter.identity("q_posterior", "precision-weighted means", 24, amplified=9)
def precisions_of_both_neighbours_add_up(f: Functions, rng: RandomInputs) -> Comparison:
    """One alpha-bar per example: q(x_s|x_0) and q(x_t|x_s) are two measurements of x_s."""
    before = rng.uniform(0.3, 0.95, 4)
    now = before * rng.uniform(0.3, 0.9, 4)
    x0, xt = rng.normals(2, 4, 3)
    a = to_host(now)[:, None]
    b = to_host(before)[:, None]
    precision_xt = (a / b) / (1 - a / b)
    precision_x0 = 1 / (1 - b)
    variance = 1 / (precision_xt + precision_x0)
    weighted = precision_xt * np.sqrt(b / a) * to_host(xt) + precision_x0 * np.sqrt(b) * to_host(x0)
    got_mean, got_variance = f.q_posterior(x0, xt, now, before)
    got = {"mean": got_mean, "variance": spread(got_variance, x0)}
    return got, [variance * weighted, spread(variance, x0)], 4.0


# Roundings: 7 of values up to 4, divided by 0.22: of size 12 in the mean of all.
@chapter.identity("x0_from_eps", "round trips", 9, uses=(*PREDICTIONS, "q_sample"))
@chapter.identity("eps_from_x0", "round trips", 9, uses=(*PREDICTIONS, "q_sample"))
def every_prediction_leads_to_every_other(f: Functions, rng: RandomInputs) -> Comparison:
    (x0, eps) = rng.normals(2, 3, 4)
    alpha_bar = rng.uniform(0.05, 0.95, 3)
    xt = f.q_sample(x0, alpha_bar, eps)
    v = f.v_from_x0_eps(x0, eps, alpha_bar)
    got = {
        "x0_from_eps": f.x0_from_eps(xt, eps, alpha_bar),
        "eps_from_x0": f.eps_from_x0(xt, x0, alpha_bar),
        "x0_from_v": f.x0_from_v(xt, v, alpha_bar),
        "eps_from_v": f.eps_from_v(xt, v, alpha_bar),
    }
    return got, [x0, eps, x0, eps], 10.0


def both_unknowns(xt: Array, v: Array, alpha_bar: Array) -> tuple[np.ndarray, np.ndarray]:
    """Solve x_t = a x_0 + b eps, v = a eps - b x_0 for (x_0, eps), example by example."""
    solved = []
    for x, w, now in zip(to_host(xt), to_host(v), to_host(alpha_bar), strict=True):
        a, b = np.sqrt(now), np.sqrt(1 - now)
        solved.append(np.linalg.solve([[a, b], [-b, a]], [x, w]))
    x0, eps = np.moveaxis(np.asarray(solved), 1, 0)
    return x0, eps


# Roundings: 6 here; 12 of a system of two equations, whose matrix is a rotation.
@chapter.identity("x0_from_v", "numpy.linalg.solve", 18)
def data_that_solve_both_definitions(f: Functions, rng: RandomInputs) -> Comparison:
    xt, v = rng.normals(2, 3, 4)
    alpha_bar = rng.uniform(0.05, 0.95, 3)
    return f.x0_from_v(xt, v, alpha_bar), both_unknowns(xt, v, alpha_bar)[0], 4.0


# Roundings: 6 here; 12 of a system of two equations, whose matrix is a rotation.
@chapter.identity("eps_from_v", "numpy.linalg.solve", 18)
def noise_that_solves_both_definitions(f: Functions, rng: RandomInputs) -> Comparison:
    xt, v = rng.normals(2, 3, 4)
    alpha_bar = rng.uniform(0.05, 0.95, 3)
    return f.eps_from_v(xt, v, alpha_bar), both_unknowns(xt, v, alpha_bar)[1], 4.0


# Roundings: 6 here; of the angle 8 (acos amplifies the root's 4 times), 6 more.
@chapter.identity("v_from_x0_eps", "trigonometry", 20, amplified=4)
def quarter_turn_of_the_angle_of_noise(f: Functions, rng: RandomInputs) -> Comparison:
    """x_t is cos(angle) x_0 + sin(angle) eps; v is x_t a quarter turn further."""
    (x0, eps) = rng.normals(2, 3, 4)
    alpha_bar = rng.uniform(0.05, 0.95, 3)
    angle = np.arccos(np.sqrt(to_host(alpha_bar)))[:, None] + np.pi / 2
    expected = np.cos(angle) * to_host(x0) + np.sin(angle) * to_host(eps)
    return f.v_from_x0_eps(x0, eps, alpha_bar), expected, 4.0


# Roundings: 5 of x_t, up to 4, divided by 1 - alpha-bar down to 0.05, of an expectation of 10.
@chapter.identity("score_from_eps", "the Gaussian's own score", 40, uses=("q_sample",), amplified=8)
def gradient_of_the_log_density(f: Functions, rng: RandomInputs) -> Comparison:
    """Use a single clean x_0, for which p(x_t) is Gaussian and its score known."""
    (x0, eps) = rng.normals(2, 3, 4)
    alpha_bar = rng.number(0.05, 0.95)
    xt = f.q_sample(x0, alpha_bar, eps)
    expected = -(to_host(xt) - alpha_bar**0.5 * to_host(x0)) / (1 - alpha_bar)
    return f.score_from_eps(eps, alpha_bar), expected, 10.0


def normal_data(rng: RandomInputs) -> tuple[Array, Array, np.ndarray, np.ndarray]:
    """(x_t, alpha-bar, score, E[x_0|x_t]) for data N(m, v), with m and v per example."""
    alpha_bar = rng.uniform(0.1, 0.9, 4)
    xt = rng.normal(4, 3)
    m = rng.numpy.uniform(-2, 2, (4, 1))
    v = rng.numpy.uniform(0.2, 2, (4, 1))
    a = to_host(alpha_bar)[:, None]
    x = to_host(xt)
    score = -(x - np.sqrt(a) * m) / (a * v + 1 - a)
    posterior_mean = (m / v + np.sqrt(a) * x / (1 - a)) / (1 / v + a / (1 - a))
    return xt, alpha_bar, score, posterior_mean


# Roundings: 5 of values up to 4, divided by 0.32; as many in the oracle, of a scale of 10.
@chapter.identity("x0_from_score", "conjugate Gaussians", 10)
def posterior_mean_of_normal_data(f: Functions, rng: RandomInputs) -> Comparison:
    xt, alpha_bar, score, posterior_mean = normal_data(rng)
    return f.x0_from_score(xt, rng.array(score), alpha_bar), posterior_mean, 10.0


# Roundings: 4 of values up to 4, divided by 0.1, of a scale of 10; 8 in the oracle.
@chapter.identity("score_from_x0", "conjugate Gaussians", 24, amplified=4)
def score_of_normal_data(f: Functions, rng: RandomInputs) -> Comparison:
    xt, alpha_bar, score, posterior_mean = normal_data(rng)
    return f.score_from_x0(xt, rng.array(posterior_mean), alpha_bar), score, 10.0


# Roundings: 4 here; 8 of values up to 4 in the oracle, divided by 0.32.
@chapter.identity("eps_from_score", "conjugate Gaussians", 30, amplified=3.2)
def noise_in_normal_data(f: Functions, rng: RandomInputs) -> Comparison:
    xt, alpha_bar, score, posterior_mean = normal_data(rng)
    a = to_host(alpha_bar)[:, None]
    expected = (to_host(xt) - np.sqrt(a) * posterior_mean) / np.sqrt(1 - a)
    return f.eps_from_score(rng.array(score), alpha_bar), expected, 4.0


# -- mistakes --------------------------------------------------------------------------------------


def with_the_forward_variance(
    x0: Array, xt: Array, now: Array, before: Array
) -> tuple[Array, Array]:
    """Return the variance of the step from before to now."""
    mean, _ = q_posterior(x0, xt, now, before)
    return mean, 1 - along(now, x0) / along(before, x0) + np.zeros(np.shape(along(now, x0)))


def taken_for_noise(xt: Array, v: Array, alpha_bar: Array) -> Array:
    """Take v for a prediction of the noise."""
    kept = along(alpha_bar, xt)
    return (xt - np.sqrt(1 - kept) * v) / np.sqrt(kept)


# fmt: off
chapter.known_mistakes("q_posterior", {
    "the variance is beta, that of the forward step; the factor of the posterior is missing":
        with_the_forward_variance,
})
chapter.known_mistakes("x0_from_v", {
    "v is taken for the noise, as if the network predicted eps": taken_for_noise,
})
# fmt: on
