"""Layers that are alike: networks repeat their blocks, and a port's fault with them.

What explained the layer of one block is tried first in the others, and alone. Of causes that
explain a layer of another kind as well as each other, it is one that explained a layer before.
Where nothing explained the first `TRIED` blocks, and none of them was right, later ones are tried
whenever their number doubles: a fault of all blocks of a deep network costs as much as one of a
few. Of arrays of a wrong shape, only so many are tried: most have it from those before.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ldmref.locate.replay.points import Point

NUMBER = re.compile(r"-?\d+(\.\d+)?(e[-+]?\d+)?")
TRIED = 4  # blocks without a cause in which every known fault is tried
MOST_IN_VAIN = 8  # parts in a row of a call in which changes are looked for that no table knows


def without_numbers(words: str) -> str:
    """Return words in which all numbers are the same: those of blocks, and of parameters.

    >>> without_numbers("eps 1e-05 instead of 1e-06 in layers.3.norm")
    'eps # instead of # in layers.#.norm'
    """
    return NUMBER.sub("#", words)


class AlikeState(NamedTuple):
    """What is known of the layers of a kind, and of the points before.

    Attributes:
        cause: What explained an earlier one, without numbers; "" for nothing.
        failed: Points of the kind in a row that nothing explains.
        unexplained: Such points in a row, of any kind.
        vain: Parts in a row of which no change of the definition explains one.
    """

    cause: str
    failed: int
    unexplained: int
    vain: int


class AlikeLayers:
    """What is known of the layers of a call by their kind, from the blocks before.

    Args:
        most: After so many points in a row that nothing explains, none is tried. None: each kind
            is counted by itself.

    >>> known = AlikeLayers()
    >>> [known.fail("mlp") for _ in range(4)]
    [None, None, None, None]
    >>> known.tries("mlp"), known.tries("norm")
    (False, True)
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most
        self._unexplained = 0  # points in a row
        self._causes: dict[str, str] = {}
        self._failed: dict[str, int] = {}
        self.vain = 0  # parts in a row of which no change of the definition explains one

    def kind_of(self, point: Point) -> str:
        """Return the kind of a point: its layer without numbers, and its role."""
        return without_numbers(f"{point.call.name} {point.role} {point.part}")

    def cause_of(self, kind: str) -> str:
        """Return what explained an earlier point of a kind, without numbers; "" for nothing."""
        return self._causes.get(kind, "")

    @property
    def looks_further(self) -> bool:
        """Whether changes of the definition are looked for that no table knows."""
        return self.vain < MOST_IN_VAIN

    def state_of(self, kind: str) -> AlikeState:
        """Return what is known of a kind."""
        failed = self._failed.get(kind, 0)
        return AlikeState(self.cause_of(kind), failed, self._unexplained, self.vain)

    def restore(self, kind: str, state: AlikeState) -> None:
        """Know of a kind what was known before."""
        self._causes.pop(kind, None)
        self._failed.pop(kind, None)
        if state.cause:
            self._causes[kind] = state.cause
        if state.failed:
            self._failed[kind] = state.failed
        self._unexplained, self.vain = state.unexplained, state.vain

    def is_known(self, cause: str) -> bool:
        """Return whether a cause explained an earlier point of any kind, whatever its numbers."""
        return without_numbers(cause) in self._causes.values()

    def explain(self, kind: str, cause: str) -> None:
        """Note what explains a point of a kind."""
        self._causes[kind] = without_numbers(cause)
        self._unexplained = 0
        self._failed.pop(kind, None)

    def pass_by(self, point: Point) -> None:
        """Note that a point is right."""
        self._failed.pop(self.kind_of(point), None)

    def fail(self, kind: str) -> None:
        """Note that nothing explains a point of a kind."""
        self._failed[kind] = self._failed.get(kind, 0) + 1
        self._unexplained += 1

    def tries(self, kind: str) -> bool:
        """Return whether every known fault is tried in the next point of a kind."""
        if self.most is not None and self._unexplained >= self.most:
            return False
        number = self._failed.get(kind, 0) + 1
        return number <= TRIED or number & (number - 1) == 0
