"""The forward process, and what a network may predict."""

from __future__ import annotations

import numpy as np

from ldmref.check.identity import Draw, Functions, Identity, to_host

PREDICTIONS = ("x0_from_eps", "eps_from_x0", "v_from_x0_eps", "x0_from_v", "eps_from_v")


def coefficients_of_the_chain_make_alpha_bar(f: Functions, draw: Draw):
    """Rows are coefficients: of x_0, then of the noise of every step."""
    betas = draw.betas(6)
    state, noise = draw.array(np.eye(1, 7)), draw.array(np.eye(7))
    for t, beta in enumerate(betas):
        state = f.q_step(state, float(beta), noise[t + 1 : t + 2, ...])
    got, level = to_host(state)[0], np.prod(1 - betas)
    return [got[0], np.sum(got[1:] ** 2)], [np.sqrt(level), 1 - level]


def chain_of_single_steps(f: Functions, draw: Draw):
    """Mean and variance of x_t, step by step: m <- sqrt(1-b) m, v <- (1-b) v + b."""
    betas, x0 = draw.betas(6), draw.normal(3, 4)
    mean, variance = 1.0, 0.0
    for beta in betas:
        mean, variance = np.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
    level, zero = float(np.prod(1 - betas)), 0.0 * x0
    got = draw.xp.stack([f.q_sample(x0, level, zero), f.q_sample(zero, level, x0)])
    x = to_host(x0)
    return got, np.stack([mean * x, np.sqrt(variance) * x])


def bayes_rule_in_log_densities(f: Functions, draw: Draw):
    """log q(x_s|x_t,x_0) + log q(x_t|x_0) = log q(x_t|x_s) + log q(x_s|x_0), at any x_s."""
    before = draw.number(0.3, 0.95)
    now = before * draw.number(0.3, 0.9)
    x0, xt, xs = draw.normal(4, 3), draw.normal(4, 3), draw.normal(4, 3)
    mean, variance = f.q_posterior(x0, xt, now, before)
    alpha = now / before

    def log_density(x, m, v):
        x, m, v = to_host(x), to_host(m), float(v)
        return -0.5 * (x - m) ** 2 / v - 0.5 * np.log(2 * np.pi * v)

    got = log_density(xs, mean, variance) + log_density(xt, now**0.5 * to_host(x0), 1 - now)
    step = log_density(xt, alpha**0.5 * to_host(xs), 1 - alpha)
    return got, step + log_density(xs, before**0.5 * to_host(x0), 1 - before), 100.0


def precisions_of_both_neighbours_add_up(f: Functions, draw: Draw):
    """A level for each example: q(x_s|x_0) and q(x_t|x_s) are two measurements of x_s."""
    before = draw.uniform(0.3, 0.95, 4)
    now = before * draw.uniform(0.3, 0.9, 4)
    x0, xt = draw.normal(4, 3), draw.normal(4, 3)
    mean, variance = f.q_posterior(x0, xt, now, before)
    a, b = to_host(now)[:, None], to_host(before)[:, None]
    of_xt, of_x0 = (a / b) / (1 - a / b), 1 / (1 - b)
    spread = 1 / (of_xt + of_x0)
    middle = of_xt * np.sqrt(b / a) * to_host(xt) + of_x0 * np.sqrt(b) * to_host(x0)
    got = np.concatenate([to_host(mean), to_host(variance) + np.zeros((4, 1))], axis=1)
    return got, np.concatenate([spread * middle, spread], axis=1), 4.0


def every_prediction_leads_to_every_other(f: Functions, draw: Draw):
    x0, eps, level = draw.normal(3, 4), draw.normal(3, 4), draw.uniform(0.05, 0.95, 3)
    xt = f.q_sample(x0, level, eps)
    v = f.v_from_x0_eps(x0, eps, level)
    got = [f.x0_from_eps(xt, eps, level), f.eps_from_x0(xt, x0, level), f.x0_from_v(xt, v, level),
           f.eps_from_v(xt, v, level)]  # fmt: skip
    return draw.xp.stack(got), draw.xp.stack([x0, eps, x0, eps]), 10.0


def quarter_turn_of_the_angle_of_noise(f: Functions, draw: Draw):
    """x_t is cos(angle) x_0 + sin(angle) eps; v is the same a quarter turn on."""
    x0, eps, level = draw.normal(3, 4), draw.normal(3, 4), draw.uniform(0.05, 0.95, 3)
    angle = np.arccos(np.sqrt(to_host(level)))[:, None] + np.pi / 2
    want = np.cos(angle) * to_host(x0) + np.sin(angle) * to_host(eps)
    return f.v_from_x0_eps(x0, eps, level), want, 4.0


def gradient_of_the_log_density(f: Functions, draw: Draw):
    """For clean data x_0 alone, p(x_t) is Gaussian and its score known."""
    x0, eps, level = draw.normal(3, 4), draw.normal(3, 4), draw.number(0.05, 0.95)
    xt = f.q_sample(x0, level, eps)
    want = -(to_host(xt) - level**0.5 * to_host(x0)) / (1 - level)
    return f.score_from_eps(eps, level), want, 10.0


def normal_data(draw: Draw):
    """x_t of data N(m, v), its level, score and posterior mean, each example with its own."""
    level, xt = draw.uniform(0.1, 0.9, 4), draw.normal(4, 3)
    m, v = draw.stream.uniform(-2, 2, (4, 1)), draw.stream.uniform(0.2, 2, (4, 1))
    a, x = to_host(level)[:, None], to_host(xt)
    score = -(x - np.sqrt(a) * m) / (a * v + 1 - a)
    posterior = (m / v + np.sqrt(a) * x / (1 - a)) / (1 / v + a / (1 - a))
    return xt, level, score, posterior


def posterior_mean_of_normal_data(f: Functions, draw: Draw):
    xt, level, score, posterior = normal_data(draw)
    return f.x0_from_score(xt, draw.array(score), level), posterior, 10.0


def score_of_normal_data(f: Functions, draw: Draw):
    xt, level, score, posterior = normal_data(draw)
    return f.score_from_x0(xt, draw.array(posterior), level), score, 10.0


def noise_in_normal_data(f: Functions, draw: Draw):
    xt, level, score, posterior = normal_data(draw)
    a = to_host(level)[:, None]
    want = (to_host(xt) - np.sqrt(a) * posterior) / np.sqrt(1 - a)
    return f.eps_from_score(draw.array(score), level), want, 4.0


IDENTITIES = [
    Identity("q_step", "the closed form of the chain", coefficients_of_the_chain_make_alpha_bar, 6),
    Identity("q_sample", "moments of the chain q(x_t|x_{t-1})", chain_of_single_steps, 8),
    Identity("q_posterior", "Bayes' rule on log densities", bayes_rule_in_log_densities, 8),
    Identity("q_posterior", "precision-weighted means", precisions_of_both_neighbours_add_up, 4),
    Identity("x0_from_eps", "round trips", every_prediction_leads_to_every_other, 2,
             (*PREDICTIONS, "q_sample")),
    Identity("v_from_x0_eps", "trigonometry", quarter_turn_of_the_angle_of_noise, 6),
    Identity("score_from_eps", "the Gaussian's own score", gradient_of_the_log_density, 8,
             ("q_sample",)),
    Identity("x0_from_score", "conjugate Gaussians", posterior_mean_of_normal_data, 3),
    Identity("score_from_x0", "conjugate Gaussians", score_of_normal_data, 10),
    Identity("eps_from_score", "conjugate Gaussians", noise_in_normal_data, 12),
]  # fmt: skip
