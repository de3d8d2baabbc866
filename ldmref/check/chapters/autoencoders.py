"""Autoencoders, plain and variational: divergences, losses, likelihoods, bounds.

The variational identities use the model z ~ N(0, 1), x|z ~ N(w z, s^2), of which the evidence and
the posterior are known.
"""

from __future__ import annotations

import math

import numpy as np

from ldmref.check.identity import Draw, Functions, Identity, to_host

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


def moments_of_two_points(f: Functions, draw: Draw):
    """Noise of +-1 has mean 0 and variance 1: so must z have the mean and variance asked for."""
    mean, logvar = draw.normal(5), draw.uniform(-3.0, 2.0, 5)
    one = draw.xp.ones_like(mean)
    up, down = f.reparameterize(mean, logvar, one), f.reparameterize(mean, logvar, -one)
    got = draw.xp.stack([0.5 * (up + down), (0.5 * (up - down)) ** 2])
    return got, draw.xp.stack([mean, draw.xp.exp(logvar)]), 10.0


def integral_by_gauss_hermite(f: Functions, draw: Draw):
    """E_1[log p_1 - log p_2], exactly, because the integrand is a polynomial of degree two."""
    m1, m2 = draw.number(-2, 2), draw.number(-2, 2)
    l1, l2 = draw.number(-2, 2), draw.number(-2, 2)
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    x = m1 + np.exp(l1 / 2) * nodes
    log_ratio = 0.5 * (l2 - l1 - nodes**2 + (x - m2) ** 2 * np.exp(-l2))
    want = (weights / weights.sum()) @ log_ratio
    return f.kl_normal(*(draw.array([v]) for v in (m1, l1, m2, l2))), [want], 100.0


def special_case_of_kl_normal(f: Functions, draw: Draw):
    mean, logvar = draw.normal(5), draw.uniform(-3.0, 3.0, 5)
    zero = 0.0 * mean
    return f.kl_standard_normal(mean, logvar), f.kl_normal(mean, logvar, zero, zero), 30.0


def law_of_cosines(f: Functions, draw: Draw):
    """|x - y|^2 = |x|^2 + |y|^2 - 2 x.y"""
    x, y = draw.normal(3, 2, 2), draw.normal(3, 2, 2)
    a, b = (to_host(z).reshape(3, 4) for z in (x, y))
    lengths = (a * a).sum(axis=1) + (b * b).sum(axis=1)
    return f.squared_error(x, y), lengths - 2.0 * (a * b).sum(axis=1), lengths


def length_lost_by_orthonormal_weights(f: Functions, draw: Draw):
    """|x - x Q Q^T|^2 = |x|^2 - |x Q|^2"""
    basis = np.linalg.qr(draw.stream.standard_normal((4, 2)))[0]
    encoder, decoder, x = draw.array(basis), draw.array(basis.T), draw.normal(3, 4)
    got = f.autoencoder_loss(x, lambda x: x @ encoder, lambda z: z @ decoder)
    a, q = to_host(x), to_host(encoder)
    lengths = (a * a).sum(axis=1)
    return got, lengths - ((a @ q) ** 2).sum(axis=1), 4.0 * lengths


def bias_and_variance_of_shrinkage(f: Functions, draw: Draw):
    """E(x - c (x + sigma e))^2 = (1 - c)^2 + c^2 sigma^2 for x and e = +-1."""
    c, sigma = draw.number(0, 1), draw.number(0, 2)
    x, noise = (
        draw.array([[1.0], [1.0], [-1.0], [-1.0]]),
        draw.array([[1.0], [-1.0], [1.0], [-1.0]]),
    )
    seen = f.gaussian_corruption(x, noise, sigma)
    losses = f.denoising_loss(x, seen, lambda x: c * x, lambda z: z)
    return draw.xp.mean(losses), (1 - c) ** 2 + (c * sigma) ** 2, 10.0


