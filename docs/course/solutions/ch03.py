"""Solutions of chapter 3: the two terms of the bound, and a sample with a gradient."""

import numpy as np


def kl_standard_normal(mean, logvar):
    """Return (m^2 + e^l - 1 - l) / 2 for every entry."""
    return 0.5 * (mean * mean + (np.expm1(logvar) - logvar))


def reparameterize(mean, logvar, noise):
    """Return m + e^(l / 2) eps."""
    return mean + np.exp(0.5 * logvar) * noise


def elbo(log_likelihood, mean, logvar, kl_weight=1.0):
    """Return E_q log p(x|z) - w D(q || p(z)), a lower bound of log p(x) for w = 1."""
    if log_likelihood.ndim > 1:
        log_likelihood = log_likelihood.mean(axis=0)
    entries = kl_standard_normal(mean, logvar).reshape(len(mean), -1)
    return log_likelihood - kl_weight * entries.sum(axis=1)
