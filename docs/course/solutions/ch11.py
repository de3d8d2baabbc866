"""Answers to the exercises of chapter 11, written from its formulas."""

import numpy as np


def _per_example(value, x):
    """Return a number, or (n,) numbers with as many axes as x."""
    return np.reshape(value, (-1, *[1] * (x.ndim - 1)))


def replace_known(x, known, mask, alpha_bar, eps):
    """The known part gets the noise of the level that x has."""
    alpha_bar = _per_example(alpha_bar, x)
    noised = np.sqrt(alpha_bar) * known + np.sqrt(1.0 - alpha_bar) * eps
    return mask * x + (1.0 - mask) * noised


def _length(x):
    return np.sqrt(np.sum(x * x, axis=1, keepdims=True))


def _unit(x):
    size = _length(x)
    return x / np.where(size == 0.0, 1.0, size)


def slerp(a, b, t):
    """The angle by atan2, which is accurate for parallel vectors; lerp where sin(angle) is 0."""
    flat_a = a.reshape(a.shape[0], -1)
    flat_b = b.reshape(b.shape[0], -1)
    unit_a = _unit(flat_a)
    unit_b = _unit(flat_b)
    angle = 2.0 * np.arctan2(_length(unit_a - unit_b), _length(unit_a + unit_b))
    straight = (_length(flat_a) == 0) | (_length(flat_b) == 0) | (np.sin(angle) < 1e-8)
    safe = np.where(straight, 1.0, angle)
    t = _per_example(t, flat_a) + np.zeros_like(angle)
    left = np.where(straight, 1.0 - t, np.sin((1.0 - t) * safe) / np.sin(safe))
    right = np.where(straight, t, np.sin(t * safe) / np.sin(safe))
    return (left * flat_a + right * flat_b).reshape(a.shape)


def q_step(x_prev, beta, eps):
    """Shrink by sqrt(1 - beta) and add noise of variance beta."""
    beta = _per_example(beta, x_prev)
    return np.sqrt(1.0 - beta) * x_prev + np.sqrt(beta) * eps