def least_noise_is_lost(f: Functions, draw: Draw):
    """The survivors are those with the largest noise, found by sorting."""
    x, noise, lost = draw.normal(3, 2, 4), draw.uniform(0, 1, 3, 2, 4), draw.integer(0, 8)
    want, u = to_host(x).reshape(3, 8).copy(), to_host(noise).reshape(3, 8)
    for row, ranks in zip(want, u.argsort(axis=1), strict=True):
        row[ranks[:lost]] = 0.0
    return f.masking_corruption(x, noise, lost / 8), want.reshape(3, 2, 4)


def cross_entropy_less_entropy(f: Functions, draw: Draw):
    p, q = draw.uniform(0.01, 0.99, 5), draw.uniform(0.01, 0.99, 5)
    a, b = to_host(p), to_host(q)
    cross = -(a * np.log(b) + (1 - a) * np.log1p(-b))
    entropy = -(a * np.log(a) + (1 - a) * np.log1p(-a))
    return f.kl_bernoulli(p, q), cross - entropy, 1.0 + cross


def log_likelihood_ratio_of_the_rates(f: Functions, draw: Draw):
    """What a unit of mean activation m loses per observation when rho is the truth."""
    h, rho = draw.uniform(0.05, 0.95, 6, 3), draw.number(0.05, 0.95)
    m = to_host(h).mean(axis=0)
    want = np.log((rho / m) ** rho * ((1 - rho) / (1 - m)) ** (1 - rho)).sum()
    return f.kl_sparsity(h, rho), want, 10.0


def positive_and_negative_parts(f: Functions, draw: Draw):
    h = draw.normal(3, 2, 2)
    a = to_host(h).reshape(3, 4)
    return f.l1_sparsity(h), np.maximum(a, 0).sum(axis=1) + np.maximum(-a, 0).sum(axis=1)


def logarithm_of_the_bell_curve(f: Functions, draw: Draw):
    x, mean, logvar = draw.normal(5), draw.normal(5), draw.uniform(-2, 2, 5)
    v, m, std = to_host(x), to_host(mean), np.exp(0.5 * to_host(logvar))
    density = np.exp(-0.5 * ((v - m) / std) ** 2) / (std * math.sqrt(2 * math.pi))
    return f.normal_log_density(x, mean, logvar), np.log(density), 100.0


def sum_of_logarithms_of_densities(f: Functions, draw: Draw):
    x, mean, variance = draw.normal(3, 2, 2), draw.normal(3, 2, 2), draw.number(0.5, 4)
    square = (to_host(x) - to_host(mean)).reshape(3, 4) ** 2
    density = np.exp(-0.5 * square / variance) / math.sqrt(2 * math.pi * variance)
    return f.gaussian_log_likelihood(x, mean, variance), np.log(density).sum(axis=1), 50.0


def product_of_probabilities(f: Functions, draw: Draw):
    x = draw.array(draw.stream.integers(0, 2, (3, 5)))
    logits = draw.uniform(-4, 4, 3, 5)
    p = 1 / (1 + np.exp(-to_host(logits)))
    want = np.log(np.where(to_host(x) == 1.0, p, 1 - p).prod(axis=1))
    return f.bernoulli_log_likelihood(x, logits), want, 20.0


class Linear:
    """The model of the module's docstring, with w, s and a batch of four x drawn at random."""

    def __init__(self, draw: Draw):
        self.w, self.s = draw.number(0.5, 2), draw.number(0.5, 1.5)
        self.x = draw.normal(4, 1)
        self.variance = 1 / (1 + (self.w / self.s) ** 2)
        self.mean = self.x * (self.w / self.s**2 * self.variance)
        self.logvar = draw.xp.zeros_like(self.x) + math.log(self.variance)

    def log_likelihood(self, x, z):
        return -0.5 * ((x - self.w * z)[:, 0] / self.s) ** 2 - math.log(self.s) - HALF_LOG_2PI

    def evidence(self):
        total = self.w**2 + self.s**2
        return -0.5 * to_host(self.x)[:, 0] ** 2 / total - 0.5 * math.log(total) - HALF_LOG_2PI


