"""Layers of transformers for images: patches, rotary positions, norms."""

from __future__ import annotations

import cmath
import math

import numpy as np

from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, to_host

chapter = Chapter("layers")


@chapter.identity("patchify", "loops", 0)
def pixel_by_pixel_from_patch_to_token(f: Functions, rng: RandomInputs) -> Comparison:
    """Compare with a random size of patches and with the default of 2."""
    size = rng.integer(1, 3)
    got, expected = [], []
    for p, shape in ((size, (2 * size, size)), (2, (4, 6))):
        x = rng.normal(2, 3, *shape)
        host = to_host(x)
        rows, columns = shape[0] // p, shape[1] // p
        tokens = np.zeros((2, rows * columns, 3 * p * p))
        for i, j, c, k, l in np.ndindex(rows, columns, 3, p, p):
            tokens[:, i * columns + j, (c * p + k) * p + l] = host[:, c, i * p + k, j * p + l]
        got.append(f.patchify(x, p) if p != 2 else f.patchify(x))
        expected.append(tokens)
    return got, expected


@chapter.identity("unpatchify", "round trips", 0, uses=("patchify",))
def patches_return_to_their_places(f: Functions, rng: RandomInputs) -> Comparison:
    size = rng.integer(1, 3)
    x, square = rng.normal(2, 3, 2 * size, size), rng.normal(2, 3, 4, 6)
    got = [
        f.unpatchify(f.patchify(x, size), 2 * size, size, size),
        f.unpatchify(f.patchify(square), 4, 6),
    ]
    return got, [to_host(x), to_host(square)]


# Roundings: 4 of squares and their mean, a root, a division and a product on each side.
@chapter.identity("rms_norm", "loops", 12)
def each_row_over_its_root_mean_square(f: Functions, rng: RandomInputs) -> Comparison:
    x, weight = rng.normal(3, 2, 5), rng.normal(5)
    eps = rng.number(1e-6, 1e-1)
    expected = np.zeros((3, 2, 5))
    for i, j in np.ndindex(3, 2):
        row = to_host(x)[i, j].tolist()
        length = math.sqrt(math.fsum(v * v for v in row) / 5 + eps)
        expected[i, j] = [v / length for v in row] * to_host(weight)
    return f.rms_norm(x, weight, eps), expected, 10.0


# Roundings: 6 of the norm and 3 of scale and shift, of values up to 4 (1 + 4), on each side.
@chapter.identity("adaptive_layer_norm", "loops", 18)
def token_by_token_with_the_numbers_of_its_example(f: Functions, rng: RandomInputs) -> Comparison:
    x, shift, scale = rng.normal(3, 4, 5), rng.normal(3, 5), rng.normal(3, 5)
    eps = rng.number(0.01, 0.1)
    got = [f.adaptive_layer_norm(x, shift, scale, eps)]
    expected = np.zeros((3, 4, 5))
    for i, j in np.ndindex(3, 4):
        token = to_host(x)[i, j]
        normal = (token - token.mean()) / math.sqrt(token.var() + eps)
        expected[i, j] = normal + normal * to_host(scale)[i] + to_host(shift)[i]
    return got, [expected], 20.0


# Roundings: 6 of an angle up to 8, and 4 of cosine, sine and two products, on each side.
@chapter.identity("rotary_embedding", "complex multiplication", 24)
def channel_pairs_times_a_complex_unit(f: Functions, rng: RandomInputs) -> Comparison:
    """Two axes; two heads have the same positions."""
    widths = (2 * rng.integer(1, 2), 2 * rng.integer(1, 3))
    x, positions = rng.normal(2, 3, sum(widths)), rng.uniform(0.0, 8.0, 3, 2)
    base = rng.number(50.0, 10000.0)
    turns = [
        [
            cmath.exp(1j * place[axis] / base ** (2 * i / width))
            for axis, width in enumerate(widths)
            for i in range(width // 2)
        ]
        for place in to_host(positions).tolist()
    ]
    host = to_host(x)
    turned = (host[..., 0::2] + 1j * host[..., 1::2]) * np.asarray(turns)
    expected = np.stack([turned.real, turned.imag], axis=-1).reshape(host.shape)
    return f.rotary_embedding(x, positions, widths, base), expected, 8.0


# Roundings: 24 of each turned vector, of products of 4 x 4 numbers up to 4.
@chapter.identity("rotary_embedding", "positions moved together", 48)
def products_know_only_the_distance(f: Functions, rng: RandomInputs) -> Comparison:
    """Compare the products of queries and keys before and after one shift of all positions."""
    q, k = rng.normals(2, 3, 4)
    positions = rng.uniform(0.0, 4.0, 3, 2)
    moved = rng.array(to_host(positions) + np.asarray([rng.number(0.0, 4.0), rng.number(0.0, 4.0)]))
    scores = [
        to_host(f.rotary_embedding(q, at, (2, 2))) @ to_host(f.rotary_embedding(k, at, (2, 2))).T
        for at in (positions, moved)
    ]
    return scores[1], scores[0], 64.0
