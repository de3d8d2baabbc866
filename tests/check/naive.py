"""Functions as the formulas are printed: exact on ordinary inputs, useless at the edges."""

import numpy as np
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
    with np.errstate(invalid="ignore"):
        cosine = (x * y).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))
        omega = np.arccos(cosine).reshape(-1, *[1] * (a.ndim - 1))
        parts = np.sin((1 - t) * omega) * a + np.sin(t * omega) * b
        return parts / np.sin(omega)


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
