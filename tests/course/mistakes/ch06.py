"""Wrong answers to the exercises of chapter 6: `NAME__description` fails `ldmref check`."""

import numpy as np


def per_example(value, x):
    value = np.asarray(value, dtype=float)
    return value.reshape(-1, *(1,) * (x.ndim - 1)) if value.ndim == 1 else value


def q_posterior__standard_deviation(x0, xt, alpha_bar, alpha_bar_prev):
    now, before = per_example(alpha_bar, x0), per_example(alpha_bar_prev, x0)
    alpha, left = now / before, 1 - now
    mean = (np.sqrt(before) * (1 - alpha) * x0 + np.sqrt(alpha) * (1 - before) * xt) / left
    return mean, np.sqrt((1 - before) * (1 - alpha) / left)


def q_posterior__variance_of_the_forward_step(x0, xt, alpha_bar, alpha_bar_prev):
    now, before = per_example(alpha_bar, x0), per_example(alpha_bar_prev, x0)
    alpha, left = now / before, 1 - now
    mean = (np.sqrt(before) * (1 - alpha) * x0 + np.sqrt(alpha) * (1 - before) * xt) / left
    return mean, 1 - alpha


def q_posterior__coefficients_swapped(x0, xt, alpha_bar, alpha_bar_prev):
    now, before = per_example(alpha_bar, x0), per_example(alpha_bar_prev, x0)
    alpha, left = now / before, 1 - now
    mean = (np.sqrt(before) * (1 - alpha) * xt + np.sqrt(alpha) * (1 - before) * x0) / left
    return mean, (1 - before) * (1 - alpha) / left


def x0_from_v__sign(xt, v, alpha_bar):
    now = per_example(alpha_bar, xt)
    return np.sqrt(now) * xt + np.sqrt(1 - now) * v


def x0_from_v__treated_as_eps(xt, v, alpha_bar):
    now = per_example(alpha_bar, xt)
    return (xt - np.sqrt(1 - now) * v) / np.sqrt(now)


def ddpm_step__all_noise_subtracted(xt, eps, beta, alpha_bar, sigma=0.0, z=None):
    return xt - eps if z is None else xt - eps + per_example(sigma, xt) * z


def ddpm_step__not_rescaled(xt, eps, beta, alpha_bar, sigma=0.0, z=None):
    mean = xt - per_example(beta, xt) / np.sqrt(1 - per_example(alpha_bar, xt)) * eps
    return mean if z is None else mean + per_example(sigma, xt) * z


def ddpm_step__variance_for_deviation(xt, eps, beta, alpha_bar, sigma=0.0, z=None):
    beta = per_example(beta, xt)
    mean = (xt - beta / np.sqrt(1 - per_example(alpha_bar, xt)) * eps) / np.sqrt(1 - beta)
    return mean if z is None else mean + per_example(sigma, xt) ** 2 * z


def posterior(x0, xt, now, before, beta):
    left = 1 - now
    mean = np.sqrt(before) * beta * x0 + np.sqrt(now / before) * (1 - before) * xt
    return mean / left, (1 - before) * beta / left


def q_posterior__not_reshaped(x0, xt, alpha_bar, alpha_bar_prev):
    beta = (alpha_bar_prev - alpha_bar) / alpha_bar_prev
    return posterior(x0, xt, alpha_bar, alpha_bar_prev, beta)


def q_posterior__naive(x0, xt, alpha_bar, alpha_bar_prev):
    now, before = per_example(alpha_bar, x0), per_example(alpha_bar_prev, x0)
    return posterior(x0, xt, now, before, 1 - now / before)


def x0_from_v__naive(xt, v, alpha_bar):
    """By way of eps."""
    now = per_example(alpha_bar, xt)
    eps = np.sqrt(now) * v + np.sqrt(1 - now) * xt
    with np.errstate(divide="ignore", invalid="ignore"):
        return (xt - np.sqrt(1 - now) * eps) / np.sqrt(now)


def ddpm_step__no_coefficient_of_eps(xt, eps, beta, alpha_bar, sigma=0.0, z=None):
    mean = (xt - eps) / np.sqrt(1 - per_example(beta, xt))
    return mean if z is None else mean + per_example(sigma, xt) * z


def ddpm_step__no_root(xt, eps, beta, alpha_bar, sigma=0.0, z=None):
    beta = per_example(beta, xt)
    mean = (xt - beta / (1 - per_example(alpha_bar, xt)) * eps) / np.sqrt(1 - beta)
    return mean if z is None else mean + per_example(sigma, xt) * z


def ddpm_step__not_reshaped(xt, eps, beta, alpha_bar, sigma=0.0, z=None):
    mean = (xt - beta / np.sqrt(1 - alpha_bar) * eps) / np.sqrt(1 - beta)
    return mean if z is None else mean + sigma * z
