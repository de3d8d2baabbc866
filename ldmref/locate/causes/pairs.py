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

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ldmref.backends.named import LayerCall
from ldmref.locate.recorded.layouts import largest_value
from ldmref.locate.replay.points import FollowedRun, OperationChange, Point

MOST_PAIRS = 32  # of each kind that are computed
SAMPLED = 2048  # numbers of an array by which pairs are ranked
LEAST_EFFECT = 1e-3  # of a hypothesis, relative to the error; a smaller one is no half of a pair


@dataclass(frozen=True)
class Hypothesis:
    """A known fault of a part: what is changed to compute it again, or the array that it gives.

    Attributes:
        text: The fault in words.
        changes: Functions by the names of the operations that they replace.
        arguments: Other inputs of the part. None: its own.
        free: Whether recorded layers are also computed again.
        array: The array that the fault gives. None: the part is computed again.
    """

    text: str
    changes: Mapping[str, OperationChange] | None = None
    arguments: Mapping[str, Any] | None = None
    free: bool = False
    array: np.ndarray | None = None

    def compute(self, replay: FollowedRun, point: Point, low: bool = False) -> np.ndarray | None:
        """Return the array with this fault; None if the fault does not fit the shapes.

        Args:
            replay: The replay that computed the point.
            point: The array that is wrong.
            low: Whether to compute in the port's number format.
        """
        if self.array is not None:
            return point.kept(self.array)
        try:
            found = replay.rerun(
                point, self.changes, arguments=self.arguments, low=low, free=self.free
            )
        except (ValueError, IndexError, KeyError, TypeError, ZeroDivisionError):
            return None
        return None if found is None else point.kept(found)

    def joined(self, other: Hypothesis) -> Hypothesis | None:
        """Return both faults at once; None if one of them gives an array, or both an argument."""
        shared = (self.arguments or {}).keys() & (other.arguments or {}).keys()
        if self.array is not None or other.array is not None or shared:
            return None
        changes = dict(self.changes or {})
        for name, change in (other.changes or {}).items():
            changes[name] = _compose(changes[name], change) if name in changes else change
        arguments = {**(self.arguments or {}), **(other.arguments or {})}
        text = f"{self.text}, and {other.text}"
        return Hypothesis(text, changes, arguments or None, self.free or other.free)


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


def _compose(outer: OperationChange, inner: OperationChange) -> OperationChange:
    """Return a change that computes with `inner` what `outer` takes for the right operation."""

    def change(call: LayerCall, x: Mapping[str, np.ndarray]) -> np.ndarray:
        return outer(replace(call, compute=lambda y: inner(call, y)), x)

    return change
