"""The beginning of a part that is computed again: what no hypothesis changes is computed once.

A part may be a whole network, if a port has no layers of several operations, and hundreds of
hypotheses change one operation of it each. Up to this operation all of them compute the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from ldmref.backends.named import AGAIN

MOST_BYTES = 2**27  # of arrays that are kept


class PartBeginning:
    """What the layers of a part return, as long as nothing was changed before them.

    Args:
        point: The array to which the part leads; it is only compared with others.
        dtype: The number format to which parameters are rounded.

    Attributes:
        recorded: What layers return that were recorded, whatever is changed before them.

    >>> point = object()
    >>> beginning = PartBeginning(point, "float32")
    >>> beginning.start(["proj"])
    >>> beginning.keep("norm", np.ones(2), Counter())
    >>> beginning.find("norm")[0], beginning.find("proj")
    (array([1., 1.]), None)
    """

    def __init__(self, point: object, dtype: str):
        self.point = point
        self.dtype = dtype
        self.recorded: dict[str, Any] = {}
        self._room = MOST_BYTES
        self._found: dict[str, tuple[Any, Counter[str]]] = {}
        self._changes: tuple[str, ...] = ()
        self._is_changed = False

    def start(self, changes: Iterable[str]) -> None:
        """Begin the part once more, with changes of operations of these names."""
        self._changes = (*changes,)
        self._is_changed = False

    def find(self, name: str) -> tuple[Any, Counter[str]] | None:
        """Return what a layer returned, and how often each name occurred in it.

        None: it is not known, or something in it or before it is changed.
        """
        found = self._found.get(name)
        if found is None or self._is_changed or self._changes_within(name, found[1]):
            return None
        return found

    def keep(self, name: str, result: Any, names: Counter[str]) -> None:
        """Note what a layer returned that was computed.

        Args:
            name: The layer.
            result: An array, or several; anything else is not kept.
            names: How often each name occurred in it.
        """
        self._is_changed = self._is_changed or self._changes_within(name, names)
        kept = None if self._is_changed else self._take(result)
        if kept is not None:
            self._found[name] = kept, names

    def note_recorded(self, name: str, result: Any) -> None:
        """Note what a layer returns that was recorded, as `keep` does."""
        kept = self._take(result)
        if kept is not None:
            self.recorded[name] = kept

    def _take(self, result: Any) -> Any:
        """Return arrays as those that nobody can write into; None: there is no room for them."""
        parts = result if isinstance(result, tuple) else (result,)
        arrays = all(isinstance(x, np.ndarray) for x in parts)
        size = sum(x.nbytes for x in parts) if arrays else 0
        if not arrays or size > self._room:
            return None
        self._room -= size
        kept = tuple(_read_only(x) for x in parts)
        return kept if isinstance(result, tuple) else kept[0]

    def _changes_within(self, name: str, names: Counter[str]) -> bool:
        """Return whether an operation is changed that is a layer or in it."""
        return any(
            one == name or one in names or one.rpartition(AGAIN)[0] in names
            for one in self._changes
        )


def _read_only(x: np.ndarray) -> np.ndarray:
    """Return a view of an array that nobody can write into."""
    found = x.view()
    found.setflags(write=False)
    return found
