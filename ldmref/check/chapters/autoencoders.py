"""Autoencoders, plain and variational: divergences, losses, likelihoods, bounds.

The variational identities use the model z ~ N(0, 1), x|z ~ N(w z, s^2), whose evidence and
posterior are known in closed form.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, to_host
from ldmref.math import kl_normal, squared_error
from ldmref.math.arrays import Array

chapter = Chapter("autoencoders")
HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


# Roundings: 4 of two states up to 7, times twice their difference, of a scale of 10.
@chapter.identity("reparameterize", "two-point noise", 12)
def moments_of_two_points(f: Functions, rng: RandomInputs) -> Comparison:
    """Noise of +-1 has mean 0 and variance 1, so z must have the given mean and variance."""
    mean = rng.normal(5)
    logvar = rng.uniform(-3.0, 2.0, 5)
    one = rng.xp.ones_like(mean)
    up = f.reparameterize(mean, logvar, one)
    down = f.reparameterize(mean, logvar, -one)
    got = [0.5 * (up + down), (0.5 * (up - down)) ** 2]
    return got, [mean, rng.xp.exp(logvar)], 10.0


# Roundings: 8 of d and its exponential, 4 of the square, of terms up to the scale.
@chapter.identity("kl_normal", "Gauss-Hermite quadrature", 12)
def integral_by_gauss_hermite(f: Functions, rng: RandomInputs) -> Comparison:
    """E_1[log p_1 - log p_2], exactly: the integrand is a polynomial of degree two."""
    m1, m2, l1, l2 = (rng.number(-2, 2) for _ in range(4))
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    x = m1 + np.exp(l1 / 2) * nodes
    log_ratio = 0.5 * (l2 - l1 - nodes**2 + (x - m2) ** 2 * np.exp(-l2))
    expected = (weights / weights.sum()) @ log_ratio
    return f.kl_normal(*(rng.array([v]) for v in (m1, l1, m2, l2))), [expected], 100.0


# Roundings: 4 on each side.
@chapter.identity("kl_standard_normal", "the general case", 8, uses=("kl_normal",))
def special_case_of_kl_normal(f: Functions, rng: RandomInputs) -> Comparison:
    mean = rng.normal(5)
    logvar = rng.uniform(-3.0, 3.0, 5)
    return f.kl_standard_normal(mean, logvar), f.kl_normal(mean, logvar, 0 * mean, 0 * mean), 30.0


# Roundings: 6 of a distance up to twice the scale, 8 in the oracle.
@chapter.identity("squared_error", "dot products", 20)
def law_of_cosines(f: Functions, rng: RandomInputs) -> Comparison:
    """|x - y|^2 = |x|^2 + |y|^2 - 2 x.y"""
    x, y = rng.normals(2, 3, 2, 2)
    a, b = (to_host(z).reshape(3, 4) for z in (x, y))
    lengths = (a * a).sum(axis=1) + (b * b).sum(axis=1)
    return f.squared_error(x, y), lengths - 2.0 * (a * b).sum(axis=1), lengths


# Roundings: 4 of logarithms; 8 of the mean, times 4.3, of a scale of 60; 1 of the error.
@chapter.identity("psnr", "errors of known size", 8)
def decibels_of_an_error_relative_to_the_peak(f: Functions, rng: RandomInputs) -> Comparison:
    """Check that an error of peak / 10^(r / 20) in every element has a ratio of r decibels."""
    decibels = rng.uniform(5, 60, 3)
    peak = rng.number(1, 255)
    error = peak * 10 ** (-to_host(decibels) / 20)
    signs = rng.numpy.choice([-1.0, 1.0], (3, 4))
    return f.psnr(rng.array(0 * signs), rng.array(error[:, None] * signs), peak), decibels, 60.0


# Roundings: 18 here, 4 of the weights, 13 in the oracle, of a quarter of the scale.
@chapter.identity("autoencoder_loss", "Pythagoras", 10)
def length_lost_by_orthonormal_weights(f: Functions, rng: RandomInputs) -> Comparison:
    """|x - x Q Q^T|^2 = |x|^2 - |x Q|^2"""
    basis = rng.orthonormal(4, 2)
    encoder = rng.array(basis)
    decoder = rng.array(basis.T)
    x = rng.normal(3, 4)
    got = f.autoencoder_loss(x, lambda x: x @ encoder, lambda z: z @ decoder)
    lengths, kept = ((to_host(z) ** 2).sum(axis=1) for z in (x, x @ encoder))
    return got, lengths - kept, 4.0 * lengths


# Roundings: 8 on each side, of terms up to 4, of a scale of 10.
@chapter.identity("denoising_loss", "moments of two-point noise", 8, uses=("gaussian_corruption",))
@chapter.identity("gaussian_corruption", "moments of two-point noise", 8, uses=("denoising_loss",))
def bias_and_variance_of_shrinkage(f: Functions, rng: RandomInputs) -> Comparison:
    """E(x - c (x + sigma e))^2 = (1 - c)^2 + c^2 sigma^2 for x and e = +-1."""
    c = rng.number(0, 1)
    sigma = rng.number(0, 2)
    x = rng.array([[1], [1], [-1], [-1]])
    noise = rng.array([[1], [-1], [1], [-1]])
    corrupted = f.gaussian_corruption(x, noise, sigma)
    losses = f.denoising_loss(x, corrupted, lambda x: c * x, lambda z: z)
    return rng.xp.mean(losses), (1 - c) ** 2 + (c * sigma) ** 2, 10.0


@chapter.identity("masking_corruption", "sorting", 0)
def entries_with_least_noise_are_masked(f: Functions, rng: RandomInputs) -> Comparison:
    """Check that the entries with the largest noise survive."""
    x = rng.normal(3, 2, 4)
    noise = rng.uniform(0, 1, 3, 2, 4)
    lost = rng.integer(0, 8)
    expected = to_host(x).reshape(3, 8).copy()
    u = to_host(noise).reshape(3, 8)
    for row, ranks in zip(expected, u.argsort(axis=1), strict=True):
        row[ranks[:lost]] = 0.0
    return f.masking_corruption(x, noise, lost / 8), expected.reshape(3, 2, 4)


# Roundings: 8 here; 5 of cross entropy and of entropy.
@chapter.identity("kl_bernoulli", "entropies", 14)
def cross_entropy_less_entropy(f: Functions, rng: RandomInputs) -> Comparison:
    """Two of the outcomes are certain, p = 0 and p = 1: they have no entropy, 0 log 0 = 0."""
    p = rng.array([*rng.numpy.uniform(0.01, 0.99, 3), 0.0, 1.0])
    q = rng.uniform(0.01, 0.99, 5)
    a = to_host(p)
    b = to_host(q)
    cross = -(a * np.log(b) + (1 - a) * np.log1p(-b))
    u = a[:3]
    entropy = np.append(-(u * np.log(u) + (1 - u) * np.log1p(-u)), [0.0, 0.0])
    return f.kl_bernoulli(p, q), cross - entropy, 1.0 + cross


# Roundings: 8 of logarithms of size 3 on each side, 6 of the mean, of a scale of 10.
@chapter.identity("kl_sparsity", "a product of powers", 8)
def log_likelihood_ratio_of_the_rates(f: Functions, rng: RandomInputs) -> Comparison:
    """Compare per observation, with rho the true rate and m the mean activation of a unit."""
    h = rng.uniform(0.05, 0.95, 6, 3)
    rho = rng.number(0.05, 0.95)
    m = to_host(h).mean(axis=0)
    ratio = (rho / m) ** rho * ((1 - rho) / (1 - m)) ** (1 - rho)
    return f.kl_sparsity(h, rho), np.log(ratio).sum(), 10.0


# Roundings: sums of 4 on each side.
@chapter.identity("l1_sparsity", "sums of either sign", 8)
def positive_and_negative_parts(f: Functions, rng: RandomInputs) -> Comparison:
    h = rng.normal(3, 2, 2)
    positive, negative = (np.maximum(sign * to_host(h), 0).sum(axis=(1, 2)) for sign in (1, -1))
    return f.l1_sparsity(h), positive + negative


# Roundings: 5 on each side, of squares up to the scale.
@chapter.identity("normal_log_density", "the density", 10)
def logarithm_of_the_bell_curve(f: Functions, rng: RandomInputs) -> Comparison:
    x = rng.normal(5)
    mean = rng.normal(5)
    logvar = rng.uniform(-2, 2, 5)
    v = to_host(x)
    m = to_host(mean)
    std = np.exp(0.5 * to_host(logvar))
    density = np.exp(-0.5 * ((v - m) / std) ** 2) / (std * math.sqrt(2 * math.pi))
    return f.normal_log_density(x, mean, logvar), np.log(density), 100.0


# Roundings: 5 on each side, of squares up to the scale.
@chapter.identity("gaussian_log_likelihood", "the densities", 10)
def sum_of_logarithms_of_densities(f: Functions, rng: RandomInputs) -> Comparison:
    (x, mean) = rng.normals(2, 3, 2, 2)
    variance = rng.number(0.5, 4)
    square = (to_host(x) - to_host(mean)).reshape(3, 4) ** 2
    density = np.exp(-0.5 * square / variance) / math.sqrt(2 * math.pi * variance)
    return f.gaussian_log_likelihood(x, mean, variance), np.log(density).sum(axis=1), 50.0


# Roundings: 8 of logarithms of probabilities; 3 of each probability in the oracle, of a scale of
# 20.
@chapter.identity("bernoulli_log_likelihood", "the probabilities", 16)
def product_of_probabilities(f: Functions, rng: RandomInputs) -> Comparison:
    x = rng.array(rng.numpy.integers(0, 2, (3, 5)))
    logits = rng.uniform(-4, 4, 3, 5)
    p = 1 / (1 + np.exp(np.where(to_host(x) == 1.0, -1, 1) * to_host(logits)))
    expected = np.log(p.prod(axis=1))
    return f.bernoulli_log_likelihood(x, logits), expected, 20.0


class LinearModel:
    """The model of the module's docstring with random w, s and a batch x of four."""

    def __init__(self, rng: RandomInputs):
        self.w = rng.number(0.5, 2)
        self.s = rng.number(0.5, 1.5)
        self.x = rng.normal(4, 1)
        self.variance = 1 / (1 + (self.w / self.s) ** 2)  # of the posterior
        self.mean = self.x * (self.w / self.s**2 * self.variance)
        self.logvar = rng.xp.zeros_like(self.x) + math.log(self.variance)

    def log_likelihood(self, x: Array, z: Array) -> Array:
        """log p(x|z), (4,)."""
        return -0.5 * ((x - self.w * z)[:, 0] / self.s) ** 2 - math.log(self.s) - HALF_LOG_2PI

    def evidence(self) -> np.ndarray:
        """log p(x), (4,)."""
        total = self.w**2 + self.s**2
        return -0.5 * to_host(self.x)[:, 0] ** 2 / total - 0.5 * math.log(total) - HALF_LOG_2PI


