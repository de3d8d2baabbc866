"""Two known faults in one part: neither alone explains the port's numbers, and both together do.

Every pair of hypotheses cannot be computed, so they are ranked by their effects: if d is the
difference of the port's array from the right one, and d_i that of hypothesis i alone, the pairs
with the smallest |d - d_i - d_j| come first. That holds exactly where the two effects add up; where
one fault changes what the other does, it is the first order. A fault that is much larger than the
other one hides it behind its own higher orders, so the hypothesis that leaves least is also paired
with the others. `MOST_PAIRS` pairs are computed of each kind, so a pair whose effects are far from
their sum may not be found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ldmref.locate.faults.hypothesis import Hypothesis
from ldmref.locate.recorded.layouts import largest_value

MOST_PAIRS = 32  # of each kind that are computed
SAMPLED = 2048  # numbers of an array by which pairs are ranked
LEAST_EFFECT = 1e-3  # of a hypothesis, relative to the error; a smaller one is no half of a pair


@dataclass(frozen=True)
class Tried:
    """A hypothesis that does not explain an array alone: the error that it leaves, its effect."""

    hypothesis: Hypothesis
    left: float
    effect: np.ndarray


def sample(x: np.ndarray) -> np.ndarray:
    """Return some numbers of an array, evenly spaced in memory."""
    flat = np.ravel(np.asarray(x, np.float64))
    return flat[:: max(flat.size // SAMPLED, 1)]


def likely_pairs(difference: np.ndarray, tried: list[Tried]) -> Iterator[tuple[Tried, Tried]]:
    """Yield the pairs whose effects add up best to a difference, the best first.

    Args:
        difference: `sample` of the port's array minus that of the right one.
        tried: Hypotheses with effects of the same size.
    """
    least = LEAST_EFFECT * largest_value(difference)
    known = [t for t in tried if t.effect.shape == difference.shape and np.isfinite(t.effect).all()]
    known = [t for t in known if largest_value(t.effect) > least]
    if len(known) < 2:
        return
    effects = np.stack([t.effect for t in known])
    nearest = int(np.argmin([t.left for t in known]))
    rest = np.linalg.norm(difference - effects[nearest] - effects, axis=1)
    rest[nearest] = np.inf
    for i in np.argsort(rest, kind="stable")[: min(MOST_PAIRS, len(known) - 1)]:
        yield known[nearest], known[i]
    products = effects @ effects.T
    towards = effects @ difference
    squares = np.diag(products)
    # |d - d_i - d_j|^2 - |d|^2
    missed = squares[:, None] + squares + 2.0 * products - 2.0 * (towards[:, None] + towards)
    first, second = np.triu_indices(len(known), 1)
    for k in np.argsort(missed[first, second], kind="stable")[:MOST_PAIRS]:
        if nearest not in (first[k], second[k]):
            yield known[first[k]], known[second[k]]
