"""Wrong answers to the exercises of chapter 1."""

import numpy as np


def kl_bernoulli__one_outcome_only(p, q):
    return p * (np.log(p) - np.log(q))


def kl_bernoulli__arguments_swapped(p, q):
    return q * (np.log(q) - np.log(p)) + (1 - q) * (np.log1p(-q) - np.log(1 - p))


def conditional_scores__parts_swapped(joint, size):
    return joint[:, size:], joint[:, :size]


def kl_normal__logvar_is_log_std(mean1, logvar1, mean2, logvar2):
    std1, std2 = np.exp(logvar1), np.exp(logvar2)
    return np.log(std2 / std1) + (std1**2 + (mean1 - mean2) ** 2) / (2 * std2**2) - 0.5


def kl_normal__wrong_direction(mean1, logvar1, mean2, logvar2):
    d = logvar2 - logvar1
    return 0.5 * (np.expm1(d) - d + (mean1 - mean2) ** 2 * np.exp(-logvar1))


def kl_normal__naive(mean1, logvar1, mean2, logvar2):
    v1, v2 = np.exp(logvar1), np.exp(logvar2)
    return 0.5 * (np.log(v2 / v1) - 1.0 + (v1 + (mean1 - mean2) ** 2) / v2)


def kl_bernoulli__zero_times_log_zero(p, q):
    with np.errstate(divide="ignore", invalid="ignore"):
        return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


def conditional_scores__last_axis(joint, size):
    return joint[..., :size], joint[..., size:]