# Roundings: 5 on each side, of squares up to the scale.
@chapter.identity("elbo", "a model with known posterior", 10)
def evidence_less_divergence_from_the_posterior(f: Functions, rng: RandomInputs) -> Comparison:
    """log p(x) - ELBO = KL(q || p(z|x)), with E_q log p(x|z) in closed form."""
    model = LinearModel(rng)
    mean = rng.normal(4, 1)
    logvar = rng.uniform(-2, 1, 4, 1)
    m = to_host(mean)[:, 0]
    v = np.exp(to_host(logvar)[:, 0])
    spread = rng.array(0.5 * (model.w / model.s) ** 2 * v)
    got = f.elbo(model.log_likelihood(model.x, mean) - spread, mean, logvar)
    gap = (m - to_host(model.mean)[:, 0]) ** 2 + v
    kl = 0.5 * (gap / model.variance - 1 - np.log(v / model.variance))
    return got, model.evidence() - kl, 100.0


# Roundings: 8 of a divergence and 6 of the sums on each side, of terms up to the scale.
@chapter.identity("elbo", "entropies and cross-entropies", 28)
def divergences_of_all_latents_add_up(f: Functions, rng: RandomInputs) -> Comparison:
    """Average over samples of z, add up over the latents of each example, and weigh the sum."""
    log_likelihood, mean = rng.normal(3, 4), rng.normal(4, 2, 3)
    logvar = rng.uniform(-2, 1, 4, 2, 3)
    weight = rng.number(0, 2)
    m, l = (to_host(x).reshape(4, 6) for x in (mean, logvar))
    cross = HALF_LOG_2PI + 0.5 * (m * m + np.exp(l))
    divergence = (cross - (HALF_LOG_2PI + 0.5 * (1 + l))).sum(axis=1)
    expected = to_host(log_likelihood).mean(axis=0) - weight * divergence
    return f.elbo(log_likelihood, mean, logvar, weight), expected, 100.0


