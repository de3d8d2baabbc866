"""Which of ldmref's operations without names of their own a port left out.

Such operations are numbered in each module: `silu`, `silu~1`, `silu~2`. If a port leaves one out,
its later ones have the numbers of other operations. What they read and return tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb

import numpy as np

from ldmref.locate.layouts import relative_error

OperationArrays = Mapping[str, np.ndarray]
MOST = 5000  # alignments that are compared


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


def _distance(found: OperationArrays, expected: OperationArrays) -> float:
    shared = found.keys() & expected.keys()
    return sum(min(relative_error(found[role], expected[role]), 1.0) for role in shared)
