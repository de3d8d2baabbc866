"""Gradients of the layers of the networks."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import erf

from ldmref.check.identity import Chapter, Functions, RandomInputs

chapter = Chapter("layers")

# Roundings of function and oracle: about three times as many as in the values, since each result is
# used in two products.


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    powers = np.exp(x)
    return powers / powers.sum(axis=axis, keepdims=True)


@chapter.gradient("softmax", 32)
def the_probabilities(f: Functions, rng: RandomInputs) -> tuple:
    axis = rng.integer(-1, 1)

    def call(x):
        return f.softmax(x, axis)

    return call, {"x": rng.uniform(-8, 8, 3, 4)}, lambda x: softmax(x, axis)


@chapter.gradient("scaled_dot_product_attention", 48)
def the_attention(f: Functions, rng: RandomInputs) -> tuple:
    """For queries, keys and values; causal in every other case."""
    causal = bool(rng.integer(0, 1))
    hidden = np.triu(np.ones((4, 4)), 1) * (-1000.0 if causal else 0.0)
    inputs = {"q": rng.normal(2, 4, 3), "k": rng.normal(2, 4, 3), "v": rng.normal(2, 4, 3)}

    def formula(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        scores = np.einsum("hid,hjd->hij", q, k) / math.sqrt(3)
        return np.einsum("hij,hjd->hid", softmax(scores + hidden), v)

    def call(q, k, v):
        return f.scaled_dot_product_attention(q, k, v, causal)

    return call, inputs, formula, 10.0


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


@chapter.gradient("sigmoid", 20)
def the_logistic_curve(f: Functions, rng: RandomInputs) -> tuple:
    return f.sigmoid, {"x": rng.uniform(-8, 8, 8)}, lambda x: 1 / (1 + np.exp(-x))


@chapter.gradient("silu", 30)
def the_curve_of_silu(f: Functions, rng: RandomInputs) -> tuple:
    return f.silu, {"x": rng.uniform(-8, 8, 8)}, lambda x: x / (1 + np.exp(-x))


@chapter.gradient("gelu", 30)
def the_curve_of_gelu(f: Functions, rng: RandomInputs) -> tuple:
    return f.gelu, {"x": rng.uniform(-6, 6, 8)}, gelu


@chapter.gradient("gelu_tanh", 40)
def the_curve_of_gelu_by_tanh(f: Functions, rng: RandomInputs) -> tuple:
    def inner(x):
        return math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)

    return f.gelu_tanh, {"x": rng.uniform(-6, 6, 8)}, lambda x: 0.5 * x * (1 + np.tanh(inner(x)))


@chapter.gradient("quick_gelu", 30)
def the_curve_of_quick_gelu(f: Functions, rng: RandomInputs) -> tuple:
    return f.quick_gelu, {"x": rng.uniform(-6, 6, 8)}, lambda x: x / (1 + np.exp(-1.702 * x))


@chapter.gradient("geglu", 30)
def the_gated_half(f: Functions, rng: RandomInputs) -> tuple:
    def formula(x):
        return x[:, :4] * gelu(x[:, 4:])

    return f.geglu, {"x": rng.uniform(-4, 4, 3, 8)}, formula, 4.0


def standardised(x: np.ndarray, eps: float) -> np.ndarray:
    """Normalise the last axis; the variance of complex numbers is the mean of squares."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + eps)


