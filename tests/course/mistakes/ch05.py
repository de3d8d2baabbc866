"""Wrong answers to the exercises of chapter 5: `NAME__description` fails `ldmref check`."""

import numpy as np


def q_sample__variances_as_amplitudes(x0, alpha_bar, eps):
    return alpha_bar * x0 + (1 - alpha_bar) * eps


def q_sample__amplitudes_add_to_one(x0, alpha_bar, eps):
    a = np.sqrt(np.asarray(alpha_bar))
    if a.ndim:
        a = a.reshape(-1, *(1,) * (x0.ndim - 1))
    return a * x0 + (1 - a) * eps


def cosine_betas__naive(n, s=0.008, max_beta=0.999):
    alpha_bar = np.cos((np.arange(n + 1) / n + s) / (1 + s) * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta)


def cosine_betas__cosine_not_squared(n, s=0.008, max_beta=0.999):
    alpha_bar = np.cos((np.arange(n + 1) / n + s) / (1 + s) * np.pi / 2)
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta)


def cosine_betas__without_cap(n, s=0.008, max_beta=0.999):
    alpha_bar = np.cos((np.arange(n + 1) / n + s) / (1 + s) * np.pi / 2) ** 2
    return 1 - alpha_bar[1:] / alpha_bar[:-1]


def rescale_zero_terminal_snr__variances_shifted(betas):
    alpha_bar = np.cumprod(1 - betas)
    first, last = alpha_bar[0], alpha_bar[-1]
    rescaled = (alpha_bar - last) * first / (first - last)
    return 1 - rescaled / np.concatenate([[1], rescaled[:-1]])


def rescale_zero_terminal_snr__first_not_restored(betas):
    amplitude = np.sqrt(np.cumprod(1 - betas))
    rescaled = (amplitude - amplitude[-1]) ** 2
    return 1 - rescaled / np.concatenate([[1], rescaled[:-1]])
