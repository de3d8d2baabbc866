"""Layers of the networks: attention, activations, normalisation, resampling, embedding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, to_host
from ldmref.math import timestep_embedding
from ldmref.math.arrays import Array

chapter = Chapter("layers")


# Roundings: 6 on each side.
@chapter.identity("softmax", "the definition, without shift", 12)
def exponentials_over_their_sum(f: Functions, rng: RandomInputs) -> Comparison:
    x = rng.uniform(-8, 8, 3, 2, 4)
    axis = rng.integer(-1, 1)
    powers = np.exp(to_host(x))
    return f.softmax(x, axis), powers / powers.sum(axis=axis, keepdims=True)


def attention_weights(q: np.ndarray, k: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the attention map of one head; a query without keys has zero weights."""
    rows = np.zeros(mask.shape)
    for i in range(len(q)):
        powers = [math.exp(q[i] @ k[j] / math.sqrt(len(q[i]))) * mask[i, j] for j in range(len(k))]
        rows[i] = np.asarray(powers) / (sum(powers) or 1.0)
    return rows


# Roundings: 8 on each side: scores of size 5 change a probability by a quarter at most.
@chapter.identity("scaled_dot_product_attention", "loops", 16, uses=("attention_map",))
def loop_over_the_queries(f: Functions, rng: RandomInputs) -> Comparison:
    """Compare map and output with a random mask, causal in every other case."""
    q = rng.normal(2, 4, 3)
    k = rng.normal(2, 5, 3)
    v = rng.normal(2, 5, 3)
    mask = rng.numpy.random((4, 5)) < 0.7
    causal = bool(rng.integer(0, 1))
    allowed = rng.xp.asarray(mask.tolist(), device=rng.device)
    mask = np.tril(mask) if causal else mask
    heads = zip(to_host(q), to_host(k), strict=True)
    weights = np.stack([attention_weights(*head, mask) for head in heads])
    output = f.scaled_dot_product_attention(q, k, v, causal, allowed)
    got = {"attention_map": f.attention_map(q, k, causal, allowed), "output": output}
    return got, [weights, weights @ to_host(v)], 4.0


# Roundings: a mean of 3 on each side.
@chapter.identity("word_map", "loops", 6)
def mean_of_the_heads_pixel_by_pixel(f: Functions, rng: RandomInputs) -> Comparison:
    maps = rng.uniform(0, 1, 3, 6, 4)
    token = rng.integer(0, 3)
    heads = to_host(maps)
    expected = [[sum(heads[:, 3 * y + x, token]) / 3 for x in range(3)] for y in range(2)]
    return f.word_map(maps, token, 2, 3), expected


def gelu(x: float) -> float:
    """Compute GELU by the error function of the C library."""
    return 0.5 * x * (1.0 + math.erf(x / math.sqrt(2.0)))


# fmt: off
# Roundings: 5 or 6 on each side, with one exponential, tanh or erf.
chapter.elementwise("sigmoid", "hyperbolic tangent of half the argument", "tanh", 10, (-8, 8),
                    lambda x: 0.5 + 0.5 * math.tanh(0.5 * x))
chapter.elementwise("silu", "argument over one plus an exponential", "exp", 12, (-8, 8),
                    lambda x: x / (1.0 + math.exp(-x)))
