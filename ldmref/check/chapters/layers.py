"""What the networks are made of: attention, activations, normalisation, resampling, embedding."""

from __future__ import annotations

import math

import numpy as np

from ldmref.check.identity import Draw, Functions, Identity, to_host


def exponentials_over_their_sum(f: Functions, draw: Draw):
    x, axis = draw.uniform(-8, 8, 3, 4), draw.integer(-1, 1)
    powers = np.exp(to_host(x))
    return f.softmax(x, axis), powers / powers.sum(axis=axis, keepdims=True)


def _weights(q, k, mask):
    """The attention of one head, query by query; no keys, no weights."""
    rows = np.zeros(mask.shape)
    for i in range(len(q)):
        powers = [math.exp(q[i] @ k[j] / math.sqrt(len(q[i]))) * mask[i, j] for j in range(len(k))]
        rows[i] = np.asarray(powers) / (sum(powers) or 1.0)
    return rows


def loop_over_the_queries(f: Functions, draw: Draw):
    """The map and the mixture, with a random mask, causal in every other case."""
    q, k, v = draw.normal(2, 4, 3), draw.normal(2, 5, 3), draw.normal(2, 5, 3)
    mask, causal = draw.stream.random((4, 5)) < 0.7, bool(draw.integer(0, 1))
    allowed = draw.xp.asarray(mask.tolist(), device=draw.device)
    mask = np.tril(mask) if causal else mask
    weights = np.stack([_weights(a, b, mask) for a, b in zip(to_host(q), to_host(k), strict=True)])
    got = [
        f.attention_map(q, k, causal, allowed),
        f.scaled_dot_product_attention(q, k, v, causal, allowed),
    ]
    want = np.concatenate([weights, weights @ to_host(v)], axis=-1)
    return np.concatenate([to_host(part) for part in got], axis=-1), want, 4.0


def mean_of_the_heads_pixel_by_pixel(f: Functions, draw: Draw):
    maps, token = draw.uniform(0, 1, 3, 6, 4), draw.integer(0, 3)
    heads = to_host(maps)
    want = [[sum(heads[:, 3 * y + x, token]) / 3 for x in range(3)] for y in range(2)]
    return f.word_map(maps, token, 2, 3), want


def hyperbolic_tangent_of_half_the_argument(f: Functions, draw: Draw):
    x = draw.uniform(-8, 8, 8)
    return f.sigmoid(x), 0.5 + 0.5 * np.tanh(0.5 * to_host(x))


def argument_over_one_plus_an_exponential(f: Functions, draw: Draw):
    x = draw.uniform(-8, 8, 8)
    return f.silu(x), to_host(x) / (1.0 + np.exp(-to_host(x)))


def _bell(x):
    return np.reshape([0.5 * v * (1.0 + math.erf(v / math.sqrt(2.0))) for v in x.flat], x.shape)


def error_function_of_the_c_library(f: Functions, draw: Draw):
    x = draw.uniform(-6, 6, 8)
    return f.gelu(x), _bell(to_host(x))


def hyperbolic_tangent_as_published(f: Functions, draw: Draw):
    x = draw.uniform(-6, 6, 8)
    v = to_host(x)
    inner = math.sqrt(2.0 / math.pi) * (v + 0.044715 * v**3)
    return f.gelu_tanh(x), 0.5 * v * (1.0 + np.tanh(inner))


def argument_over_one_plus_a_steeper_exponential(f: Functions, draw: Draw):
    x = draw.uniform(-6, 6, 8)
    return f.quick_gelu(x), to_host(x) / (1.0 + np.exp(-1.702 * to_host(x)))


def first_half_times_the_gate_of_the_second(f: Functions, draw: Draw):
    x = draw.uniform(-4, 4, 3, 8)
    v = to_host(x)
    return f.geglu(x), v[:, :4] * _bell(v[:, 4:]), 16.0


def _standardised(values, eps: float):
    return (values - values.mean()) / math.sqrt(values.var() + eps)


