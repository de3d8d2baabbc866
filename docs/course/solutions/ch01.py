"""Solutions of chapter 1: divergences of coins and Gaussians, and the scores of a joint density."""

import numpy as np


def kl_bernoulli(p, q):
    """Return p log(p / q) + (1 - p) log((1 - p) / (1 - q)), with 0 log 0 = 0."""
    heads = np.where(np.equal(p, 0.0), 1.0, p)
    tails = np.where(np.equal(p, 1.0), 1.0, 1.0 - np.asarray(p))
    return p * (np.log(heads) - np.log(q)) + (1.0 - p) * (np.log(tails) - np.log1p(-q))


def conditional_scores(joint, size):
    """Return the entries of x and those of y: log p(y) has no gradient with respect to x."""
    return joint[:, :size], joint[:, size:]


def kl_normal(mean1, logvar1, mean2, logvar2):
    """Return (e^d - 1 - d + (mean1 - mean2)^2 / v2) / 2 with d = logvar1 - logvar2."""
    d = logvar1 - logvar2
    return 0.5 * (np.expm1(d) - d + (mean1 - mean2) ** 2 * np.exp(-logvar2))