# Roundings: 6 on each side, of squares up to the scale.
@chapter.identity("elbo_estimate", "two-point noise", 12)
def averages_to_the_bound(f: Functions, rng: RandomInputs) -> Comparison:
    """Average over noise of +-1, which is exact: the estimate is quadratic in the noise."""
    model = LinearModel(rng)
    mean = rng.normal(4, 1)
    logvar = rng.uniform(-2, 1, 4, 1)
    one = rng.xp.ones_like(mean)
    functions = lambda x: (mean + 0.5 * x, logvar), model.log_likelihood
    up, down = (f.elbo_estimate(model.x, noise, *functions) for noise in (one, -one))
    m = to_host(mean + 0.5 * model.x)[:, 0]
    v = np.exp(to_host(logvar)[:, 0])
    square = (to_host(model.x)[:, 0] - model.w * m) ** 2 + model.w**2 * v
    likelihood = -0.5 * square / model.s**2 - math.log(model.s) - HALF_LOG_2PI
    expected = likelihood - 0.5 * (m * m + v - 1 - np.log(v))
    return 0.5 * (up + down), expected, 100.0


# Roundings: 4 of each of the squares that cancel, up to the scale.
@chapter.identity("log_importance_weight", "a model with known posterior", 12)
def evidence_at_every_sample_of_the_posterior(f: Functions, rng: RandomInputs) -> Comparison:
    """p(x, z) / p(z|x) = p(x) for every z."""
    model = LinearModel(rng)
    z = rng.normal(4, 1)
    log_p = model.log_likelihood(model.x, z)
    return f.log_importance_weight(log_p, z, model.mean, model.logvar), model.evidence(), 100.0


