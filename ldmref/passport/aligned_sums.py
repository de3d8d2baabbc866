"""Sums of a port's batch under the names that they have in a kit's calls of one row.

A recorder names the sums of two arrays of equal size. The sum of a table (1, k, c) and an array
(n, k, c) is one of them if n is 1, and shifts the numbers of all later ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace, TraceEntry

SUM = re.compile(r"(?:(?P<scope>.*)\.)?add(?:~\d+)?")
IsLike = Callable[[TraceEntry, TraceEntry], bool]


def align_sums(
    port: Trace, call: TraceCall, run: Trace, of_run: TraceCall, is_like: IsLike
) -> tuple[Trace, dict[str, str], list[TraceEntry]]:
    """Return a port whose sums have the names of a kit's.

    The sums of a module that are fewer than the kit's are some of these, in their order. If their
    sizes leave a choice, they are left out.

    Args:
        port: The port's run.
        call: The call of it.
        run: The kit's run.
        of_run: The call that has a row of it.
        is_like: Returns whether a sum of the port may be one of the kit.

    Returns:
        The port, the port's own names of layers by the new ones, and the entries that are left out.
    """
    renamed: dict[int, str] = {}
    left_out = []
    theirs, ours = dict(_sums(port, call)), dict(_sums(run, of_run))
    for scope, sums in theirs.items():
        expected = ours.get(scope, [])
        if len(sums) == len(expected):
            continue
        first = _embed(sums, expected, is_like)
        last = _embed(sums[::-1], expected[::-1], is_like)[::-1]
        if first and first == last:
            found = zip(sums, first, strict=True)
            renamed |= {id(own): entry.layer for own, entry in found}
        else:
            left_out += sums
    dropped = {id(entry) for entry in left_out}
    kept = [entry for entry in port.entries if id(entry) not in dropped]
    entries = [replace(e, layer=renamed[id(e)]) if id(e) in renamed else e for e in kept]
    own = {renamed[id(entry)]: entry.layer for entry in kept if id(entry) in renamed}
    return replace(port, entries=tuple(entries)), own, left_out


def _sums(trace: Trace, call: TraceCall) -> Iterator[tuple[str, list[TraceEntry]]]:
    """Yield the sums of each module of a call, in their order."""
    found: dict[str, list[TraceEntry]] = {}
    for entry in trace.of_call(call):
        match = SUM.fullmatch(entry.layer)
        if match is not None and entry.outputs:
            found.setdefault(match["scope"] or "", []).append(entry)
    yield from found.items()


def _embed(
    sums: Sequence[TraceEntry], expected: Sequence[TraceEntry], is_like: IsLike
) -> list[TraceEntry]:
    """Return the first entries that may be some sums, in their order; [] if there are none."""
    found: list[TraceEntry] = []
    for entry in expected:
        if len(found) < len(sums) and is_like(sums[len(found)], entry):
            found.append(entry)
    return found if len(found) == len(sums) else []
