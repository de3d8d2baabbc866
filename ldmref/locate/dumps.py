"""Dumps that hold the same numbers under several names: a buffer that was recorded too late."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import replace

import numpy as np

from ldmref.locate.findings import DIFFERS, Row
from ldmref.trace.model import Trace


def identical_dumps(port: Trace, rows: list[Row]) -> list[Row]:
    """Return the rows, with a note where a wrong output equals that of other layers.

    A program that records a buffer after it was used again stores the same numbers for different
    layers, as captured graphs do.
    """
    wrong = {(row.call, row.layer) for row in rows if row.verdict == DIFFERS}
    if not wrong:
        return rows
    twins: dict[tuple[str, bytes], list[tuple[str, str]]] = defaultdict(list)
    for call in {call for call, _ in wrong}:
        for entry in port.of_call(call):
            for name in list(entry.outputs.values())[:1]:
                twins[call, _digest(port.tensors[name])].append((call, entry.layer))
    shared = {
        member: [layer for _, layer in members if not _is_within(layer, member[1])]
        for members in twins.values()
        if len(members) > 1
        for member in members
    }
    return [_with_twins(row, shared.get((row.call, row.layer), [])) for row in rows]


def _with_twins(row: Row, layers: list[str]) -> Row:
    if row.verdict != DIFFERS or row.kind != "own" or row.cause or not layers:
        return row
    more = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
    cause = f"identical dumps: the same numbers as {layers[0]}{more}"
    return replace(row, cause=cause)


def _is_within(a: str, b: str) -> bool:
    """Return whether one layer contains the other, so both may end with the same array."""
    return a == b or a.startswith(b + ".") or b.startswith(a + ".") or not a or not b


def _digest(x: np.ndarray) -> bytes:
    array = np.ascontiguousarray(x)
    return hashlib.sha256(str(array.shape).encode() + array.tobytes()).digest()
