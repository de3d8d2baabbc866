"""Wrong answers to the exercises of chapter 0."""

import numpy as np


def lerp__ends_swapped(a, b, t):
    return t * a + (1.0 - t) * b


def softmax__wrong_axis(x, axis=-1):
    weights = np.exp(x)
    return weights / weights.sum()


def softmax__naive(x, axis=-1):
    weights = np.exp(x)
    return weights / weights.sum(axis=axis, keepdims=True)


def bits_per_dimension__nats_times_log_2(nats, dimensions):
    return nats / dimensions * np.log(2.0)


def bits_per_dimension__no_division_by_d(nats, dimensions):
    return nats / np.log(2.0)


def lerp__position_not_reshaped(a, b, t):
    return (1.0 - t) * a + t * b
