"""Edges of divergences and bounds: nearly equal distributions, certain events, tiny weights."""

from __future__ import annotations

from decimal import Decimal, localcontext

from ldmref.check.comparison import Comparison
from ldmref.check.edges.exact import DIGITS, exact, exacts
from ldmref.check.identity import Chapter, Functions
from ldmref.check.random_inputs import FormatLimits, RandomInputs

chapter = Chapter("autoencoders")


def nearly_equal(limits: FormatLimits) -> dict[str, tuple[float, float]]:
    """Return differences of log-variance and mean between two Gaussians."""
    small = (1e-4, 1e-6, 1e-9) if limits.eps < 1e-10 else (1e-2, 1e-3, 1e-4)
    return {
        "equal Gaussians": (0.0, 0.0),
        **{f"logvar1 - logvar2 = {d:g}": (d, 0.0) for d in small},
        f"logvar1 - logvar2 = {-small[1]:g}": (-small[1], 0.0),
        f"mean1 - mean2 = {small[0]:g}": (0.0, small[0]),
    }


# Roundings: 1 of d, 3 of expm1(d) - d, in units of |d|; 10 of the square over the variance.
@chapter.hard("kl_normal", "the definition with 60 digits", 14, nearly_equal)
def digits_of_a_small_divergence(
    f: Functions, rng: RandomInputs, edge: tuple[float, float]
) -> Comparison:
    logvar, mean = rng.number(-1.0, 1.0), rng.number(-2.0, 2.0)
    arguments = [rng.array([v]) for v in (mean + edge[1], logvar + edge[0], mean, logvar)]
    m1, l1, m2, l2 = (exact(value) for value in arguments)
    with localcontext(prec=DIGITS):
        d = l1 - l2
        square = (m1 - m2) ** 2 * (-l2).exp()
        expected = (d.exp() - 1 - d + square) / 2
    return f.kl_normal(*arguments), [float(expected)], float(abs(d) + square)


# Roundings: 4 of expm1 - logvar, in units of |logvar|; 4 of the square.
@chapter.hard("kl_standard_normal", "the definition with 60 digits", 8, nearly_equal)
def digits_near_the_prior(f: Functions, rng: RandomInputs, edge: tuple[float, float]) -> Comparison:
    mean, logvar = rng.array([edge[1]]), rng.array([edge[0]])
    m, l = exact(mean), exact(logvar)
    with localcontext(prec=DIGITS):
        expected = (l.exp() - 1 - l + m * m) / 2
    return f.kl_standard_normal(mean, logvar), [float(expected)], float(abs(l) + m * m)


def small_divergences(limits: FormatLimits) -> dict[str, float]:
    """Return log-variances of encoders that nearly return the prior."""
    small = (1e-4, 1e-6, 1e-9) if limits.eps < 1e-10 else (1e-2, 1e-3, 1e-4)
    return {f"logvar = {value:g}": value for value in (*small, -small[1])}


# Roundings: 4 of expm1 - logvar, in units of |logvar|, and 3 of the sum.
@chapter.hard("elbo", "the definition with 60 digits", 8, small_divergences)
def digits_of_the_divergence_in_the_bound(
    f: Functions, rng: RandomInputs, edge: float
) -> Comparison:
    """Without log-likelihood, the bound of a posterior near the prior is minus the divergence."""
    logvar = rng.array(edge * rng.numpy.uniform(0.5, 1.0, (1, 3)))
    values = exacts(logvar)
    with localcontext(prec=DIGITS):
        divergence = sum(((l.exp() - 1 - l) / 2 for l in values), Decimal(0))
        size = float(sum(abs(l) for l in values))
    got = f.elbo(rng.array([0.0]), rng.array([[0.0] * 3]), logvar)
    return got, [-float(divergence)], size


def certain(limits: FormatLimits) -> dict[str, tuple[float, float]]:
    """Return pairs of probabilities of which the first is 0 or 1."""
    small = 1e-9 if limits.eps < 1e-10 else 1e-5
    return {
        "p = 0": (0.0, 0.3),
        "p = 1": (1.0, 0.3),
        f"p = 0, q = {small:g}": (0.0, small),
        f"p = 1, q = 1 - {small:g}": (1.0, 1.0 - small),
    }


# Roundings: 4 of each logarithm, in units of 1 + |result|.
@chapter.hard("kl_bernoulli", "the remaining logarithm with 60 digits", 10, certain)
def certain_events_have_one_term(
    f: Functions, rng: RandomInputs, edge: tuple[float, float]
) -> Comparison:
    p, q = (rng.array([value]) for value in edge)
    with localcontext(prec=DIGITS):
        expected = -(exact(q) if edge[0] else 1 - exact(q)).ln()
    return f.kl_bernoulli(p, q), [float(expected)]


def log_weights(limits: FormatLimits) -> dict[str, float]:
    """Return logarithms of weights whose exponentials underflow or overflow."""
    return {f"log w near {value:g}": value for value in (-1000.0, 1000.0, -1e5)}


# Roundings: 4 and k = 5 in the sum, in units of the largest |log w|.
@chapter.hard("iwae_bound", "exponentials with 60 digits", 12, log_weights)
def no_weight_underflows(f: Functions, rng: RandomInputs, edge: float) -> Comparison:
    weights = rng.array(edge + rng.numpy.standard_normal((5, 1)))
    with localcontext(prec=DIGITS):
        mean = sum((w.exp() for w in exacts(weights)), Decimal(0)) / 5
        expected = mean.ln()
    return f.iwae_bound(weights), [float(expected)], abs(edge)
