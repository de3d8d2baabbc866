"""The coverage of a comparison: which recorded arrays outside of the layers were compared.

A judge makes rows of recorded arrays (`RecordedArray`), and so the coverage knows which arrays have
been compared with what they should be: nothing is marked by hand. What is left has not been
compared by anybody, and becomes a row "not judged" with a reason, so no verdict says more than was
compared.

An array is declared as given, and needs no comparison, if what computed it is not a part of the
trace: random numbers, images and texts of the request, or the inputs of a network whose sources the
caller chose not to record. `GIVEN` has those that are given in every run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ldmref.locate.findings import UNKNOWN, Row
from ldmref.locate.run.calls import INPUT, OUTPUT, ArrayName
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace, TraceEntry

KIND = "recorded"  # of a row for arrays that nothing compared
GIVEN: Mapping[str, tuple[str, ...] | None] = {  # inputs by kind of call; None: all of them
    "schedule": ("timesteps", "sigmas"),
    "cond_stage": None,  # a map
    "controlnet.hint": None,  # an image
    "train": ("indices", "timesteps", "x0", "noise"),
}


@dataclass(frozen=True)
class RecordedArray:
    """A recorded array, or what a judge made of recorded arrays in order to compare it.

    Attributes:
        names: The recorded arrays, usually one. A row says something about all of them.
        array: The array that is compared.
    """

    names: tuple[ArrayName, ...]
    array: np.ndarray

    @property
    def call(self) -> TraceCall:
        """The call of which a row is."""
        return self.names[0].call

    def made(self, array: np.ndarray, *others: RecordedArray) -> RecordedArray:
        """Return what was made of this array, and of others of which a row says as much.

        Args:
            array: What is compared instead.
            *others: Other recorded arrays.
        """
        more = (name for other in others for name in other.names)
        return replace(self, names=(*self.names, *more), array=array)


def names_given(entry: TraceEntry) -> list[ArrayName]:
    """Return the inputs of a call that are given in every run; those of its layers are not."""
    roles = () if entry.layer else GIVEN.get(entry.call.kind, ())
    return [x for x in names_of(entry, INPUT) if roles is None or x.role in roles]


def names_of(entry: TraceEntry, side: str) -> tuple[ArrayName, ...]:
    """Return the names of all inputs, or of all outputs, of a recorded call."""
    roles = entry.inputs if side == INPUT else entry.outputs
    return tuple(ArrayName(entry.name, side, role) for role in roles)


@dataclass
class Coverage:
    """What of a recorded run was compared.

    Attributes:
        judged: The arrays that have a row, or agree with what they should be.
        of_caller: The arrays that are given in this run.
        reasons: Why an array was not compared, as far as a judge knows.

    >>> from ldmref.trace import TraceEntry
    >>> entry = TraceEntry("sampler.000", "", {"sample": "a", "other": "b"})
    >>> coverage = Coverage()
    >>> coverage.give(names_of(entry, "input")[:1])
    >>> [(call, roles) for call, roles, _ in coverage.rest([entry])]
    [('sampler.000', ['input.other'])]
    """

    judged: set[ArrayName] = field(default_factory=set)
    of_caller: set[ArrayName] = field(default_factory=set)
    reasons: dict[ArrayName, str] = field(default_factory=dict)

    def note(self, names: Iterable[ArrayName]) -> None:
        """Note arrays that what calls this has judged."""
        self.judged.update(names)

    def give(self, names: Iterable[ArrayName]) -> None:
        """Declare that nothing which was recorded computed these arrays."""
        self.of_caller.update(names)

    def explain(self, names: Iterable[ArrayName], why: str) -> None:
        """Note why arrays were not compared; the first reason stays."""
        for name in names:
            self.reasons.setdefault(name, why)

    def add(self, other: Coverage) -> None:
        """Add the coverage of other parts of the run."""
        self.judged |= other.judged
        self.of_caller |= other.of_caller
        self.reasons.update(other.reasons)

    def has(self, entry: TraceEntry, role: str, side: str = INPUT) -> bool:
        """Return whether an array was judged, or is given."""
        return ArrayName(entry.name, side, role) in self._settled(entry)

    def _settled(self, entry: TraceEntry) -> set[ArrayName]:
        return self.judged | self.of_caller | {*names_given(entry)}

    def rest(
        self, entries: list[TraceEntry], outputs: bool = True
    ) -> Iterator[tuple[str, list[str], str]]:
        """Yield the call, the roles and the reason of arrays that were not compared.

        Args:
            entries: The calls, or layers of them.
            outputs: Whether their outputs count; those of networks are judged by the networks.
        """
        for entry in entries:
            settled = self._settled(entry)
            names = [*names_of(entry, INPUT), *(names_of(entry, OUTPUT) if outputs else ())]
            by_reason: dict[str, list[str]] = {}
            for name in names:
                if name not in settled:
                    by_reason.setdefault(self.reasons.get(name, ""), []).append(_words(name))
            for why, roles in by_reason.items():
                yield entry.call, roles, why


def _words(name: ArrayName) -> str:
    return name.side if name.role == name.side else f"{name.side}.{name.role}"


def rows_of_rest(
    trace: Trace,
    coverage: Coverage,
    host: list[TraceEntry],
    networks: list[TraceEntry],
    reason: str = "",
) -> Iterator[Row]:
    """Yield a row for the arrays of each call that nothing compared.

    Args:
        trace: The trace.
        coverage: What was compared.
        host: Its calls between the networks.
        networks: Its calls of networks, of which the inputs count.
        reason: Why nothing compared them, unless a judge knows better; "": it is not known.
    """
    left = [*coverage.rest(host), *coverage.rest(networks, outputs=False)]
    order: Mapping[str, int] = {call: i for i, call in enumerate(trace.calls)}
    for call, roles, why in sorted(left, key=lambda found: order.get(found[0], len(order))):
        known = why or reason or "nothing that was recorded says what it should be"
        note = f"{', '.join(roles)} not compared: {known}"
        yield Row(call, "", KIND, verdict=UNKNOWN, note=note)