def loop_over_examples_and_groups(f: Functions, draw: Draw):
    x, weight, bias = draw.normal(2, 4, 2, 3), draw.normal(4), draw.normal(4)
    groups, eps = 2 ** draw.integer(0, 2), draw.number(1e-6, 1e-1)
    parts = np.split(to_host(x), groups, axis=1)
    y = [np.stack([_standardised(example, eps) for example in part]) for part in parts]
    gamma, beta = (to_host(z)[:, None, None] for z in (weight, bias))
    want = np.concatenate(y, axis=1) * gamma + beta
    return f.group_norm(x, weight, bias, groups, eps), want, 10.0


def loop_over_tokens(f: Functions, draw: Draw):
    x, weight, bias, eps = draw.normal(3, 5), draw.normal(5), draw.normal(5), draw.number(0.01, 0.1)
    want = np.stack([_standardised(token, eps) for token in to_host(x)])
    want = want * to_host(weight) + to_host(bias)
    return f.layer_norm(x, weight, bias, eps), want, 10.0


def product_with_a_block_of_ones(f: Functions, draw: Draw):
    """The Kronecker product; with the default, a block of 2 x 2."""
    x, factor = draw.normal(2, 2, 2, 3), draw.integer(1, 3)
    large = to_host(f.upsample_nearest(x, factor)), to_host(f.upsample_nearest(x))
    want = [np.kron(to_host(x), np.ones((1, 1, k, k))).ravel() for k in (factor, 2)]
    return np.concatenate([part.ravel() for part in large]), np.concatenate(want)


def picture_in_the_corner_of_zeros(f: Functions, draw: Draw):
    x = draw.normal(2, 2, 2, 3)
    want = np.zeros((2, 2, 3, 4))
    want[:, :, :2, :3] = to_host(x)
    return f.pad_bottom_right(x), want


def loop_over_frequencies(f: Functions, draw: Draw):
    """In both orders, of latent diffusion and of DDPM."""
    t, half = draw.array([draw.number(0.0, 999.0)]), draw.integer(2, 16)
    got, want = [f.timestep_embedding(t, 2 * half)], []
    got.append(f.timestep_embedding(t, 2 * half, flip_sin_to_cos=False, freq_shift=1))
    for shift, order in ((0, (math.cos, math.sin)), (1, (math.sin, math.cos))):
        angles = [float(to_host(t)[0]) * 10000.0 ** (-i / (half - shift)) for i in range(half)]
        want += [wave(angle) for wave in order for angle in angles]
    return draw.xp.concat(got, axis=1)[0, :], want, 1000.0


IDENTITIES = [
    Identity("softmax", "the definition, without shift", exponentials_over_their_sum, 6),
    Identity("scaled_dot_product_attention", "loops", loop_over_the_queries, 4,
             ("attention_map",)),
    Identity("word_map", "loops", mean_of_the_heads_pixel_by_pixel, 4),
    Identity("sigmoid", "tanh", hyperbolic_tangent_of_half_the_argument, 4),
    Identity("silu", "exp", argument_over_one_plus_an_exponential, 6),
    Identity("gelu", "math.erf", error_function_of_the_c_library, 4),
    Identity("gelu_tanh", "tanh", hyperbolic_tangent_as_published, 6),
    Identity("quick_gelu", "exp", argument_over_one_plus_a_steeper_exponential, 6),
    Identity("geglu", "math.erf", first_half_times_the_gate_of_the_second, 4),
    Identity("group_norm", "loops", loop_over_examples_and_groups, 4),
    Identity("layer_norm", "loops", loop_over_tokens, 4),
    Identity("upsample_nearest", "Kronecker product", product_with_a_block_of_ones, 0),
    Identity("pad_bottom_right", "an array of zeros", picture_in_the_corner_of_zeros, 0),
    Identity("timestep_embedding", "a loop in plain Python", loop_over_frequencies, 4),
]  # fmt: skip
