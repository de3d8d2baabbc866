"""The ledger of a comparison: every recorded array outside of the layers, and what became of it.

A judge marks the arrays that it compared with what they should be. What is left has not been
compared by anybody, and becomes a row "not judged" with a reason, so no verdict says more than was
compared. An array counts as given, which needs no comparison, if what computed it is not a part of
the trace: random numbers, images and texts of the request, or the inputs of a network whose sources
the caller chose not to record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ldmref.locate.findings import UNKNOWN, Row
from ldmref.locate.run.calls import INPUT, OUTPUT
from ldmref.trace.model import Trace, TraceEntry

KIND = "recorded"  # of a row for arrays that nothing compared

Key = tuple[str, str, str]  # name of the entry, side, role


@dataclass
class Ledger:
    """What of a recorded run was compared.

    Attributes:
        marked: The arrays that were compared, or are given.
        reasons: Why an array was not compared, as far as a judge knows.

    >>> from ldmref.trace import TraceEntry
    >>> entry = TraceEntry("sampler.000", "", {"sample": "a", "other": "b"})
    >>> ledger = Ledger()
    >>> ledger.mark(entry, "sample")
    >>> [(call, roles) for call, roles, _ in ledger.rest([entry])]
    [('sampler.000', ['input.other'])]
    """

    marked: set[Key] = field(default_factory=set)
    reasons: dict[Key, str] = field(default_factory=dict)

    def mark(self, entry: TraceEntry | None, *roles: str, side: str = INPUT) -> None:
        """Mark arrays of a call as compared.

        Args:
            entry: The call. None: nothing is marked.
            *roles: Their roles.
            side: "input" or "output".
        """
        if entry is not None:
            self.marked |= {(entry.name, side, role) for role in roles}

    def explain(self, entry: TraceEntry, why: str, *roles: str, side: str = INPUT) -> None:
        """Note why arrays of a call were not compared."""
        for role in roles:
            self.reasons.setdefault((entry.name, side, role), why)

    def has(self, entry: TraceEntry, role: str, side: str = INPUT) -> bool:
        """Return whether an array was compared."""
        return (entry.name, side, role) in self.marked

    def rest(
        self, entries: list[TraceEntry], outputs: bool = True
    ) -> Iterator[tuple[str, list[str], str]]:
        """Yield the call, the roles and the reason of arrays that were not compared.

        Args:
            entries: The calls, or layers of them.
            outputs: Whether their outputs count; those of networks are judged by the networks.
        """
        for entry in entries:
            sides = [(INPUT, entry.inputs)] + ([(OUTPUT, entry.outputs)] if outputs else [])
            left = [
                (side, role)
                for side, roles in sides
                for role in roles
                if (entry.name, side, role) not in self.marked
            ]
            by_reason: dict[str, list[str]] = {}
            for side, role in left:
                why = self.reasons.get((entry.name, side, role), "")
                by_reason.setdefault(why, []).append(_name(side, role))
            for why, roles in by_reason.items():
                yield entry.call, roles, why


def _name(side: str, role: str) -> str:
    return side if role == side else f"{side}.{role}"


def rows_of_rest(
    trace: Trace,
    ledger: Ledger,
    host: list[TraceEntry],
    networks: list[TraceEntry],
    reason: str = "",
) -> Iterator[Row]:
    """Yield a row for the arrays of each call that nothing compared.

    Args:
        trace: The trace.
        ledger: What was compared.
        host: Its calls between the networks.
        networks: Its calls of networks, of which the inputs count.
        reason: Why nothing compared them, unless a judge knows better; "": it is not known.
    """
    left = [*ledger.rest(host), *ledger.rest(networks, outputs=False)]
    order: Mapping[str, int] = {call: i for i, call in enumerate(trace.calls)}
    for call, roles, why in sorted(left, key=lambda found: order.get(found[0], len(order))):
        known = why or reason or "nothing that was recorded says what it should be"
        note = f"{', '.join(roles)} not compared: {known}"
        yield Row(call, "", KIND, verdict=UNKNOWN, note=note)
