"""Wrong answers to the exercises of chapter 13: `NAME__description` fails `ldmref check`."""

import numpy as np


def along(coefficient, x):
    return (
        np.reshape(coefficient, (-1,) + (1,) * (x.ndim - 1))
        if np.ndim(coefficient)
        else coefficient
    )


def interpolant_pair__denominator_is_one(x, velocity, signal, noise, signal_rate, noise_rate):
    a, b, falls, rises = (along(c, x) for c in (signal, noise, signal_rate, noise_rate))
    return rises * x - b * velocity, a * velocity - falls * x


def interpolant_pair__rates_exchanged(x, velocity, signal, noise, signal_rate, noise_rate):
    a, b, falls, rises = (along(c, x) for c in (signal, noise, signal_rate, noise_rate))
    turn = a * rises - b * falls
    return (falls * x - b * velocity) / turn, (a * velocity - rises * x) / turn


def interpolant_pair__not_reshaped(x, velocity, signal, noise, signal_rate, noise_rate):
    turn = signal * noise_rate - noise * signal_rate
    x0 = (noise_rate * x - noise * velocity) / turn
    return x0, (signal * velocity - signal_rate * x) / turn


def interpolant_pair__exchanged(x, velocity, signal, noise, signal_rate, noise_rate):
    a, b, falls, rises = (along(c, x) for c in (signal, noise, signal_rate, noise_rate))
    turn = a * rises - b * falls
    return (a * velocity - falls * x) / turn, (rises * x - b * velocity) / turn


def interpolant_pair__sign(x, velocity, signal, noise, signal_rate, noise_rate):
    a, b, falls, rises = (along(c, x) for c in (signal, noise, signal_rate, noise_rate))
    turn = a * rises - b * falls
    return (rises * x - b * velocity) / turn, (a * velocity + falls * x) / turn


def interpolant_pair__data_alone(x, velocity, signal, noise, signal_rate, noise_rate):
    a, b, falls, rises = (along(c, x) for c in (signal, noise, signal_rate, noise_rate))
    return (rises * x - b * velocity) / (a * rises - b * falls)


def x0_from_velocity__as_given(xs, velocity, s):
    return xs + (1 - s) * velocity


def x0_from_velocity__over_the_signal(xs, velocity, s):
    """As from the prediction of noise."""
    s = along(s, xs)
    return (xs - s * velocity) / (1 - s)


def x0_from_velocity__the_noise(xs, velocity, s):
    return xs + (1 - along(s, xs)) * velocity


def x0_from_velocity__velocity_to_the_data(xs, velocity, s):
    """For a network that predicts x0 - eps."""
    return xs + along(s, xs) * velocity


def x0_from_velocity__not_reshaped(xs, velocity, s):
    return xs - s * velocity


def logit_normal_density__of_the_logit(s, mean=0.0, std=1.0):
    z = (np.log(s / (1 - s)) - mean) / std
    return np.exp(-0.5 * z**2) / (std * np.sqrt(2 * np.pi))


def logit_normal_density__variance_for_deviation(s, mean=0.0, std=1.0):
    z = np.log(s / (1 - s)) - mean
    return np.exp(-0.5 * z**2 / std) / (std**0.5 * np.sqrt(2 * np.pi)) / (s * (1 - s))


def logit_normal_density__squared_deviation(s, mean=0.0, std=1.0):
    z = (np.log(s / (1 - s)) - mean) / std**2
    return np.exp(-0.5 * z**2) / (std**2 * np.sqrt(2 * np.pi)) / (s * (1 - s))


def logit_normal_density__not_over_the_deviation(s, mean=0.0, std=1.0):
    z = (np.log(s / (1 - s)) - mean) / std
    return np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi) / (s * (1 - s))


def logit_normal_density__logarithm_for_the_logit(s, mean=0.0, std=1.0):
    z = (np.log(s) - mean) / std
    return np.exp(-0.5 * z**2) / (std * np.sqrt(2 * np.pi)) / (s * (1 - s))


def logit_normal_density__derivative_of_sigma(s, mean=0.0, std=1.0):
    z = (np.log(s / (1 - s)) - mean) / std
    return np.exp(-0.5 * z**2) / (std * np.sqrt(2 * np.pi)) / (1 - s) ** 2
