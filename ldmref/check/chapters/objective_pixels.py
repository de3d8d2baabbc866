"""The likelihood of pixels: DDPM's discretised Gaussian and its special functions."""

from __future__ import annotations

import math

import numpy as np

from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, to_host

chapter = Chapter("objective")


# Roundings: 16 of a sum of 12 terms, 10 of the pole, 8 of the exponential; 2 in the oracle.
@chapter.identity("erfc", "math.erfc", 36)
def same_as_in_the_standard_library(f: Functions, rng: RandomInputs) -> Comparison:
    x = rng.uniform(-6.0, 8.0, 4, 2, 2)
    return f.erfc(x), np.vectorize(math.erfc)(to_host(x)), 0.0


def log_ndtr(x: float) -> float:
    """Compute log Phi(x), also accurate where Phi is close to 1."""
    p = 0.5 * math.erfc(-x / math.sqrt(2))
    return math.log(p) if p < 0.5 else math.log1p(p - 1.0)


chapter.elementwise(
    "log_ndtr", "logarithm of half an erfc", "math.erfc and math.log", 28, (-30.0, 3.0), log_ndtr
)


def pixel(f: Functions, rng: RandomInputs, bins: int, mean: float, logvar: float) -> np.ndarray:
    """Return the probability of every value of a pixel of `bins` shades in [-1, 1]."""
    x = rng.array(2 * np.arange(bins) / (bins - 1) - 1)
    log = f.discretized_gaussian_log_likelihood(x, mean + 0 * x, logvar + 0 * x, bins)
    return np.exp(to_host(log))


# Roundings: the edges of up to 256 bins are rounded, 16 as a random walk; 4 of the densities.
@chapter.identity("discretized_gaussian_log_likelihood", "certainty", 20)
def probabilities_of_all_pixel_values_add_up_to_one(f: Functions, rng: RandomInputs) -> Comparison:
    bins = rng.integer(2, 256)
    mean = rng.number(-1.5, 1.5)
    logvar = rng.number(-6.0, 3.0)
    total = pixel(f, rng, bins, mean, logvar).sum()
    return total, 1.0, 1 + bins * math.exp(-0.5 * logvar) / 100


# Roundings: 8 on each side.
@chapter.identity("discretized_gaussian_log_likelihood", "math.erfc", 16)
def difference_of_two_distribution_functions(f: Functions, rng: RandomInputs) -> Comparison:
    bins = rng.integer(2, 8)
    mean = rng.number(-1.0, 1.0)
    logvar = rng.number(-3.0, 2.0)
    edges = (2 * np.arange(1, bins) - 1) / (bins - 1) - 1
    below = [0.5 * math.erfc((mean - e) * math.exp(-0.5 * logvar) / math.sqrt(2)) for e in edges]
    return pixel(f, rng, bins, mean, logvar), np.diff([0.0, *below, 1.0])


# Roundings: 4 of the nats, 4 of the division.
@chapter.identity("bits_per_dimension", "counting", 8)
def uniform_pixel_values_cost_their_bits(f: Functions, rng: RandomInputs) -> Comparison:
    bits = rng.numpy.integers(1, 9, 3)
    dimensions = rng.integer(1, 1000)
    nats = rng.array(dimensions * np.log(2.0**bits))
    return f.bits_per_dimension(nats, dimensions), bits
