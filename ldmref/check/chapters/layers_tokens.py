"""Layers of transformers for images: patches, rotary positions, norms."""

from __future__ import annotations

import cmath
import math

import numpy as np

from ldmref.check.identity import (
    Chapter,
    Comparison,
    Functions,
    KnownMistake,
    RandomInputs,
    to_host,
)
from ldmref.math.arrays import Array

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


# -- mistakes --------------------------------------------------------------------------------------

Cut = tuple[int, ...]


def cut(x: Array, size: int, order: Cut) -> Array:
    """Cut images into patches; `order` is that of (n, c, row, inside, column, inside)."""
    n, c, h, w = x.shape
    axes = np.reshape(x, (n, c, h // size, size, w // size, size))
    return np.reshape(np.transpose(axes, order), (n, h * w // size**2, c * size**2))


# fmt: off
chapter.mistakes.append(KnownMistake(
    "patchify", "size has no effect, as if it were 2",
    lambda x, size=2: cut(x, 2, (0, 2, 4, 1, 3, 5)), (np.arange(32.0).reshape(1, 2, 4, 4), 1)))
CUT_MISTAKES = {
    "the channel is last in a token (row, column, channel); channel, row, column is meant":
        lambda x, size=2: cut(x, size, (0, 2, 4, 3, 5, 1)),
    "the patches come column by column; row by row is meant":
        lambda x, size=2: cut(x, size, (0, 4, 2, 1, 3, 5)),
    "the column comes before the row within a patch":
        lambda x, size=2: cut(x, size, (0, 2, 4, 1, 5, 3)),
    "the array is only reshaped, which cuts strips: two axes must be exchanged before":
        lambda x, size=2: cut(x, size, (0, 1, 2, 3, 4, 5)),
}
# fmt: on
chapter.known_mistakes("patchify", CUT_MISTAKES)


def steered(
    x: Array,
    shift: Array,
    factor: Array,
    eps: float = 1e-6,
    *,
    axes: int | Cut = -1,
    ddof: int = 0,
    in_root: bool = True,
) -> Array:
    """Norm tokens, then multiply by a factor and add a shift per example."""
    variance = np.var(x, axis=axes, keepdims=True, ddof=ddof)
    deviation = np.sqrt(variance + eps) if in_root else np.sqrt(variance) + eps
    normal = (x - np.mean(x, axis=axes, keepdims=True)) / deviation
    return normal * factor[:, None] + shift[:, None]


# fmt: off
NORM_MISTAKES = {
    "eps is added to the deviation and belongs under the root, and the 1 of 1 + scale is missing":
        lambda x, b, a, eps=1e-6: steered(x, b, a, eps, in_root=False),
    "eps is added to the deviation; it belongs to the variance, under the root":
        lambda x, b, a, eps=1e-6: steered(x, b, 1 + a, eps, in_root=False),
    "the 1 of 1 + scale is missing":
        lambda x, b, a, eps=1e-6: steered(x, b, a, eps),
    "shift and scale are exchanged":
        lambda x, b, a, eps=1e-6: steered(x, a, 1 + b, eps),
    "the variance is over n - 1 channels, as of a sample (ddof = 1); a norm divides by n":
        lambda x, b, a, eps=1e-6: steered(x, b, 1 + a, eps, ddof=1),
    "mean and variance are over the tokens as well; each token has its own":
        lambda x, b, a, eps=1e-6: steered(x, b, 1 + a, eps, axes=(1, 2)),
}
# fmt: on
chapter.known_mistakes("adaptive_layer_norm", NORM_MISTAKES)


def turned(x: Array, angles: Array) -> Array:
    """Turn pairs of neighbouring channels by angles, (l, d / 2)."""
    pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
    return np.stack([pairs.real, pairs.imag], axis=-1).reshape(x.shape)


def angles_of(
    positions: Array, widths: Cut, base: float, divisor: int | None = None, *, restarts: bool = True
) -> Array:
    """Return the angle of each pair, whose number may restart with each axis or not."""
    axis = np.repeat(np.arange(len(widths)), [width // 2 for width in widths])
    first = np.cumsum([0, *widths[:-1]]) // 2 if restarts else np.zeros(len(widths), int)
    number = np.arange(len(axis)) - first[axis]
    return positions[:, axis] * base ** (-2.0 * number / (divisor or np.asarray(widths)[axis]))


def turned_halves(x: Array, p: Array, widths: Cut, base: float = 10000.0) -> Array:
    """Pair each channel with the one half a head further."""
    half = x.shape[-1] // 2
    pairs = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles_of(p, widths, base))
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


# fmt: off
ROTATION_MISTAKES = {
    "pairs are channels half a head apart; neighbouring channels are meant": turned_halves,
    "the rotation goes the other way: the angle has the opposite sign":
        lambda x, p, w, base=10000.0: turned(x, -angles_of(p, w, base)),
    "the exponents are divided by the width of the head; each axis has its own width":
        lambda x, p, w, base=10000.0: turned(x, angles_of(p, w, base, x.shape[-1])),
    "pairs are counted on over the axes and divided by the head's width; each axis counts from 0, "
    "and has its own width":
        lambda x, p, w, base=10000.0:
            turned(x, angles_of(p, w, base, x.shape[-1], restarts=False)),
    "pairs are counted on over the axes; the count begins at 0 again for each axis":
        lambda x, p, w, base=10000.0: turned(x, angles_of(p, w, base, restarts=False)),
    "all pairs turn by the position on the first axis":
        lambda x, p, w, base=10000.0: turned(x, angles_of(p[:, :1], (x.shape[-1],), base)),
}
# fmt: on
chapter.known_mistakes("rotary_embedding", ROTATION_MISTAKES)