@chapter.gradient("group_norm", 48)
def the_normalised_groups(f: Functions, rng: RandomInputs) -> tuple:
    """Use groups of at least 6 elements, whose deviation is not far below 1."""
    groups = 2 ** rng.integer(0, 2)
    eps = rng.number(1e-6, 1e-1)
    inputs = {"x": rng.normal(2, 4, 2, 3), "weight": rng.normal(4), "bias": rng.normal(4)}

    def formula(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        y = standardised(x.reshape(2, groups, -1), eps).reshape(x.shape)
        return y * weight[:, None, None] + bias[:, None, None]

    def call(x, weight, bias):
        return f.group_norm(x, weight, bias, groups, eps)

    return call, inputs, formula, 30.0


@chapter.gradient("layer_norm", 48)
def the_normalised_tokens(f: Functions, rng: RandomInputs) -> tuple:
    eps = rng.number(0.01, 0.1)
    inputs = {"x": rng.normal(3, 5), "weight": rng.normal(5), "bias": rng.normal(5)}

    def formula(x, weight, bias):
        return standardised(x, eps) * weight + bias

    return lambda *arrays: f.layer_norm(*arrays, eps), inputs, formula, 30.0


@chapter.gradient("rms_norm", 48)
def the_rows_of_one_length(f: Functions, rng: RandomInputs) -> tuple:
    eps = rng.number(0.01, 0.1)

    def formula(x, weight):
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight

    inputs = {"x": rng.normal(3, 5), "weight": rng.normal(5)}
    return lambda *arrays: f.rms_norm(*arrays, eps), inputs, formula, 30.0


@chapter.gradient("adaptive_layer_norm", 48)
def the_scaled_and_shifted_tokens(f: Functions, rng: RandomInputs) -> tuple:
    eps = rng.number(0.01, 0.1)
    inputs = {"x": rng.normal(2, 3, 5), "shift": rng.normal(2, 5), "scale": rng.normal(2, 5)}

    def formula(x, shift, scale):
        return standardised(x, eps) * (1 + scale[:, None]) + shift[:, None]

    return lambda *arrays: f.adaptive_layer_norm(*arrays, eps), inputs, formula, 60.0


@chapter.gradient("rotary_embedding", 32)
def the_turned_queries(f: Functions, rng: RandomInputs) -> tuple:
    place = [[0.5, 2.0], [1.5, 0.0], [3.0, 1.0]]
    positions = rng.array(place)
    angle = np.asarray(place)

    def formula(x):
        first, second = x[:, 0::2], x[:, 1::2]
        turned = [
            first * np.cos(angle) - second * np.sin(angle),
            first * np.sin(angle) + second * np.cos(angle),
        ]
        return np.stack(turned, axis=-1).reshape(x.shape)

    def call(x):
        return f.rotary_embedding(x, positions, (2, 2))

    return call, {"x": rng.normal(3, 4)}, formula, 8.0


@chapter.gradient("patchify", 4)
def the_cut_pixels(f: Functions, rng: RandomInputs) -> tuple:
    def formula(x):
        return np.stack([x[:, 0, 0:2, j : j + 2].reshape(2, 4) for j in (0, 2)], axis=1)

    return f.patchify, {"x": rng.normal(2, 1, 2, 4)}, formula


@chapter.gradient("unpatchify", 4)
def the_joined_patches(f: Functions, rng: RandomInputs) -> tuple:
    def formula(tokens):
        return np.concatenate([tokens[:, j].reshape(2, 1, 2, 2) for j in (0, 1)], axis=3)

    return lambda x: f.unpatchify(x, 2, 4), {"tokens": rng.normal(2, 2, 4)}, formula


@chapter.gradient("low_rank_update", 16)
def both_factors(f: Functions, rng: RandomInputs) -> tuple:
    rank = rng.integer(1, 3)
    scale = rng.number(-2.0, 2.0)
    inputs = {"weight": rng.normal(4, 2), "down": rng.normal(rank, 2), "up": rng.normal(4, rank)}

    def formula(weight, down, up):
        return weight + scale * (up @ down)

    return lambda *arrays: f.low_rank_update(*arrays, scale), inputs, formula, 30.0


@chapter.gradient("upsample_nearest", 4)
def the_repeated_pixels(f: Functions, rng: RandomInputs) -> tuple:
    def formula(x):
        return x.repeat(2, axis=2).repeat(2, axis=3)

    return f.upsample_nearest, {"x": rng.normal(2, 2, 2, 3)}, formula, 4.0


@chapter.gradient("pad_bottom_right", 0)
def the_pixels_in_the_corner(f: Functions, rng: RandomInputs) -> tuple:
    def formula(x):
        return np.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1)))

    return f.pad_bottom_right, {"x": rng.normal(2, 2, 2, 3)}, formula
