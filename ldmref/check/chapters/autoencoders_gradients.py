"""Gradients of the autoencoders' functions: where they are stopped, and those of the losses."""

from __future__ import annotations

import math

import numpy as np

from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, to_host
from ldmref.math.arrays import Array

chapter = Chapter("autoencoders")


# Roundings: one on each side.
@chapter.identity("stop_gradient", "the product rule", 2, gradients=True)
def gradient_as_of_a_constant(f: Functions, rng: RandomInputs) -> Comparison:
    """Check that the derivative of sg[x] x is sg[x] instead of 2 x."""
    x, weights = rng.normals(2, 3, 4)
    (got,) = rng.gradients(lambda x: f.stop_gradient(x) * x, weights, x)
    return got, to_host(weights) * to_host(x)


# Roundings: the gradient is passed on as it is; one for a sum with zeros.
@chapter.identity("straight_through", "the definition of the estimator", 1, gradients=True)
def gradient_passes_to_the_unquantised(f: Functions, rng: RandomInputs) -> Comparison:
    z, code, weights = rng.normals(3, 3, 4)
    got = rng.gradients(f.straight_through, weights, z, code)
    return {"z": got[0], "quantised": got[1]}, [weights, np.zeros((3, 4))]


# Roundings: a sum of up to 4 on each side.
@chapter.identity("nearest_code", "a sum for each entry", 6, gradients=True)
def gradient_reaches_the_nearest_entries(f: Functions, rng: RandomInputs) -> Comparison:
    """Check that an entry receives the gradients of all vectors that it replaces."""
    z = rng.normal(4, 3)
    codebook = rng.normal(5, 3)
    weights = rng.normal(4, 3)
    got = rng.gradients(lambda z, codebook: f.nearest_code(z, codebook)[1], weights, z, codebook)
    distances = ((to_host(z)[:, None, :] - to_host(codebook)) ** 2).sum(axis=-1)
    expected = np.zeros((5, 3))
    np.add.at(expected, distances.argmin(axis=1), to_host(weights))
    return {"z": got[0], "codebook": got[1]}, [np.zeros((4, 3)), expected], 10.0


# Roundings: of the difference, the product and the weight of beta, on each side.
@chapter.identity(
    "vq_loss",
    "the derivative of each term, by hand",
    8,
    gradients=True,
    uses=("codebook_loss", "commitment_loss"),
)
def gradient_of_each_term_reaches_one_side(f: Functions, rng: RandomInputs) -> Comparison:
    """Check that the codebook's term moves only z_q, the commitment only z; beta weighs one."""
    (z, code) = rng.normals(2, 3, 4)
    weights = rng.normal(3)
    beta = rng.number(0.1, 2)
    losses = {
        "codebook_loss": f.codebook_loss,
        "commitment_loss": f.commitment_loss,
        "vq_loss": lambda z, code: f.vq_loss(z, code, beta),
        "vq_loss with taming_legacy": lambda z, code: f.vq_loss(z, code, beta, taming_legacy=True),
    }
    got = {}
    for name, loss in losses.items():
        to_z, to_code = rng.gradients(loss, weights, z, code)
        got |= {f"{name}, gradient for z": to_z, f"{name}, gradient for quantised": to_code}
    slope = 2 * to_host(weights)[:, None] * (to_host(z) - to_host(code))
    factors = ((0, 1), (1, 0), (beta, 1), (1, beta))
    return got, [term for a, b in factors for term in (a * slope, -b * slope)]


# Below, roundings of function and oracle: about three times as many as in the values, since each
# result is used in two products.


@chapter.gradient("reparameterize", 12)
def a_sample(f: Functions, rng: RandomInputs) -> tuple:
    inputs = {"mean": rng.normal(5), "logvar": rng.uniform(-3, 2, 5), "noise": rng.normal(5)}
    return f.reparameterize, inputs, lambda mean, logvar, noise: mean + np.exp(logvar / 2) * noise


