"""Wrong answers to the exercises of chapter 15: `NAME__description` fails `ldmref check`."""

import numpy as np


def along(coefficient, x):
    if np.ndim(coefficient) == 0:
        return coefficient
    return np.reshape(coefficient, (-1,) + (1,) * (x.ndim - 1))


def square(t, variance):
    return (1 - t) ** 2 * variance + t**2


def gaussian_flow_map__variance_for_deviation(xt, t, r, mean, variance):
    t, r = along(t, xt), along(r, xt)
    ratio = square(r, variance) / square(t, variance)
    return (1 - r) * mean + ratio * (xt - (1 - t) * mean)


def gaussian_flow_map__not_divided(xt, t, r, mean, variance):
    t, r = along(t, xt), along(r, xt)
    return (1 - r) * mean + np.sqrt(square(r, variance)) * (xt - (1 - t) * mean)


def gaussian_flow_map__variance_squared(xt, t, r, mean, variance):
    t, r = along(t, xt), along(r, xt)
    ratio = np.sqrt(square(r, variance**2) / square(t, variance**2))
    return (1 - r) * mean + ratio * (xt - (1 - t) * mean)


def gaussian_flow_map__mean_stays(xt, t, r, mean, variance):
    t, r = along(t, xt), along(r, xt)
    ratio = np.sqrt(square(r, variance) / square(t, variance))
    return mean + ratio * (xt - mean)


def gaussian_flow_map__not_reshaped(xt, t, r, mean, variance):
    ratio = np.sqrt(square(r, variance) / square(t, variance))
    return (1 - r) * mean + ratio * (xt - (1 - t) * mean)


def gaussian_flow_map__one_euler_step(xt, t, r, mean, variance):
    """The velocity at the start for the mean velocity."""
    t, r = along(t, xt), along(r, xt)
    slope = (t - (1 - t) * variance) / square(t, variance)
    return xt + (r - t) * (slope * (xt - (1 - t) * mean) - mean)


def mean_flow_target__as_given(velocity, derivative, t, r):
    return velocity + (t - r) * derivative


def mean_flow_target__time_for_the_way(velocity, derivative, t, r):
    return velocity - along(t, velocity) * derivative


def mean_flow_target__sign(velocity, derivative, t, r):
    return velocity + along(t - r, velocity) * derivative


def mean_flow_target__not_reshaped(velocity, derivative, t, r):
    return velocity - (t - r) * derivative


def mean_flow_target__half_of_the_way(velocity, derivative, t, r):
    return velocity - 0.5 * along(t - r, velocity) * derivative


def trigflow_average_velocity__of_the_line(xt, xr, t, r):
    return (xt - xr) / along(t - r, xt)


def trigflow_average_velocity__cosine_of_the_end(xt, xr, t, r):
    turn = along(t - r, xt)
    return (xt - np.cos(turn) * xr) / np.sin(turn)


def trigflow_average_velocity__sign(xt, xr, t, r):
    turn = along(t - r, xt)
    return (xr - np.cos(turn) * xt) / np.sin(turn)


def trigflow_average_velocity__not_reshaped(xt, xr, t, r):
    return (np.cos(t - r) * xt - xr) / np.sin(t - r)
