"""Piece 3 of the capstone: Algorithm 1 and its loop of gradient steps."""

import math

import numpy as np


def per_example(value, x):
    """Return numbers of shape (n,) in a shape that multiplies the examples of x."""
    value = np.asarray(value)
    return value.reshape(value.shape + (1,) * (x.ndim - 1)) if value.ndim else value


def q_sample(x0, alpha_bar, eps):
    """Return x_t: the data scaled, plus noise."""
    a = per_example(alpha_bar, x0)
    return np.sqrt(a) * x0 + np.sqrt(1.0 - a) * eps


def training_pair(x0, alpha_bar, eps, prediction_type="eps"):
    """Return x_t and what the network should predict from it."""
    v = np.sqrt(per_example(alpha_bar, x0)) * eps - np.sqrt(1.0 - per_example(alpha_bar, x0)) * x0
    return q_sample(x0, alpha_bar, eps), {"eps": eps, "x0": x0, "v": v}[prediction_type]


def training_loss(predict, x0, t, eps, alphas_cumprod, prediction_type="eps"):
    """Return the mean squared error of each example at its own timestep, (n,)."""
    xt, target = training_pair(x0, alphas_cumprod[t], eps, prediction_type)
    return ((target - predict(xt, t)) ** 2).reshape(len(x0), -1).mean(axis=1)


def train(draw, features, alpha_bar, steps, rng, batch=256, rate=0.02):
    """Train a linear layer that predicts noise from features, with Adam.

    Args:
        draw: Returns data, `draw(n)`, (n, d).
        features: The inputs of the layer, `features(xt, t)`, (n, k).
        alpha_bar: The schedule, (T,).
        steps: Number of gradient steps.
        rng: Source of timesteps and noise.
        batch: Examples in a step.
        rate: Learning rate of the first step; it falls to 0.

    Returns:
        The weights, (k, d), and the mean loss of each step.
    """
    d = draw(1).shape[1]
    weights = np.zeros((features(draw(1), np.zeros(1, int)).shape[1], d))
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    losses = []
    for step in range(1, steps + 1):
        x0 = draw(batch)
        t = rng.integers(len(alpha_bar), size=batch)
        eps = rng.standard_normal(x0.shape)
        predicted = {}

        def predict(xt, t, weights=weights, predicted=predicted):
            predicted["inputs"] = features(xt, t)
            predicted["eps"] = predicted["inputs"] @ weights
            return predicted["eps"]

        losses.append(training_loss(predict, x0, t, eps, alpha_bar).mean())
        gradient = 2.0 * predicted["inputs"].T @ (predicted["eps"] - eps) / eps.size
        first += 0.1 * (gradient - first)
        second += 0.01 * (gradient**2 - second)
        size = np.sqrt(second / (1.0 - 0.99**step)) + 1e-8
        falling = 0.5 * (1.0 + math.cos(math.pi * step / steps))
        weights = weights - rate * falling * first / (1.0 - 0.9**step) / size
    return weights, np.asarray(losses)
