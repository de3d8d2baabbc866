"""Likelihoods of pixels, and the error function below them."""

from __future__ import annotations

import math

import numpy as np

from ldmref.check.identity import Draw, Functions, Identity, to_host

PAGE = "objective"


def same_as_in_the_standard_library(f: Functions, draw: Draw):
    x = draw.uniform(-6.0, 8.0, 16)
    return f.erfc(x), [math.erfc(v) for v in to_host(x)], 0.0


def logarithm_of_half_an_erfc(f: Functions, draw: Draw):
    x = draw.uniform(-30.0, 3.0, 16)
    half = [0.5 * math.erfc(-v / math.sqrt(2)) for v in to_host(x)]
    return f.log_ndtr(x), [math.log(p) if p < 0.5 else math.log1p(p - 1.0) for p in half]


def probabilities_of_all_pixel_values_add_up_to_one(f: Functions, draw: Draw):
    bins, mean, logvar = draw.integer(2, 256), draw.number(-1.5, 1.5), draw.number(-6.0, 3.0)
    x = draw.array(2 * np.arange(bins) / (bins - 1) - 1)
    got = f.discretized_gaussian_log_likelihood(x, mean + 0 * x, logvar + 0 * x, bins)
    return np.exp(to_host(got)).sum(), 1.0, 1 + bins * math.exp(-0.5 * logvar) / 100


def difference_of_two_distribution_functions(f: Functions, draw: Draw):
    bins, mean, logvar = draw.integer(2, 8), draw.number(-1.0, 1.0), draw.number(-3.0, 2.0)
    x = draw.array(2 * np.arange(bins) / (bins - 1) - 1)
    edges = (2 * np.arange(1, bins) - 1) / (bins - 1) - 1
    below = [0.5 * math.erfc((mean - e) * math.exp(-0.5 * logvar) / math.sqrt(2)) for e in edges]
    got = f.discretized_gaussian_log_likelihood(x, mean + 0 * x, logvar + 0 * x, bins)
    return np.exp(to_host(got)), np.diff([0.0, *below, 1.0])


def equally_likely_values_cost_their_bits(f: Functions, draw: Draw):
    bits, dimensions = draw.integer(1, 8), draw.integer(1, 1000)
    nats = draw.array([dimensions * math.log(2**bits)])
    return f.bits_per_dimension(nats, dimensions), [float(bits)]


IDENTITIES = [
    Identity("erfc", "math.erfc", same_as_in_the_standard_library, 20),
    Identity("log_ndtr", "math.erfc and math.log", logarithm_of_half_an_erfc, 12),
    Identity("discretized_gaussian_log_likelihood", "certainty",
             probabilities_of_all_pixel_values_add_up_to_one, 10),
    Identity("discretized_gaussian_log_likelihood", "math.erfc",
             difference_of_two_distribution_functions, 8),
    Identity("bits_per_dimension", "counting", equally_likely_values_cost_their_bits, 4),
]  # fmt: skip