def evidence_less_divergence_from_the_posterior(f: Functions, draw: Draw):
    """log p(x) - ELBO = KL(q || p(z|x)), with E_q log p(x|z) in closed form."""
    model, mean, logvar = Linear(draw), draw.normal(4, 1), draw.uniform(-2, 1, 4, 1)
    m, v = to_host(mean)[:, 0], np.exp(to_host(logvar)[:, 0])
    spread = draw.array(0.5 * (model.w / model.s) ** 2 * v)
    got = f.elbo(model.log_likelihood(model.x, mean) - spread, mean, logvar)
    gap = (m - to_host(model.mean)[:, 0]) ** 2 + v
    kl = 0.5 * (gap / model.variance - 1 - np.log(v / model.variance))
    return got, model.evidence() - kl, 100.0


def averages_to_the_bound(f: Functions, draw: Draw):
    """Over noise of +-1, because the estimate is quadratic in the noise."""
    model, mean, logvar = Linear(draw), draw.normal(4, 1), draw.uniform(-2, 1, 4, 1)
    one = draw.xp.ones_like(mean)

    def encode(x):
        return mean + 0.5 * x, logvar

    up, down = (
        f.elbo_estimate(model.x, noise, encode, model.log_likelihood) for noise in (one, -one)
    )
    m, v = to_host(mean + 0.5 * model.x)[:, 0], np.exp(to_host(logvar)[:, 0])
    square = (to_host(model.x)[:, 0] - model.w * m) ** 2 + model.w**2 * v
    want = -0.5 * square / model.s**2 - math.log(model.s) - HALF_LOG_2PI
    return 0.5 * (up + down), want - 0.5 * (m * m + v - 1 - np.log(v)), 100.0


def evidence_at_every_sample_of_the_posterior(f: Functions, draw: Draw):
    """p(x, z) / p(z|x) = p(x), whatever z; and so is the mean of the weights."""
    model, z = Linear(draw), draw.normal(4, 1)
    log_p = model.log_likelihood(model.x, z)
    return f.log_importance_weight(log_p, z, model.mean, model.logvar), model.evidence(), 100.0


def logarithm_of_the_mean_weight(f: Functions, draw: Draw):
    log_w = draw.uniform(-8, 8, 5, 3)
    return f.iwae_bound(log_w), np.log(np.exp(to_host(log_w)).mean(axis=0)), 10.0


IDENTITIES = [
    Identity("reparameterize", "two-point noise", moments_of_two_points, 8),
    Identity("kl_normal", "Gauss-Hermite quadrature", integral_by_gauss_hermite, 4),
    Identity("kl_standard_normal", "the general case", special_case_of_kl_normal, 4,
             ("kl_normal",)),
    Identity("squared_error", "dot products", law_of_cosines, 8),
    Identity("autoencoder_loss", "Pythagoras", length_lost_by_orthonormal_weights, 4),
    Identity("denoising_loss", "moments of two-point noise", bias_and_variance_of_shrinkage, 4,
             ("gaussian_corruption",)),
    Identity("masking_corruption", "sorting", least_noise_is_lost, 0),
    Identity("kl_bernoulli", "entropies", cross_entropy_less_entropy, 5),
    Identity("kl_sparsity", "a product of powers", log_likelihood_ratio_of_the_rates, 4),
    Identity("l1_sparsity", "sums of either sign", positive_and_negative_parts, 8),
    Identity("normal_log_density", "the density", logarithm_of_the_bell_curve, 4),
    Identity("gaussian_log_likelihood", "the densities", sum_of_logarithms_of_densities, 4),
    Identity("bernoulli_log_likelihood", "the probabilities", product_of_probabilities, 8),
    Identity("elbo", "a model with known posterior", evidence_less_divergence_from_the_posterior,
             4),
    Identity("elbo_estimate", "two-point noise", averages_to_the_bound, 4),
    Identity("log_importance_weight", "a model with known posterior",
             evidence_at_every_sample_of_the_posterior, 4),
    Identity("iwae_bound", "the definition, without shift", logarithm_of_the_mean_weight, 4),
]  # fmt: skip