chapter.elementwise("gelu", "error function of the c library", "math.erf", 10, (-6, 6), gelu)
chapter.elementwise("gelu_tanh", "hyperbolic tangent as published", "tanh", 12, (-6, 6), lambda x:
                    0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
chapter.elementwise("quick_gelu", "argument over one plus a steeper exponential", "exp", 12,
                    (-6, 6), lambda x: x / (1.0 + math.exp(-1.702 * x)))
# fmt: on


# Roundings: 5 on each side.
@chapter.identity("geglu", "math.erf", 10)
def first_half_times_the_gate_of_the_second(f: Functions, rng: RandomInputs) -> Comparison:
    x = rng.uniform(-4, 4, 3, 2, 8)
    value, gate = np.split(to_host(x), 2, axis=-1)
    return f.geglu(x), value * np.vectorize(gelu)(gate), 16.0


def standardised(values: np.ndarray, eps: float) -> np.ndarray:
    return (values - values.mean()) / math.sqrt(values.var() + eps)


# Roundings: 6 on each side: means of many numbers, a root.
@chapter.identity("group_norm", "loops", 12)
def loop_over_examples_and_groups(f: Functions, rng: RandomInputs) -> Comparison:
    x = rng.normal(2, 4, 2, 3)
    weight = rng.normal(4)
    bias = rng.normal(4)
    groups = 2 ** rng.integer(0, 2)
    eps = rng.number(1e-6, 1e-1)
    split = np.split(to_host(x), groups, axis=1)
    y = [np.stack([standardised(example, eps) for example in group]) for group in split]
    gamma, beta = (to_host(z)[:, None, None] for z in (weight, bias))
    expected = np.concatenate(y, axis=1) * gamma + beta
    return f.group_norm(x, weight, bias, groups, eps), expected, 10.0


# Roundings: 6 on each side: means of 5 numbers, a root.
@chapter.identity("layer_norm", "loops", 12)
def loop_over_tokens(f: Functions, rng: RandomInputs) -> Comparison:
    x = rng.normal(3, 2, 5)
    weight = rng.normal(5)
    bias = rng.normal(5)
    eps = rng.number(0.01, 0.1)
    y = np.apply_along_axis(standardised, -1, to_host(x), eps)
    return f.layer_norm(x, weight, bias, eps), y * to_host(weight) + to_host(bias), 10.0


@chapter.identity("upsample_nearest", "Kronecker product", 0)
def product_with_a_block_of_ones(f: Functions, rng: RandomInputs) -> Comparison:
    """Compare with a random factor and with the default of 2."""
    x = rng.normal(2, 2, 2, 3)
    factor = rng.integer(1, 3)
    expected = [np.kron(to_host(x), np.ones((1, 1, k, k))) for k in (factor, 2)]
    return [f.upsample_nearest(x, factor), f.upsample_nearest(x)], expected


@chapter.identity("pad_bottom_right", "an array of zeros", 0)
def image_in_the_corner_of_zeros(f: Functions, rng: RandomInputs) -> Comparison:
    x = rng.normal(2, 2, 2, 3)
    expected = np.zeros((2, 2, 3, 4))
    expected[:, :, :2, :3] = to_host(x)
    return f.pad_bottom_right(x), expected


# Roundings: sums of 3 products, scaled and added: 7 on each side.
@chapter.identity("low_rank_update", "sum of outer products", 14)
def one_outer_product_per_rank(f: Functions, rng: RandomInputs) -> Comparison:
    """Update a matrix and a 3 x 3 kernel."""
    rank = rng.integer(1, 3)
    scale = rng.number(-2.0, 2.0)
    got = []
    expected = []
    for size in ((), (3, 3)):
        w = rng.normal(4, 2, *size)
        down = rng.normal(rank, 2, *size)
        up = rng.normal(4, rank, *(1 for _ in size))
        rows = zip(to_host(up).reshape(4, rank).T, to_host(down), strict=True)
        got.append(f.low_rank_update(w, down, up, scale))
        expected.append(to_host(w) + scale * sum(np.multiply.outer(b, a) for b, a in rows))
    return got, expected, 16.0


# Roundings: 4 of angles up to the scale on each side.
@chapter.identity("timestep_embedding", "a loop in plain Python", 8)
def loop_over_frequencies(f: Functions, rng: RandomInputs) -> Comparison:
    """Compare both conventions, that of latent diffusion and that of DDPM."""
    t = rng.uniform(0.0, 999.0, 3)
    half = rng.integer(2, 16)
    got = []
    expected = []
    for shift, order in ((0, (math.cos, math.sin)), (1, (math.sin, math.cos))):
        got.append(f.timestep_embedding(t, 2 * half, flip_sin_to_cos=not shift, freq_shift=shift))
        frequencies = [10000.0 ** (-i / (half - shift)) for i in range(half)]
        expected.append([[wave(v * w) for wave in order for w in frequencies] for v in to_host(t)])
    return got, expected, 1000.0


# -- mistakes --------------------------------------------------------------------------------------


def attention(
    *,
    divisor: Callable[[int], float] = math.sqrt,
    axis: int = -1,
    nothing: float = 0.0,
    hides: bool = True,
) -> Callable[..., Array]:
    """Return an attention whose scores are divided by `divisor` of the width.

    Its weights sum to 1 on `axis`. A query that may look nowhere gets `nothing`. Without `hides`,
    neither causal nor mask has an effect.
    """

    def attend(q: Array, k: Array, v: Array, causal: bool = False, mask: Any = None) -> Array:
        scores = q @ np.swapaxes(k, -1, -2) / divisor(q.shape[-1])
        allowed = np.ones(scores.shape[-2:], bool) if mask is None or not hides else mask
        allowed = np.tril(allowed) if causal and hides else allowed
        weights = np.where(allowed, np.exp(scores), 0.0)
        total = np.sum(weights, axis=axis, keepdims=True)
        return np.where(total > 0, weights / np.where(total > 0, total, 1.0), nothing) @ v

    return attend


def normed(
    x: Array, w: Array, b: Array, groups: int, eps: float, axes: tuple[int, ...], ddof: int = 0
) -> Array:
    """Norm groups of channels over other axes; with ddof -1, eps is added to the deviation."""
    rows = np.reshape(x, (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
    variance = np.var(rows, axis=axes, keepdims=True, ddof=max(ddof, 0))
    deviation = np.sqrt(variance) + eps if ddof < 0 else np.sqrt(variance + eps)
    y = np.reshape((rows - np.mean(rows, axis=axes, keepdims=True)) / deviation, x.shape)
    shape = (-1, *(1,) * (x.ndim - 2))
    return y * np.reshape(w, shape) + np.reshape(b, shape)


def interleaved(
    t: Array, dim: int, period: float = 1e4, *, flip_sin_to_cos: bool = True, freq_shift: float = 0
) -> Array:
    """Alternate cosines and sines."""
    both = timestep_embedding(
        t, dim, period, flip_sin_to_cos=flip_sin_to_cos, freq_shift=freq_shift
    )
    return np.stack(np.split(both, 2, axis=1), axis=2).reshape(both.shape)


# fmt: off
chapter.known_mistakes("softmax", {
    "the weights of all rows together sum to 1; those of each row on the axis are meant":
        lambda x, axis=-1: np.exp(x) / np.sum(np.exp(x)),
})
chapter.known_mistakes("scaled_dot_product_attention", {
    "the scores are not divided by the root of the width":
        attention(divisor=lambda d: 1.0),
    "the scores are divided by the width; by its root is meant":
        attention(divisor=float),
    "the weights sum to 1 over the queries, and neither causal nor mask has an effect":
        attention(axis=-2, hides=False),
    "the weights sum to 1 over the queries; over the keys is meant":
        attention(axis=-2),
    "a query that may look nowhere gets 0 / 0, no number; zeros are meant":
        attention(nothing=math.nan),
})
chapter.known_mistakes("group_norm", {
    "mean and variance are over the batch as well; each example has its own":
        lambda x, w, b, groups, eps: normed(x, w, b, groups, eps, (0, *range(2, x.ndim + 1))),
    "eps is added to the deviation; it belongs to the variance, under the root":
        lambda x, w, b, groups, eps: normed(x, w, b, groups, eps, (*range(2, x.ndim + 1),), -1),
    "the variance is over n - 1 numbers, as of a sample (ddof = 1); a norm divides by n":
        lambda x, w, b, groups, eps: normed(x, w, b, groups, eps, (*range(2, x.ndim + 1),), 1),
})
chapter.known_mistakes("timestep_embedding", {
    "sines come first whatever flip_sin_to_cos says, and freq_shift has no effect":
        lambda t, dim, period=1e4, **flags: timestep_embedding(
            t, dim, period, flip_sin_to_cos=False),
    "cosines and sines alternate; one half of each is meant": interleaved,
})
# fmt: on
