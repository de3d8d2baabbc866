"""Functions as the formulas are printed: exact on ordinary inputs, useless at the edges."""

import warnings

import numpy as np
from scipy.linalg import sqrtm
from scipy.special import erf


def log_snr(alpha_bar):
    return np.log(alpha_bar / (1 - alpha_bar))


def kl_normal(mean1, logvar1, mean2, logvar2):
    ratio = np.exp(logvar1 - logvar2)
    return 0.5 * (logvar2 - logvar1 - 1 + ratio + (mean1 - mean2) ** 2 * np.exp(-logvar2))


def kl_standard_normal(mean, logvar):
    return 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar)


def cosine_betas(n, s=0.008, max_beta=0.999):
    alpha_bar = np.cos((np.arange(n + 1) / n + s) / (1 + s) * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta)


def gelu(x):
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def silu(x):
    with np.errstate(over="ignore"):
        return x / (1 + np.exp(-x))


def slerp(a, b, t):
    x, y = a.reshape(len(a), -1), b.reshape(len(b), -1)
    t = np.reshape(t, (-1,) + (1,) * (a.ndim - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (x * y).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))
        omega = np.arccos(np.clip(cosine, -1, 1)).reshape(-1, *[1] * (a.ndim - 1))
        circle = (np.sin((1 - t) * omega) * a + np.sin(t * omega) * b) / np.sin(omega)
    return np.where(np.sin(omega) > 1e-7, circle, (1 - t) * a + t * b)


def sigma_from_alpha_bar(alpha_bar):
    return np.sqrt(1 / alpha_bar - 1)


def softmax(x, axis=-1):
    with np.errstate(over="ignore", invalid="ignore"):
        weights = np.exp(x)
        return weights / weights.sum(axis, keepdims=True)


def lerp(a, b, t):
    return a + np.reshape(t, (-1,) + (1,) * (a.ndim - 1)) * (b - a)


def elbo_weight(alpha_bar, alpha_bar_prev, prediction_type="x0"):
    snr = alpha_bar / (1 - alpha_bar)
    weight = 0.5 * (alpha_bar_prev / (1 - alpha_bar_prev) - snr)
    return {"x0": weight, "eps": weight / snr, "v": weight * (1 - alpha_bar)}[prediction_type]


def elbo(log_likelihood, mean, logvar, kl_weight=1.0):
    if log_likelihood.ndim > 1:
        log_likelihood = log_likelihood.mean(axis=0)
    divergence = 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar)
    return log_likelihood - kl_weight * divergence.reshape(len(mean), -1).sum(axis=1)


def group_norm(x, weight, bias, groups, eps):
    """The variance as E[x^2] - E[x]^2."""
    g = x.reshape(len(x), groups, -1)
    mean = g.mean(axis=2, keepdims=True)
    variance = (g * g).mean(axis=2, keepdims=True) - mean**2
    with np.errstate(invalid="ignore"):
        y = ((g - mean) / np.sqrt(variance + eps)).reshape(x.shape)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    return y * weight.reshape(shape) + bias.reshape(shape)


def nearest_code(z, codebook):
    """Squares expanded, as a matrix product."""
    flat = z.reshape(-1, z.shape[-1])
    squares = (flat**2).sum(1)[:, None] - 2 * flat @ codebook.T + (codebook**2).sum(1)
    indices = squares.argmin(axis=1).reshape(z.shape[:-1])
    return indices, codebook[indices]


def x0_from_v(xt, v, alpha_bar):
    """By way of eps: divides by the root of alpha-bar."""
    alpha_bar = np.reshape(alpha_bar, (-1,) + (1,) * (xt.ndim - 1))
    eps = np.sqrt(alpha_bar) * v + np.sqrt(1 - alpha_bar) * xt
    with np.errstate(invalid="ignore", divide="ignore"):
        return (xt - np.sqrt(1 - alpha_bar) * eps) / np.sqrt(alpha_bar)


def frechet_distance(mean1, cov1, mean2, cov2):
    """The real part of a root of the product, which hides what rounding makes imaginary."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy warns about a singular matrix
        root = sqrtm(cov1 @ cov2)
    return np.sum((mean1 - mean2) ** 2) + np.trace(cov1 + cov2) - 2 * np.trace(root).real
