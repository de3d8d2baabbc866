"""Wrong answers to the exercises of chapter 7: `NAME__description` fails `ldmref check`."""

import numpy as np


def attend(q, k, v, causal, mask, divisor):
    scores = q @ np.swapaxes(k, -1, -2) / divisor
    allowed = np.ones(scores.shape[-2:], dtype=bool)
    if causal:
        allowed = np.tril(allowed)
    if mask is not None:
        allowed = allowed & mask
    weights = np.where(allowed, np.exp(scores), 0.0)
    total = weights.sum(-1, keepdims=True)
    return weights / np.where(total > 0, total, 1) @ v


def scaled_dot_product_attention__without_the_root(q, k, v, causal=False, mask=None):
    return attend(q, k, v, causal, mask, 1.0)


def scaled_dot_product_attention__divided_by_d(q, k, v, causal=False, mask=None):
    return attend(q, k, v, causal, mask, q.shape[-1])


def scaled_dot_product_attention__mask_ignored(q, k, v, causal=False, mask=None):
    return attend(q, k, v, causal, None, np.sqrt(q.shape[-1]))


def scaled_dot_product_attention__softmax_over_queries(q, k, v, causal=False, mask=None):
    weights = np.exp(q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1]))
    return weights / weights.sum(-2, keepdims=True) @ v


def group_norm__over_the_batch(x, weight, bias, groups, eps):
    n, c, h, w = x.shape
    g = x.reshape(n, groups, c // groups, h, w)
    mean, var = g.mean((0, 2, 3, 4), keepdims=True), g.var((0, 2, 3, 4), keepdims=True)
    g = (g - mean) / np.sqrt(var + eps)
    return g.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]


def group_norm__epsilon_outside_the_root(x, weight, bias, groups, eps):
    n, c, h, w = x.shape
    g = x.reshape(n, groups, c // groups, h, w)
    g = (g - g.mean((2, 3, 4), keepdims=True)) / (g.std((2, 3, 4), keepdims=True) + eps)
    return g.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]


def group_norm__unbiased_variance(x, weight, bias, groups, eps):
    n, c, h, w = x.shape
    g = x.reshape(n, groups, c // groups, h, w)
    var = g.var((2, 3, 4), keepdims=True, ddof=1)
    g = (g - g.mean((2, 3, 4), keepdims=True)) / np.sqrt(var + eps)
    return g.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]


def timestep_embedding__sines_first(t, dim, max_period=1e4, *, flip_sin_to_cos=True, freq_shift=0):
    half = dim // 2
    angles = t[:, None] * max_period ** (-np.arange(half) / (half - freq_shift))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def timestep_embedding__interleaved(t, dim, max_period=1e4, *, flip_sin_to_cos=True, freq_shift=0):
    half = dim // 2
    angles = t[:, None] * max_period ** (-np.arange(half) / (half - freq_shift))
    waves = [np.cos(angles), np.sin(angles)]
    return np.stack(waves if flip_sin_to_cos else waves[::-1], axis=2).reshape(len(t), dim)


def timestep_embedding__shift_ignored(
    t, dim, max_period=1e4, *, flip_sin_to_cos=True, freq_shift=0
):
    half = dim // 2
    angles = t[:, None] * max_period ** (-np.arange(half) / half)
    waves = [np.cos(angles), np.sin(angles)]
    return np.concatenate(waves if flip_sin_to_cos else waves[::-1], axis=1)


def scaled_dot_product_attention__nowhere_is_nan(q, k, v, causal=False, mask=None):
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1])
    allowed = np.ones(scores.shape[-2:], dtype=bool) if mask is None else mask
    weights = np.where(np.tril(allowed) if causal else allowed, np.exp(scores), 0.0)
    with np.errstate(invalid="ignore"):
        return weights / weights.sum(-1, keepdims=True) @ v


def scaled_dot_product_attention__causal_ignored(q, k, v, causal=False, mask=None):
    return attend(q, k, v, False, mask, np.sqrt(q.shape[-1]))


def scaled_dot_product_attention__naive(q, k, v, causal=False, mask=None):
    with np.errstate(over="ignore", invalid="ignore"):
        return attend(q, k, v, causal, mask, np.sqrt(q.shape[-1]))


def group_norm__naive(x, weight, bias, groups, eps):
    n, c, h, w = x.shape
    g = x.reshape(n, groups, c // groups, h, w)
    mean = g.mean((2, 3, 4), keepdims=True)
    variance = (g * g).mean((2, 3, 4), keepdims=True) - mean**2
    with np.errstate(invalid="ignore"):
        g = (g - mean) / np.sqrt(variance + eps)
    return g.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]
