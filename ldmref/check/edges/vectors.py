"""Edges of interpolation: nearly parallel and opposite vectors, ends of lines."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np

from ldmref.check.chapters.evaluation import low_rank
from ldmref.check.comparison import Comparison, to_host
from ldmref.check.edges.exact import DIGITS, exacts
from ldmref.check.identity import Chapter, Functions
from ldmref.check.random_inputs import FormatLimits, RandomInputs

chapter = Chapter("autoencoders")


def angles(limits: FormatLimits) -> dict[str, float]:
    """Return angles near 0 and near pi."""
    double = limits.eps < 1e-10
    opposite = (1e-2, 1e-4) if double else (1e-1, 2e-2)
    small = (0.03, 1e-3, 1e-6) if double else (0.03, 1e-2)
    return {
        "parallel vectors": 0.0,
        **{f"angle = {angle:g}": angle for angle in small},
        **{f"angle = pi - {rest:g}": math.pi - rest for rest in opposite},
    }


# Roundings: 8, in units of 1 / sin(omega) for obtuse angles: 5 of the vectors, 3 of the weights.
@chapter.hard("slerp", "rotation by a fraction of the angle", 16, angles)
def rotation_by_a_small_or_obtuse_angle(f: Functions, rng: RandomInputs, edge: float) -> Comparison:
    u, v = rng.orthonormal(4, 2).T
    t = rng.number(0.2, 0.8)

    def rotated(angle: float) -> np.ndarray:
        return (2.0 * (np.cos(angle) * u + np.sin(angle) * v)).reshape(1, 2, 2)

    obtuse = math.sin(edge) if edge > 1.5 else 1.0
    got = f.slerp(rng.array(rotated(0.0)), rng.array(rotated(edge)), t)
    return got, rotated(t * edge), 8.0 / obtuse


def offsets(limits: FormatLimits) -> dict[str, float]:
    """Return distances of a codebook from the origin, in units of those between its entries."""
    values = (1e3, 1e6, 1e9) if limits.eps < 1e-10 else (1e2, 1e3, 1e4)
    return {f"codebook at {value:g}": value for value in values}


# Roundings: 8 of a square of differences, which are exact; up to 4 times the smallest may be equal.
@chapter.hard("nearest_code", "distances with 60 digits", 16, offsets)
def entries_far_from_the_origin(f: Functions, rng: RandomInputs, edge: float) -> Comparison:
    """|z|^2 - 2 z.e + |e|^2 loses the distance where both vectors are long."""
    codebook = rng.array(edge + rng.numpy.standard_normal((5, 3)))
    z = rng.array(edge + rng.numpy.standard_normal((1, 3)))
    point = exacts(z)
    entries = [exacts(codebook[i, :]) for i in range(5)]
    with localcontext(prec=DIGITS):
        squares = [float(sum((a - b) ** 2 for a, b in zip(point, e, strict=True))) for e in entries]
    indices, quantised = f.nearest_code(z, codebook)
    with localcontext(prec=DIGITS):
        square = sum((a - b) ** 2 for a, b in zip(point, exacts(quantised), strict=True))
    got = {"indices": squares[int(to_host(indices).item())], "quantised": float(square)}
    return got, [min(squares)] * 2, 1.0


def deficient_ranks(limits: FormatLimits) -> dict[str, tuple[int, int]]:
    """Return ranks of two covariances in four dimensions."""
    return {f"ranks {a} and {b} of 4": (a, b) for a, b in ((1, 3), (2, 2), (2, 4), (3, 3))}


# Roundings: 8 of the singular values, of the traces, on each side.
@chapter.hard("frechet_distance", "singular values of factors", 16, deficient_ranks)
def digits_of_a_deficient_rank(
    f: Functions, rng: RandomInputs, edge: tuple[int, int]
) -> Comparison:
    """Count an eigenvalue that is only rounding, such as 1e-16, as zero: its root is 1e-8."""
    arguments, distance, size = low_rank(rng, edge)
    return f.frechet_distance(*arguments), distance, size


def line_ends(limits: FormatLimits) -> dict[str, tuple[float, float]]:
    """Return pairs (t, size of a) for which b is returned, or nearly."""
    large = 1e12 if limits.eps < 1e-10 else 1e6
    return {"t = 1, |a| = 1": (1.0, 1.0), f"t = 1, |a| = {large:g} |b|": (1.0, large)}


# Roundings: 1 of each product and 1 of the sum; at t = 1 the first product is 0.
@chapter.hard("lerp", "the sum with 60 digits", 4, line_ends)
def the_end_is_reached(f: Functions, rng: RandomInputs, edge: tuple[float, float]) -> Comparison:
    t, size = edge
    a, b = rng.array(size * rng.numpy.standard_normal((1, 3))), rng.normal(1, 3)
    with localcontext(prec=DIGITS):
        pairs = zip(exacts(a), exacts(b), strict=True)
        expected = [[float((1 - Decimal(t)) * x + Decimal(t) * y) for x, y in pairs]]
    return f.lerp(a, b, t), expected, np.abs(to_host(b))
