"""Identities at the edges of the functions' ranges, for `ldmref check --hard`.

On random inputs a naive formula is as exact as a careful one. Here each case visits an edge at
which the naive one loses its digits, overflows or divides by zero. The oracles compute with 60
digits (`exact.py`), from the numbers that the function under test gets.

schedules.py   alpha-bar near 0, near 1/2 and near 1, the ends of schedules, neighbouring alpha-bars
gaussians.py   divergences of nearly equal distributions
layers.py      tails of activations, large scores of attention, normalisation of large means
vectors.py     nearly parallel and nearly opposite vectors, ends of lines, equal statistics
"""

from ldmref.check.edges import gaussians, layers, schedules, vectors

EDGE_CHAPTERS = (schedules.chapter, gaussians.chapter, layers.chapter, vectors.chapter)
