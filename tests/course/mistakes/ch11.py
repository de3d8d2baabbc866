"""Wrong answers to the exercises of chapter 11; the part after `__` says what is wrong."""

import numpy as np


def per_example(value, x):
    return np.reshape(value, (-1, *[1] * (x.ndim - 1)))


def replace_known__without_noise(x, known, mask, alpha_bar, eps):
    """The page's exercise: clean data are put into a noisy state."""
    return mask * x + (1 - mask) * known


def replace_known__other_polarity(x, known, mask, alpha_bar, eps):
    """1 means known here, as in the DDIM code of CompVis."""
    alpha_bar = per_example(alpha_bar, x)
    return (1 - mask) * x + mask * (np.sqrt(alpha_bar) * known + np.sqrt(1 - alpha_bar) * eps)


def slerp__angle_of_unnormalised_vectors(a, b, t):
    """The inner product is not divided by the lengths."""
    flat_a, flat_b = (z.reshape(z.shape[0], -1) for z in (a, b))
    angle = np.arccos(np.clip((flat_a * flat_b).sum(axis=1, keepdims=True), -1, 1))
    t = per_example(t, flat_a)
    mixed = np.sin((1 - t) * angle) * flat_a + np.sin(t * angle) * flat_b
    return (mixed / np.sin(angle)).reshape(a.shape)


def slerp__lerp_of_the_same_length(a, b, t):
    """The straight line, rescaled: right lengths, wrong angles."""
    flat_a, flat_b = (z.reshape(z.shape[0], -1) for z in (a, b))
    t = per_example(t, flat_a)
    mixed = (1 - t) * flat_a + t * flat_b
    size = np.linalg.norm(flat_a, axis=1, keepdims=True)
    return (mixed * size / np.linalg.norm(mixed, axis=1, keepdims=True)).reshape(a.shape)


def slerp__naive(a, b, t):
    """The angle by arccos: it loses digits where the vectors are nearly parallel."""
    flat_a, flat_b = (z.reshape(z.shape[0], -1) for z in (a, b))
    lengths = np.linalg.norm(flat_a, axis=1) * np.linalg.norm(flat_b, axis=1)
    t = per_example(t, flat_a)
    with np.errstate(invalid="ignore", divide="ignore"):
        angle = np.arccos(np.clip((flat_a * flat_b).sum(axis=1) / lengths, -1, 1))[:, None]
        mixed = np.sin((1 - t) * angle) * flat_a + np.sin(t * angle) * flat_b
        circle = mixed / np.sin(angle)
    line = (1 - t) * flat_a + t * flat_b
    return np.where(np.sin(angle) > 1e-7, circle, line).reshape(a.shape)


def q_step__variance_instead_of_deviation(x_prev, beta, eps):
    """The noise is multiplied by beta."""
    beta = per_example(beta, x_prev)
    return np.sqrt(1 - beta) * x_prev + beta * eps


def replace_known__not_reshaped(x, known, mask, alpha_bar, eps):
    """alpha_bar of shape (n,) is multiplied along the last axis."""
    return mask * x + (1 - mask) * (np.sqrt(alpha_bar) * known + np.sqrt(1 - alpha_bar) * eps)


def slerp__no_line(a, b, t):
    """0 / 0 where an example is zero or both are parallel."""
    flat_a, flat_b = (z.reshape(z.shape[0], -1) for z in (a, b))
    lengths = np.linalg.norm(flat_a, axis=1) * np.linalg.norm(flat_b, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (flat_a * flat_b).sum(axis=1) / lengths
        angle = np.arccos(np.clip(cosine, -1, 1))[:, None]
        t = per_example(t, flat_a)
        mixed = np.sin((1 - t) * angle) * flat_a + np.sin(t * angle) * flat_b
        return (mixed / np.sin(angle)).reshape(a.shape)


def slerp__not_reshaped(a, b, t):
    """t of shape (n,) is multiplied along the last axis."""
    flat_a, flat_b = (z.reshape(z.shape[0], -1) for z in (a, b))
    cosine = (flat_a * flat_b).sum(1) / np.linalg.norm(flat_a, axis=1)
    angle = np.arccos(np.clip(cosine / np.linalg.norm(flat_b, axis=1), -1, 1))[:, None]
    mixed = np.sin((1 - t) * angle) * flat_a + np.sin(t * angle) * flat_b
    return (mixed / np.sin(angle)).reshape(a.shape)


def q_step__not_reshaped(x_prev, beta, eps):
    """beta of shape (n,) is multiplied along the last axis."""
    return np.sqrt(1 - beta) * x_prev + np.sqrt(beta) * eps
