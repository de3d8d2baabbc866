"""Answers to the exercises of chapter 14, transformers for images."""

import numpy as np


def patchify(x, size=2):
    """Cut images into squares, and write each as a row: channel, row, column."""
    n, c, h, w = x.shape
    squares = x.reshape(n, c, h // size, size, w // size, size)
    return squares.transpose(0, 2, 4, 1, 3, 5).reshape(n, -1, c * size * size)


def adaptive_layer_norm(x, shift, scale, eps=1e-6):
    """Normalise each token, and scale by 1 + scale, so that zeros change nothing."""
    centred = x - x.mean(axis=-1, keepdims=True)
    normal = centred / np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    return normal * (1 + scale[:, None]) + shift[:, None]


def rotary_embedding(x, positions, widths, base=10000.0):
    """Multiply each pair of neighbouring channels by a complex unit."""
    angles = [
        positions[:, axis : axis + 1] * base ** (-2 * np.arange(width // 2) / width)
        for axis, width in enumerate(widths)
    ]
    pairs = x[..., 0::2] + 1j * x[..., 1::2]
    turned = pairs * np.exp(1j * np.concatenate(angles, axis=1))
    return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)
