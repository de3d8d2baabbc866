"""Wrong answers to the exercises of chapter 14: `NAME__description` fails `ldmref check`."""

import numpy as np


def cut(x, size, order):
    n, c, h, w = x.shape
    squares = x.reshape(n, c, h // size, size, w // size, size)
    return squares.transpose(order).reshape(n, -1, c * size * size)


def patchify__channels_last(x, size=2):
    """As in Z-Image."""
    return cut(x, size, (0, 2, 4, 3, 5, 1))


def patchify__columns_first(x, size=2):
    return cut(x, size, (0, 4, 2, 1, 3, 5))


def patchify__always_two(x, size=2):
    return cut(x, 2, (0, 2, 4, 1, 3, 5))


def patchify__strips(x, size=2):
    """A reshape without an exchange of axes."""
    n, c, h, w = x.shape
    return x.reshape(n, (h // size) * (w // size), c * size * size)


def adapt(x, shift, scale, eps):
    centred = x - x.mean(axis=-1, keepdims=True)
    normal = centred / np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    return normal * scale + shift


def adaptive_layer_norm__scale_without_one(x, shift, scale, eps=1e-6):
    return adapt(x, shift[:, None], scale[:, None], eps)


def adaptive_layer_norm__epsilon_outside_the_root(x, shift, scale, eps=1e-6):
    centred = x - x.mean(axis=-1, keepdims=True)
    normal = centred / (x.std(axis=-1, keepdims=True) + eps)
    return normal * (1 + scale[:, None]) + shift[:, None]


def adaptive_layer_norm__as_given(x, shift, scale, eps=1e-6):
    centred = x - x.mean(axis=-1, keepdims=True)
    normal = centred / (x.std(axis=-1, keepdims=True) + eps)
    return normal * scale[:, None] + shift[:, None]


def adaptive_layer_norm__unbiased_variance(x, shift, scale, eps=1e-6):
    centred = x - x.mean(axis=-1, keepdims=True)
    normal = centred / np.sqrt(x.var(axis=-1, keepdims=True, ddof=1) + eps)
    return normal * (1 + scale[:, None]) + shift[:, None]


def adaptive_layer_norm__over_the_tokens(x, shift, scale, eps=1e-6):
    centred = x - x.mean(axis=(1, 2), keepdims=True)
    normal = centred / np.sqrt(x.var(axis=(1, 2), keepdims=True) + eps)
    return normal * (1 + scale[:, None]) + shift[:, None]


def adaptive_layer_norm__tokens_not_spread(x, shift, scale, eps=1e-6):
    return adapt(x, shift, 1 + scale, eps)


def adaptive_layer_norm__exchanged(x, shift, scale, eps=1e-6):
    return adapt(x, scale[:, None], 1 + shift[:, None], eps)


def rotate(x, angles):
    pairs = x[..., 0::2] + 1j * x[..., 1::2]
    turned = pairs * np.exp(1j * angles)
    return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)


def find_angles(positions, widths, base, divisor=None):
    return np.concatenate(
        [
            positions[:, axis : axis + 1]
            * base ** (-2 * np.arange(width // 2) / (divisor or width))
            for axis, width in enumerate(widths)
        ],
        axis=1,
    )


def rotary_embedding__width_of_the_head(x, positions, widths, base=10000.0):
    return rotate(x, find_angles(positions, widths, base, x.shape[-1]))


def rotary_embedding__halves(x, positions, widths, base=10000.0):
    """As language models do: channel k is paired with the one half a head further."""
    half = x.shape[-1] // 2
    pairs = x[..., :half] + 1j * x[..., half:]
    turned = pairs * np.exp(1j * find_angles(positions, widths, base))
    return np.concatenate([turned.real, turned.imag], axis=-1)


def rotary_embedding__other_direction(x, positions, widths, base=10000.0):
    return rotate(x, -find_angles(positions, widths, base))


def rotary_embedding__first_axis_only(x, positions, widths, base=10000.0):
    return rotate(x, positions[:, :1] * base ** (-2 * np.arange(x.shape[-1] // 2) / x.shape[-1]))


def rotary_embedding__base_ignored(x, positions, widths, base=10000.0):
    return rotate(x, find_angles(positions, widths, 10000.0))


def rotary_embedding__axes_continue(x, positions, widths, base=10000.0):
    """The k-th pair of the head, not of its axis."""
    axis = np.repeat(np.arange(len(widths)), [width // 2 for width in widths])
    rates = base ** (-2 * np.arange(x.shape[-1] // 2) / x.shape[-1])
    return rotate(x, positions[:, axis] * rates)


def rotary_embedding__axes_continue_at_own_widths(x, positions, widths, base=10000.0):
    axis = np.repeat(np.arange(len(widths)), [width // 2 for width in widths])
    rates = base ** (-2 * np.arange(x.shape[-1] // 2) / np.asarray(widths)[axis])
    return rotate(x, positions[:, axis] * rates)
