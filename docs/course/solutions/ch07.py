"""Answers to the exercises of chapter 7, the network."""

import numpy as np


def scaled_dot_product_attention(q, k, v, causal=False, mask=None):
    """Softmax over the keys that a query may see; zeros where it may see none."""
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1])
    allowed = np.ones(scores.shape[-2:], dtype=bool)
    if causal:
        allowed = np.tril(allowed)
    if mask is not None:
        allowed = allowed & mask
    scores = np.where(allowed, scores, -np.inf)
    largest = scores.max(axis=-1, keepdims=True)
    exponentials = np.exp(scores - np.where(np.isfinite(largest), largest, 0.0))
    total = exponentials.sum(axis=-1, keepdims=True)
    return exponentials / np.where(total > 0.0, total, 1.0) @ v


def group_norm(x, weight, bias, groups, eps):
    """Mean and variance over the channels of a group and all positions of one example."""
    n, c, h, w = x.shape
    g = x.reshape(n, groups, c // groups, h, w)
    mean = g.mean(axis=(2, 3, 4), keepdims=True)
    variance = g.var(axis=(2, 3, 4), keepdims=True)
    normed = ((g - mean) / np.sqrt(variance + eps)).reshape(x.shape)
    return normed * weight[:, None, None] + bias[:, None, None]


def timestep_embedding(t, dim, max_period=10000.0, *, flip_sin_to_cos=True, freq_shift=0):
    """Return cosines and sines of geometrically spaced frequencies."""
    half = dim // 2
    frequencies = max_period ** (-np.arange(half) / (half - freq_shift))
    angles = t[:, None] * frequencies
    waves = [np.cos(angles), np.sin(angles)]
    return np.concatenate(waves if flip_sin_to_cos else waves[::-1], axis=1)
