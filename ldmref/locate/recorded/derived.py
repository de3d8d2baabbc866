"""Arrays of a trace under names of their own, which are made of recorded ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import numpy as np

from ldmref.support.lazy_mapping import LazyMapping
from ldmref.trace.model import Trace, TraceEntry

Derivation = tuple[str, Callable[[np.ndarray], np.ndarray]]  # a recorded array, and a function


class DerivedArrays(LazyMapping[np.ndarray]):
    """Arrays of a trace, and some that are made of them under names of their own.

    What a layer returns may be stored once for it and for the next one, of which one is changed.

    Args:
        arrays: The arrays by name.
        derived: By name, that of a recorded array, and what makes the new one of it.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], derived: Mapping[str, Derivation]):
        self.arrays = arrays
        self.derived = derived

    @property
    def names(self) -> Collection[str]:
        return [*self.arrays, *self.derived]

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.derived:
            return self.arrays[name]
        source, change = self.derived[name]
        return change(np.asarray(self.arrays[source]))


def with_derived(
    port: Trace, entries: Collection[TraceEntry], derived: Mapping[str, Derivation]
) -> Trace:
    """Return a port with other entries, which name derived arrays as well.

    Args:
        port: The trace.
        entries: Its entries.
        derived: By name, that of a recorded array, and what makes the new one of it. It has the
            number format of the recorded one.
    """
    kinds = {new: port.kinds[name] for new, (name, _) in derived.items() if name in port.kinds}
    tensors = DerivedArrays(port.tensors, derived)
    return replace(port, tensors=tensors, entries=tuple(entries), kinds={**port.kinds, **kinds})
