"""Which of ldmref's operations without names of their own a port left out, and the order of sums.

Such operations are numbered in each module: `silu`, `silu~1`, `silu~2`. If a port leaves one out,
its later ones have the numbers of other operations. What they read and return tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb

import numpy as np

from ldmref.locate.recorded.layouts import relative_error

OperationArrays = Mapping[str, np.ndarray]
MOST = 5000  # alignments that are compared
CLOSE = 0.01  # relative error with which a term is still that term, and no other one
EXCHANGED = {"input": "b", "b": "input"}  # the terms of a sum, which has no order


def align(
    expected: Sequence[OperationArrays], recorded: Sequence[OperationArrays]
) -> tuple[int | None, ...]:
    """Return for each expected operation the index of the recorded one, None if it was left out.

    The order is kept, and the sum of the relative errors, each at most 1, is the least.

    Args:
        expected: The arrays of each operation of a module by role, in order.
        recorded: Those of the port's, not more of them.

    >>> small, large = {"input": np.ones(2)}, {"input": np.full(2, 9.0)}
    >>> align([small, small, large], [small, large])
    (0, None, 1)
    """
    n = len(recorded)
    if comb(len(expected), n) > MOST:
        return tuple(i if i < n else None for i in range(len(expected)))
    costs = [[_distance(found, right) for right in expected] for found in recorded]
    kept = min(
        combinations(range(len(expected)), n),
        key=lambda indices: sum(costs[j][index] for j, index in enumerate(indices)),
    )
    return tuple(kept.index(i) if i in kept else None for i in range(len(expected)))


def find_among(
    recorded: Sequence[OperationArrays], expected: Sequence[OperationArrays]
) -> tuple[int | None, ...]:
    """Return for each expected operation the index of the recorded one, where a port has more.

    Args:
        recorded: The arrays of each of the port's operations of a module, in order.
        expected: Those of the expected operations, fewer of them.

    >>> small, large = {"input": np.ones(2)}, {"input": np.full(2, 9.0)}
    >>> find_among([small, large, small], [large, small])
    (1, 2)
    """
    numbers = align(recorded, expected)
    return tuple(numbers.index(i) for i in range(len(expected)))


def _distance(found: OperationArrays, expected: OperationArrays) -> float:
    def distance(right: OperationArrays) -> float:
        shared = found.keys() & right.keys()
        return sum(min(relative_error(found[role], right[role]), 1.0) for role in shared)

    terms = exchange_terms(expected) if EXCHANGED.keys() <= expected.keys() else {}
    known = terms.keys() & found.keys()
    exchanged = known and all(relative_error(found[role], terms[role]) < CLOSE for role in known)
    return distance({**expected, **terms} if exchanged else expected)


def exchange_terms(terms: OperationArrays) -> OperationArrays:
    """Return the terms of a sum in the other order.

    >>> exchange_terms({"input": 1.0, "b": 2.0})
    {'input': 2.0, 'b': 1.0}
    """
    return {role: terms[other] for role, other in EXCHANGED.items()}


def is_exchanged(terms: OperationArrays, recorded: OperationArrays, allowed: float) -> bool:
    """Return whether a port wrote the two terms of a sum in the other order, as `y += x` may.

    Args:
        terms: The computed terms of an operation by role; NaN where they are not known.
        recorded: The recorded ones, as far as they were.
        allowed: The relative error that is rounding.

    >>> one, two = np.ones(2), np.full(2, 2.0)
    >>> is_exchanged({"input": one, "b": two}, {"input": two, "b": one}, 1e-6)
    True
    """
    if terms.keys() != EXCHANGED.keys():
        return False
    found = []
    for order in (terms, exchange_terms(terms)):
        known = [role for role in recorded if role in order and not np.isnan(order[role]).any()]
        errors = [relative_error(recorded[role], order[role]) for role in known]
        found.append(any(error <= max(allowed, CLOSE) for error in errors))
    same, other = found
    return other and not same
