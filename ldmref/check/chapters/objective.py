"""DDPM's objective: variances, the bound and its terms, weights, the two algorithms."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from ldmref.check.identity import Draw, Functions, Identity, to_host

TYPES = ("x0", "eps", "v")


def two_levels(draw: Draw) -> tuple[float, float]:
    """(alpha-bar at t, alpha-bar at s)."""
    before = draw.number(0.2, 0.95)
    return before * draw.number(0.5, 0.95), before


def precisions_of_a_product_add(f: Functions, draw: Draw):
    """q(x_s|x_0) q(x_t|x_s) is Gaussian in x_s; and beta is the variance of q(x_t|x_s)."""
    now, before = two_levels(draw)
    alpha = now / before
    small = 1 / (1 / (1 - before) + alpha / (1 - alpha))
    levels = draw.array([now]), draw.array([before])
    got = [f.posterior_variance(*levels), f.posterior_variance(*levels, "fixed_large")]
    return draw.xp.concat(got), [small, 1 - alpha]


def a_recursion_on_the_host(f: Functions, draw: Draw):
    betas, level, want = draw.betas(draw.integer(2, 8)), 1.0, []
    for beta in betas:
        before, level = level, level * (1 - beta)
        want.append(beta * (1 - before) / (1 - level))
    want[0] = want[1]
    # 1 - alpha_bar has lost digits where alpha_bar is close to 1
    return f.posterior_logvar_clipped(draw.array(betas)), np.log(want), 1 / betas.min()


def a_geometric_mean_of_two_variances(f: Functions, draw: Draw):
    v, lower = draw.uniform(-1.5, 1.5, 2, 3), draw.number(1e-3, 0.1)
    upper = lower * draw.number(1.0, 3.0)
    share = (to_host(v) + 1) / 2
    want = np.log(upper**share * lower ** (1 - share))
    return f.learned_range_logvar(v, upper, lower), want


def half_of_the_snr_that_a_step_loses(f: Functions, draw: Draw):
    levels = [draw.array([z]) for z in two_levels(draw)]
    now, before = (Fraction(float(to_host(z)[0])) for z in levels)
    weight = (before / (1 - before) - now / (1 - now)) / 2
    want = [weight, weight * (1 - now) / now, weight * (1 - now)]
    return draw.xp.concat([f.elbo_weight(*levels, k) for k in TYPES]), [float(w) for w in want]


def divergence_of_two_ddpm_steps(f: Functions, draw: Draw):
    """Two predictions of eps, one variance: the weight times their squared distance."""
    now, before = two_levels(draw)
    beta, variance = 1 - now / before, draw.number(0.05, 1.0)
    xt, one, two = draw.normal(2, 3), draw.normal(2, 3), draw.normal(2, 3)
    means = [f.ddpm_step(xt, eps, beta, now) for eps in (one, two)]
    logvar = draw.xp.full_like(xt, math.log(variance))
    want = f.kl_normal(means[0], logvar, means[1], logvar)
    return f.eps_weight(beta, variance, now) * (one - two) ** 2, want, 1 / variance


def the_smaller_of_snr_and_gamma(f: Functions, draw: Draw):
    level, gamma = draw.uniform(0.05, 0.95, 6), draw.number(0.5, 10.0)
    a = to_host(level)
    capped = np.minimum(a / (1 - a), gamma)
    want = [capped, capped * (1 - a) / a, capped * (1 - a)]
    return draw.xp.stack([f.min_snr_weight(level, k, gamma) for k in TYPES]), np.stack(want)


def mean_of_squares_on_the_host(f: Functions, draw: Draw):
    prediction, target = draw.normal(3, 2, 4), draw.normal(3, 2, 4)
    want = [np.mean(row) for row in (to_host(prediction) - to_host(target)) ** 2]
    return f.simple_loss(prediction, target), want


def a_thousandth_of_the_bound_is_added(f: Functions, draw: Draw):
    simple, bound = draw.uniform(0.0, 2.0, 4), draw.uniform(0.0, 100.0, 4)
    return f.hybrid_loss(simple, bound), (1000 * to_host(simple) + to_host(bound)) / 1000


def prior_term_by_gauss_hermite(f: Functions, draw: Draw):
    """E_q[log q(x_T|x_0) - log p(x_T)], exactly: the integrand is a polynomial of degree two."""
    x0, level = draw.normal(4), draw.number(0.0, 0.9)
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    x = math.sqrt(level) * to_host(x0)[:, None] + math.sqrt(1 - level) * nodes
    want = (0.5 * (x**2 - nodes**2 - math.log(1 - level))) @ weights / weights.sum()
    return f.prior_kl(x0, level), want


def snr_weighted_squared_error(f: Functions, draw: Draw):
    x0, guess, (now, before) = draw.normal(3, 4), draw.normal(3, 4), two_levels(draw)
    weight = 0.5 * (before / (1 - before) - now / (1 - now))
    want = weight * (to_host(x0) - to_host(guess)) ** 2
    return f.denoising_kl(x0, guess, now, before), want, 1 + want


def divergence_of_the_two_posteriors(f: Functions, draw: Draw):
    """As it is written, with x_t in both means, and with any variance."""
    x0, guess, xt, (now, before) = *(draw.normal(3, 4) for _ in range(3)), two_levels(draw)
    logvar = draw.xp.full_like(x0, draw.number(-2.0, 1.0))
    (one, variance), (two, _) = (f.q_posterior(z, xt, now, before) for z in (x0, guess))
    true = draw.xp.full_like(x0, math.log(float(variance)))
    want = f.kl_normal(one, true, two, logvar)
    scale = 1 + to_host(draw.xp.exp(-logvar)) * (1 + np.abs(to_host(one - two)))
    return f.denoising_kl(x0, guess, now, before, logvar), want, scale


def closed_form_for_gaussian_data(f: Functions, draw: Draw):
    """All terms are quadratic in x_0 and eps: three Gauss-Hermite nodes give expectations."""
    mean, spread = draw.number(-1.0, 1.0), draw.number(0.3, 1.5)
    levels = np.sort(draw.stream.uniform(0.05, 0.95, 4))[::-1]
    snr = levels / (1 - levels)
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    x0, eps = (draw.array(z.reshape(9, 1)) for z in np.meshgrid(mean + spread * nodes, nodes))
    error = 1 / (1 / spread**2 + snr)  # of the exact denoiser, squared

    def denoise(xt, t):
        own = float(math.sqrt(levels[t]) / (1 - levels[t]))
        return (own * xt + mean / spread**2) * float(error[t])

    bound = f.variational_bound(
        x0, levels, denoise, lambda: eps, "fixed_large", f.normal_log_density
    )
    share = np.outer(weights, weights).ravel() / weights.sum() ** 2
    got = [share @ to_host(bound.prior), *(to_host(bound.denoising) @ share)]
    prior = levels[-1] * (mean**2 + spread**2 - 1) - math.log(1 - levels[-1])
    ratio = (1 - levels[:-1]) / (1 - levels[1:])  # of beta-tilde and beta
    terms = (snr[:-1] - snr[1:]) * error[1:] * ratio + ratio - 1 - np.log(ratio)
    first = math.log(2 * math.pi * (1 - levels[0])) + error[0] / (1 - levels[0])
    got.append(share @ to_host(bound.reconstruction))
    return got, 0.5 * np.asarray([prior, *terms, first]), 1 / (1 - levels[0])


def data_come_back_from_every_target(f: Functions, draw: Draw):
    x0, eps, level = draw.normal(3, 4), draw.normal(3, 4), draw.uniform(0.05, 0.95, 3)
    pairs = {k: f.training_pair(x0, level, eps, k) for k in TYPES}
    a = draw.xp.reshape(level, (3, 1))
    back = [pairs["x0"][1], (pairs["eps"][0] - (1 - a) ** 0.5 * pairs["eps"][1]) / a**0.5]
    back.append(a**0.5 * pairs["v"][0] - (1 - a) ** 0.5 * pairs["v"][1])
    return draw.xp.stack(back), draw.xp.stack([x0, x0, x0])


def a_loop_over_the_batch(f: Functions, draw: Draw):
    x0, eps, levels = draw.normal(3, 4), draw.normal(3, 4), draw.uniform(0.05, 0.95, 5)
    steps = [draw.integer(0, 4) for _ in range(3)]
    t = draw.xp.asarray(steps, dtype=draw.xp.int64, device=draw.device)
    want = []
    for a, e, level in zip(to_host(x0), to_host(eps), to_host(levels)[steps], strict=True):
        xt = math.sqrt(level) * a + math.sqrt(1 - level) * e
        want.append(np.mean((0.5 * xt - e) ** 2))
    return f.training_loss(lambda xt, t: 0.5 * xt, x0, t, eps, levels), want


def posterior_at_the_data_that_eps_implies(f: Functions, draw: Draw):
    xt, eps, z, (now, before) = *(draw.normal(3, 4) for _ in range(3)), two_levels(draw)
    mean, variance = f.q_posterior(f.x0_from_eps(xt, eps, now), xt, now, before)
    sigma = math.sqrt(float(variance))
    return f.ddpm_step(xt, eps, 1 - now / before, now, sigma, z), mean + sigma * z, 2.0


def marginals_of_standard_normal_data_stay(f: Functions, draw: Draw):
    """eps = sqrt(1 - abar) x_t there; states are written as coefficients of independent noises."""
    betas = draw.betas(5)
    levels, unit = np.cumprod(1 - betas), iter(np.eye(6)[1:])
    states = f.ddpm_sample(
        lambda xt, t: math.sqrt(1 - levels[t]) * xt, draw.array(np.eye(6)[:1]), betas,
        lambda: draw.array(next(unit)[None, :]), "fixed_large",
    )  # fmt: skip
    got = [float((to_host(x) ** 2).sum()) for x in states]
    return got, [1.0, 1.0, 1.0, 1.0, 1 - betas[0]]


IDENTITIES = [
    Identity("posterior_variance", "Bayes' rule: precisions", precisions_of_a_product_add, 4),
    Identity("posterior_logvar_clipped", "the recursion", a_recursion_on_the_host, 4),
    Identity("learned_range_logvar", "powers", a_geometric_mean_of_two_variances, 8),
    Identity("elbo_weight", "exact fractions", half_of_the_snr_that_a_step_loses, 12),
    Identity("eps_weight", "the divergence of Gaussians", divergence_of_two_ddpm_steps, 20,
             ("ddpm_step", "kl_normal")),
    Identity("min_snr_weight", "numpy.minimum", the_smaller_of_snr_and_gamma, 5),
    Identity("simple_loss", "numpy.mean", mean_of_squares_on_the_host, 8),
    Identity("hybrid_loss", "the definition", a_thousandth_of_the_bound_is_added, 4),
    Identity("prior_kl", "Gauss-Hermite quadrature", prior_term_by_gauss_hermite, 8),
    Identity("denoising_kl", "the SNR form", snr_weighted_squared_error, 16),
    Identity("denoising_kl", "the KL form", divergence_of_the_two_posteriors, 12,
             ("q_posterior", "kl_normal")),
    Identity("variational_bound", "expectations in closed form", closed_form_for_gaussian_data, 8,
             ("normal_log_density",)),
    Identity("training_pair", "the inverse rotation", data_come_back_from_every_target, 16),
    Identity("training_loss", "a loop in NumPy", a_loop_over_the_batch, 16),
    Identity("ddpm_step", "the posterior, eq. 7", posterior_at_the_data_that_eps_implies, 16,
             ("q_posterior", "x0_from_eps")),
    Identity("ddpm_sample", "the exact variance", marginals_of_standard_normal_data_stay, 12),
]  # fmt: skip
