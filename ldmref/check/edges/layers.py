"""Edges of layers: tails of activations, large scores of attention, large means."""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np

from ldmref.check.comparison import Comparison
from ldmref.check.edges.exact import DIGITS, exact, exacts, logistic, normal_tail, pi
from ldmref.check.identity import Chapter, Edges, Functions
from ldmref.check.random_inputs import FormatLimits, RandomInputs

chapter = Chapter("layers")


def tail(*both: float, double: tuple[float, ...] = (), single: tuple[float, ...] = ()) -> Edges:
    """Return edges named by x: in both formats, and in float64 or float32 alone."""

    def edges(limits: FormatLimits) -> dict[str, float]:
        more = double if limits.tiny < 1e-300 else single
        return {f"x = {x:g}": x for x in (*both, *more)}

    return edges


# Roundings: 8, and |x| of an argument that is rounded once.
@chapter.hard("sigmoid", "an exponential with 60 digits", 8, tail(-20, -60, 60, double=(-700, 800)))
def digits_of_a_small_probability(f: Functions, rng: RandomInputs, edge: float) -> Comparison:
    x = rng.array([edge])
    expected = float(logistic(exact(x)))
    return f.sigmoid(x), [expected], expected * (1 + max(-edge, 0.0) / 4)


# Roundings: 10, and |x| of an argument that is rounded once. Below -709 (-88 in float32) exp(-x)
# overflows, and the logistic function is not a normal number: its last digits are lost.
@chapter.hard(
    "silu",
    "an exponential with 60 digits",
    10,
    tail(-20, -60, 60, double=(-700, -709.9, 800), single=(-88.9, 100)),
)
def digits_of_a_small_product(f: Functions, rng: RandomInputs, edge: float) -> Comparison:
    x = rng.array([edge])
    with localcontext(prec=DIGITS):
        expected = float(exact(x) * logistic(exact(x)))
    lost = abs(edge) * rng.limits.tiny
    return f.silu(x), [expected], abs(expected) * (1 + max(-edge, 0.0) / 4) + lost


# Roundings: 24 of erfc and product, and 4 x^2 of a square that is rounded: 16 of 1.5 + x^2 / 4.
@chapter.hard("gelu", "a continued fraction", 16, tail(-5, -8, -12, 12, double=(-20, -30)))
def digits_of_the_tail(f: Functions, rng: RandomInputs, edge: float) -> Comparison:
    x = rng.array([edge])
    v = exact(x)
    with localcontext(prec=DIGITS):
        expected = float(v * (normal_tail(v) if v < 0 else 1 - normal_tail(-v)))
    return f.gelu(x), [expected], abs(expected) * (1.5 + edge * edge / 4)


# Roundings: 8, and 8 |u| / 2 of u, which is rounded, in units of 1 + |u|.
@chapter.hard("gelu_tanh", "an exponential with 60 digits", 14, tail(-5, -8, 12, double=(-18,)))
def digits_of_the_published_tail(f: Functions, rng: RandomInputs, edge: float) -> Comparison:
    x = rng.array([edge])
    v = exact(x)
    with localcontext(prec=DIGITS):
        u = (2 / pi()).sqrt() * (v + Decimal("0.044715") * v**3)
        expected = float(v * logistic(2 * u))
    return f.gelu_tanh(x), [expected], abs(expected) * (1 + max(-float(u), 0.0))


# Roundings: 12, and 2 |1.702 x| of an argument that is rounded twice, in units of 1 + |x| / 2.
@chapter.hard(
    "quick_gelu", "an exponential with 60 digits", 12, tail(-12, -40, 40, double=(-400, 500))
)
def digits_of_the_steeper_tail(f: Functions, rng: RandomInputs, edge: float) -> Comparison:
    x = rng.array([edge])
    v = exact(x)
    with localcontext(prec=DIGITS):
        expected = float(v * logistic(Decimal("1.702") * v))
    return f.quick_gelu(x), [expected], abs(expected) * (1 + max(-edge, 0.0) / 2)


# Roundings: 4 and 5 terms, and |x - max| of differences up to 3, in units of 1 + |x - max|.
@chapter.hard("softmax", "exponentials with 60 digits", 12, tail(1000, -1000, 1e6, -1e6))
def shifted_scores(f: Functions, rng: RandomInputs, edge: float) -> Comparison:
    """Scores of any size have the weights of their differences."""
    x = rng.array([edge + rng.numpy.integers(0, 4, 5)])
    values = exacts(x)
    with localcontext(prec=DIGITS):
        terms = [(value - max(values)).exp() for value in values]
        expected = [[float(term / sum(terms)) for term in terms]]
    return f.softmax(x), expected, 4.0 * np.array(expected)


def sizes(limits: FormatLimits) -> dict[str, float]:
    """Return factors of queries and keys."""
    return {f"|q| |k| near {size**2:g}": size for size in (30.0, 100.0, 300.0)}


# Roundings: 4 of each score, twice in a ratio of weights, and 8 of weights and sums.
@chapter.hard("scaled_dot_product_attention", "exponentials with 60 digits", 16, sizes)
def large_scores(f: Functions, rng: RandomInputs, edge: float) -> Comparison:
    """Scores whose exponentials overflow, for one query, three keys, and two entries."""
    q = rng.array(edge * rng.orthonormal(2, 1).T)
    k = rng.array(edge * rng.numpy.standard_normal((3, 2)))
    v = rng.uniform(-1.0, 1.0, 3, 2)
    queries, keys, values = exacts(q), exacts(k), exacts(v)
    with localcontext(prec=DIGITS):
        dots = [queries[0] * keys[i] + queries[1] * keys[i + 1] for i in (0, 2, 4)]
        scores = [dot / Decimal(2).sqrt() for dot in dots]
        weights = [(score - max(scores)).exp() for score in scores]
        columns = values[0::2], values[1::2]
        sums = [sum(w * x for w, x in zip(weights, c, strict=True)) for c in columns]
        expected = [[float(total / sum(weights)) for total in sums]]
    scale = 1.0 + edge * float(np.abs([float(key) for key in keys]).max())
    return f.scaled_dot_product_attention(q, k, v), expected, scale


def means(limits: FormatLimits) -> dict[str, float]:
    """Return means that are large next to a deviation of 1."""
    values = (1e3, 1e5, 1e7) if limits.eps < 1e-10 else (1e2, 1e3)
    return {f"mean / deviation = {mean:g}": mean for mean in values}


# Roundings: 8 and the root of 8 elements, on each side, in units of 1 + |mean| / deviation.
@chapter.hard("group_norm", "sums with 60 digits", 16, means)
def a_large_mean_is_subtracted_first(f: Functions, rng: RandomInputs, edge: float) -> Comparison:
    offsets = rng.numpy.standard_normal(8)  # no short binary fractions: their squares are exact
    offsets = (offsets - offsets.mean()) / offsets.std()
    x = rng.array((edge + offsets).reshape(1, 4, 2, 1))
    values = exacts(x)
    with localcontext(prec=DIGITS):
        mean = sum(values, Decimal(0)) / 8
        variance = sum(((value - mean) ** 2 for value in values), Decimal(0)) / 8
        deviation = (variance + Decimal("1e-6")).sqrt()
        expected = [float((value - mean) / deviation) for value in values]
    got = f.group_norm(x, rng.array(np.ones(4)), rng.array(np.zeros(4)), 1, 1e-6)
    return got, np.reshape(expected, (1, 4, 2, 1)), 1.0 + edge
