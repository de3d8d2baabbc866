"""Answers to the exercises of chapter 15, few steps."""

import numpy as np


def _along(coefficient, x):
    """Reshape a number per example so that it acts on all values of that example."""
    if np.ndim(coefficient) == 0:
        return coefficient
    return np.reshape(coefficient, (-1,) + (1,) * (x.ndim - 1))


def gaussian_flow_map(xt, t, r, mean, variance):
    """Keep the distance from the mean in units of the standard deviation."""
    t, r = _along(t, xt), _along(r, xt)
    before = np.sqrt((1 - t) ** 2 * variance + t**2)
    after = np.sqrt((1 - r) ** 2 * variance + r**2)
    return (1 - r) * mean + after / before * (xt - (1 - t) * mean)


def mean_flow_target(velocity, derivative, t, r):
    """Subtract the way times the rate at which the mean velocity changes."""
    return velocity - _along(t - r, velocity) * derivative


def trigflow_average_velocity(xt, xr, t, r):
    """Solve the rotation x_r = cos(t - r) x_t - sin(t - r) v for v."""
    turn = _along(t - r, xt)
    return (np.cos(turn) * xt - xr) / np.sin(turn)
