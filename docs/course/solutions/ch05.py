"""Answers to the exercises of chapter 5, destroying data."""

import numpy as np


def q_sample(x0, alpha_bar, eps):
    """Amplitudes are roots of variances; one alpha-bar belongs to each example."""
    alpha_bar = np.asarray(alpha_bar, dtype=np.float64)
    if alpha_bar.ndim == 1:
        alpha_bar = alpha_bar.reshape(-1, *(1,) * (x0.ndim - 1))
    return np.sqrt(alpha_bar) * x0 + np.sqrt(1.0 - alpha_bar) * eps


def cosine_betas(n, s=0.008, max_beta=0.999):
    """1 - cos^2(b) / cos^2(a) as sin(b - a) sin(a + b) / cos^2(a), which loses no digits."""
    angles = (np.arange(n + 1) / n + s) / (1.0 + s) * (np.pi / 2.0)
    a = angles[:-1]
    b = angles[1:]
    step = np.pi / 2.0 / (n * (1.0 + s))  # b - a, without a subtraction
    return np.minimum(np.sin(step) * np.sin(a + b) / np.cos(a) ** 2, max_beta)


def rescale_zero_terminal_snr(betas):
    """Shift the amplitudes to end in zero and stretch them to keep the first."""
    amplitude = np.sqrt(np.cumprod(1.0 - betas))
    first = amplitude[0]
    last = amplitude[-1]
    rescaled = ((amplitude - last) * first / (first - last)) ** 2
    before = np.concatenate([[1.0], rescaled[:-1]])
    return 1.0 - rescaled / before