@chapter.gradient("kl_standard_normal", 12)
def the_divergence(f: Functions, rng: RandomInputs) -> tuple:
    inputs = {"mean": rng.normal(5), "logvar": rng.uniform(-3, 3, 5)}
    return f.kl_standard_normal, inputs, lambda m, v: 0.5 * (m * m + np.exp(v) - 1 - v), 4.0


@chapter.gradient("kl_normal", 24)
def the_divergence_for_both(f: Functions, rng: RandomInputs) -> tuple:
    names = ("mean1", "logvar1", "mean2", "logvar2")
    values = (rng.normal(5), rng.uniform(-2, 2, 5), rng.normal(5), rng.uniform(-2, 2, 5))

    def formula(m1: np.ndarray, v1: np.ndarray, m2: np.ndarray, v2: np.ndarray) -> np.ndarray:
        return 0.5 * (v2 - v1 - 1 + np.exp(v1 - v2) + (m1 - m2) ** 2 * np.exp(-v2))

    return f.kl_normal, dict(zip(names, values, strict=True)), formula, 10.0


def square(x: np.ndarray) -> np.ndarray:
    """Sum of squares of every example; of complex numbers, their squares and not their lengths."""
    return (x * x).reshape(len(x), -1).sum(axis=1)


@chapter.gradient("squared_error", 8)
def the_squared_error(f: Functions, rng: RandomInputs) -> tuple:
    x, y = rng.normals(2, 3, 2, 2)
    return f.squared_error, {"x": x, "reconstruction": y}, lambda x, y: square(x - y)


@chapter.gradient("autoencoder_loss", 24)
def the_loss_for_linear_weights(f: Functions, rng: RandomInputs) -> tuple:
    x = rng.normal(3, 4)
    encoder = rng.normal(4, 2)
    decoder = rng.normal(2, 4)
    host = to_host(x)
    inputs = {"encoder": encoder, "decoder": decoder}

    def call(encoder: Array, decoder: Array) -> Array:
        return f.autoencoder_loss(x, lambda x: x @ encoder, lambda z: z @ decoder)

    return call, inputs, lambda e, d: square(host - host @ e @ d), 200.0


@chapter.gradient("denoising_loss", 24, uses=("gaussian_corruption",))
def the_loss_for_noisy_data(f: Functions, rng: RandomInputs) -> tuple:
    (x, noise) = rng.normals(2, 3, 4)
    sigma = rng.number(0, 1)
    corrupted = f.gaussian_corruption(x, noise, sigma)
    inputs = {"weights": rng.normal(4, 4)}
    noisy = to_host(x) + sigma * to_host(noise)
    clean = to_host(x)

    def call(weights: Array) -> Array:
        return f.denoising_loss(x, corrupted, lambda x: x, lambda z: z @ weights)

    return call, inputs, lambda w: square(clean - noisy @ w), 200.0


