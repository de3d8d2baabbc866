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


def q_sample__not_reshaped(x0, alpha_bar, eps):
    return np.sqrt(alpha_bar) * x0 + np.sqrt(1 - alpha_bar) * eps


def cosine_betas__naive_product(n, s=0.008, max_beta=0.999):
    angles = (np.arange(n + 1) / n + s) / (1 + s) * np.pi / 2
    a, b = angles[:-1], angles[1:]
    return np.minimum(np.sin(b - a) * np.sin(a + b) / np.cos(a) ** 2, max_beta)


def rescale_zero_terminal_snr__ratio_without_a_first(betas):
    amplitude = np.sqrt(np.cumprod(1 - betas))
    first, last = amplitude[0], amplitude[-1]
    rescaled = ((amplitude - last) * first / (first - last)) ** 2
    return 1 - rescaled / np.concatenate([rescaled[:1], rescaled[:-1]])