# Roundings: a sum of 5, exp and log, of a scale of 10; as many in the oracle.
@chapter.identity("iwae_bound", "the definition, without shift", 8)
def logarithm_of_the_mean_weight(f: Functions, rng: RandomInputs) -> Comparison:
    log_w = rng.uniform(-8, 8, 5, 3)
    return f.iwae_bound(log_w), np.log(np.exp(to_host(log_w)).mean(axis=0)), 10.0


# -- mistakes --------------------------------------------------------------------------------------


def divergence(mean: Array, logvar: Array) -> Array:
    """Return the divergence from N(0, 1) of each entry."""
    return 0.5 * (mean**2 + np.expm1(logvar) - logvar)


def bound(
    likelihood: Array, terms: Array, weight: float, reduce: Any = np.sum, *, averages: bool = True
) -> Array:
    """Return a log-likelihood minus the reduced terms of each example."""
    mean = np.mean(likelihood, axis=0) if averages and likelihood.ndim > 1 else likelihood
    return mean - weight * reduce(np.reshape(terms, (terms.shape[0], -1)), axis=1)


def of_log_deviations(m1: Array, l1: Array, m2: Array, l2: Array) -> Array:
    """Take log variances for logarithms of deviations."""
    return kl_normal(m1, 2.0 * l1, m2, 2.0 * l2)


# fmt: off
chapter.known_mistakes("kl_normal", {
    "logvar is taken for the logarithm of a deviation; it is that of a variance":
        of_log_deviations,
})
chapter.known_mistakes("kl_bernoulli", {
    "the second outcome, of probability 1 - p, is missing, and 0 log 0 is not 0":
        lambda p, q: p * (np.log(p) - np.log(q)),
    "0 log 0 is no number; it is 0":
        lambda p, q: p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)),
})
chapter.known_mistakes("denoising_loss", {
    "the output is compared with the corrupted input; with the clean one is meant":
        lambda x, corrupted, encode, decode: squared_error(corrupted, decode(encode(corrupted))),
    "the autoencoder sees the clean input; the corrupted one is meant":
        lambda x, corrupted, encode, decode: squared_error(x, decode(encode(x))),
})
chapter.known_mistakes("elbo", {
    "(mean^2 - logvar) / 2 stands for the divergence, which has exp(logvar) - 1 as well":
        lambda l, m, v, weight=1.0: bound(l, 0.5 * (m**2 - v), weight),
    "the divergence is a mean over the latents; it is their sum":
        lambda l, m, v, weight=1.0: bound(l, divergence(m, v), weight, np.mean),
    "the divergence is a sum over the batch; each example has its own":
        lambda l, m, v, weight=1.0: bound(l, 0.0 * m, weight) - weight * np.sum(divergence(m, v)),
    "the mean over the samples of z is missing: log_likelihood is (samples, n)":
        lambda l, m, v, weight=1.0: bound(l, divergence(m, v), weight, averages=False),
})
# fmt: on