def bernoulli(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


@chapter.gradient("kl_bernoulli", 24)
def the_divergence_of_bernoulli(f: Functions, rng: RandomInputs) -> tuple:
    inputs = {"p": rng.uniform(0.05, 0.95, 5), "q": rng.uniform(0.05, 0.95, 5)}
    return f.kl_bernoulli, inputs, bernoulli, 10.0


@chapter.gradient("kl_sparsity", 24)
def the_penalty(f: Functions, rng: RandomInputs) -> tuple:
    rho = rng.number(0.05, 0.95)
    inputs = {"activation": rng.uniform(0.05, 0.95, 6, 3)}

    def formula(h: np.ndarray) -> np.ndarray:
        return bernoulli(np.asarray(rho), h.mean(axis=0)).sum()

    return lambda h: f.kl_sparsity(h, rho), inputs, formula, 4.0


@chapter.gradient("l1_sparsity", 2)
def the_sum_of_magnitudes(f: Functions, rng: RandomInputs) -> tuple:
    inputs = {"activation": rng.normal(3, 4)}
    return f.l1_sparsity, inputs, lambda h: (np.where(h.real > 0, 1, -1) * h).sum(axis=1)


def log_density(x: np.ndarray, mean: np.ndarray, logvar: np.ndarray) -> np.ndarray:
    return -0.5 * (math.log(2 * math.pi) + logvar + (x - mean) ** 2 * np.exp(-logvar))


@chapter.gradient("normal_log_density", 20)
def the_log_density(f: Functions, rng: RandomInputs) -> tuple:
    inputs = {"x": rng.normal(5), "mean": rng.normal(5), "logvar": rng.uniform(-2, 2, 5)}
    return f.normal_log_density, inputs, log_density, 10.0


@chapter.gradient("gaussian_log_likelihood", 12)
def the_log_likelihood(f: Functions, rng: RandomInputs) -> tuple:
    (x, mean) = rng.normals(2, 3, 2, 2)
    variance = rng.number(0.5, 4)

    def call(x, mean):
        return f.gaussian_log_likelihood(x, mean, variance)

    return call, {"x": x, "mean": mean}, lambda x, m: -0.5 * square(x - m) / variance


@chapter.gradient("bernoulli_log_likelihood", 16)
def the_cross_entropy(f: Functions, rng: RandomInputs) -> tuple:
    x = rng.uniform(0, 1, 3, 5)
    logits = rng.uniform(-4, 4, 3, 5)

    def formula(x, logits):
        return (x * logits - np.log(1 + np.exp(logits))).sum(axis=1)

    return f.bernoulli_log_likelihood, {"x": x, "logits": logits}, formula


def divergence(mean: np.ndarray, logvar: np.ndarray) -> np.ndarray:
    return 0.5 * (mean * mean + np.exp(logvar) - 1 - logvar).sum(axis=1)


@chapter.gradient("elbo", 16)
def the_bound(f: Functions, rng: RandomInputs) -> tuple:
    values = (rng.normal(3), rng.normal(3, 2), rng.uniform(-2, 1, 3, 2))
    inputs = dict(zip(("log_likelihood", "mean", "logvar"), values, strict=True))
    weight = rng.number(0, 2)

    def formula(log_p, mean, logvar):
        return log_p - weight * divergence(mean, logvar)

    return lambda *arrays: f.elbo(*arrays, weight), inputs, formula, 4.0


@chapter.gradient("elbo_estimate", 24)
def the_estimate_through_the_sample(f: Functions, rng: RandomInputs) -> tuple:
    x, noise = rng.normals(2, 3, 2)
    inputs = {"mean": rng.normal(3, 2), "logvar": rng.uniform(-2, 1, 3, 2)}
    clean = to_host(x)
    e = to_host(noise)

    def call(mean: Array, logvar: Array) -> Array:
        def log_likelihood(x, z):
            return -rng.xp.sum((x - z) ** 2, axis=1)

        return f.elbo_estimate(x, noise, lambda x: (mean, logvar), log_likelihood)

    def formula(mean: np.ndarray, logvar: np.ndarray) -> np.ndarray:
        return -square(clean - mean - np.exp(logvar / 2) * e) - divergence(mean, logvar)

    return call, inputs, formula, 20.0


@chapter.gradient("log_importance_weight", 24)
def the_log_weight(f: Functions, rng: RandomInputs) -> tuple:
    values = (rng.normal(3), rng.normal(3, 2), rng.normal(3, 2), rng.uniform(-2, 1, 3, 2))
    inputs = dict(zip(("log_likelihood", "z", "mean", "logvar"), values, strict=True))

    def formula(log_p: np.ndarray, z: np.ndarray, m: np.ndarray, v: np.ndarray) -> np.ndarray:
        prior = log_density(z, 0 * z, 0 * z)
        return log_p + (prior - log_density(z, m, v)).sum(axis=1)

    return f.log_importance_weight, inputs, formula, 10.0


@chapter.gradient("iwae_bound", 24)
def the_importance_weighted_bound(f: Functions, rng: RandomInputs) -> tuple:
    inputs = {"log_weights": rng.uniform(-8, 8, 5, 3)}
    return f.iwae_bound, inputs, lambda log_w: np.log(np.exp(log_w).mean(axis=0)), 4.0
