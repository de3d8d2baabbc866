"""Answers to the exercises of chapter 6, undoing it."""

import numpy as np


def _per_example(value, x):
    """Return a number as it is, and shape (n,) as (n, 1, ..., 1)."""
    value = np.asarray(value, dtype=np.float64)
    return value.reshape(-1, *(1,) * (x.ndim - 1)) if value.ndim == 1 else value


def q_posterior(x0, xt, alpha_bar, alpha_bar_prev):
    """Precisions of prior and likelihood add; the mean is weighted by them."""
    now = _per_example(alpha_bar, x0)
    before = _per_example(alpha_bar_prev, x0)
    alpha = now / before
    beta = (before - now) / before  # 1 - alpha without losing digits
    of_x0 = np.sqrt(before) * beta / (1.0 - now)
    of_xt = np.sqrt(alpha) * (1.0 - before) / (1.0 - now)
    return of_x0 * x0 + of_xt * xt, beta * (1.0 - before) / (1.0 - now)


def x0_from_v(xt, v, alpha_bar):
    """Rotate (xt, v) back to (x0, eps)."""
    now = _per_example(alpha_bar, xt)
    return np.sqrt(now) * xt - np.sqrt(1.0 - now) * v


def ddpm_step(xt, eps, beta, alpha_bar, sigma=0.0, z=None):
    """Remove this step's share of the noise, rescale, and add fresh noise except at the end."""
    beta = _per_example(beta, xt)
    share = beta / np.sqrt(1.0 - _per_example(alpha_bar, xt))
    mean = (xt - share * eps) / np.sqrt(1.0 - beta)
    return mean if z is None else mean + _per_example(sigma, xt) * z
