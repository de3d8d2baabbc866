"""Answers to the exercises of chapter 13, flow matching."""

import numpy as np


def _along(coefficient, x):
    """Reshape a number per example so that it acts on all values of that example."""
    if np.ndim(coefficient) == 0:
        return coefficient
    return np.reshape(coefficient, (-1,) + (1,) * (x.ndim - 1))


def interpolant_pair(x, velocity, signal, noise, signal_rate, noise_rate):
    """Solve x = a x0 + b eps and x' = a' x0 + b' eps for x0 and eps."""
    a, b, a_rate, b_rate = (_along(c, x) for c in (signal, noise, signal_rate, noise_rate))
    turn = a * b_rate - b * a_rate
    return (b_rate * x - b * velocity) / turn, (a * velocity - a_rate * x) / turn


def x0_from_velocity(xs, velocity, s):
    """Go back along the line to its beginning, at s = 0."""
    return xs - _along(s, xs) * velocity


def logit_normal_density(s, mean=0.0, std=1.0):
    """Return the density of the logit times the derivative of the logit."""
    z = (np.log(s / (1 - s)) - mean) / std
    return np.exp(-0.5 * z**2) / (std * np.sqrt(2 * np.pi)) / (s * (1 - s))
