"""What is said of rows after the judges: the whole run, or a reference, explains some of them.

Parts of a program in float64 may compute in float32; a program may have recorded one buffer under
several names; and a difference from the reference may come from the input, as its layer is right.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ldmref.errors import counted
from ldmref.locate.findings import DIFFERS, EQUAL, NOISY, UNKNOWN, WIRING, Row
from ldmref.locate.recorded.layouts import relative_error
from ldmref.locate.recorded.names import read_output
from ldmref.trace.model import Trace

NARROW = "float32"  # in which parts of programs in float64 compute
REFERENCE_ALONE = "compared with the reference alone"
FAR = 0.01  # relative difference from a reference that no rounding of a right run makes
FUSED = {"group_norm_silu", "geglu"}  # one layer for two operations, named after the first


def less_strict(rows: list[Row], judge_again: Callable[[], list[Row]], dtype: str) -> list[Row]:
    """Return rows of a port in float64, in which what float32 explains is "noisy" with a note.

    Programs embed times, and keep tables of schedules, in float32 whatever their format.
    """
    if dtype != "float64" or not any(row.verdict == DIFFERS for row in rows):
        return rows
    again = {(row.call, row.layer, row.kind): row for row in judge_again()}
    found = []
    for row in rows:
        narrow = again.get((row.call, row.layer, row.kind), row)
        if row.verdict == DIFFERS and narrow.verdict in (EQUAL, NOISY):
            note = "within the rounding of float32, in which this part is computed"
            row = replace(narrow, verdict=NOISY, note=note)
        found.append(row)
    return found


def is_within(layer: str, layers: Iterable[str]) -> bool:
    """Return whether a layer is one of some layers, or a part of one."""
    return any(layer == name or layer.startswith(name + ".") for name in layers)


# -- identical dumps ------------------------------------------------------------------------------


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
        member: [layer for _, layer in members if not _share(layer, member[1])]
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


def _share(a: str, b: str) -> bool:
    """Return whether one layer contains the other, so both may end with the same array."""
    return a == b or a.startswith(b + ".") or b.startswith(a + ".") or not a or not b


def _digest(x: np.ndarray) -> bytes:
    array = np.ascontiguousarray(x)
    return hashlib.sha256(str(array.shape).encode() + array.tobytes()).digest()


# -- a reference ----------------------------------------------------------------------------------


def compare_reference(
    port: Trace, reference: Trace, rows: Iterable[Row]
) -> tuple[list[Row], list[str]]:
    """Return the rows with their differences from a reference, and what they say of it.

    A layer that only the reference can be compared with has a row, "not judged".

    Args:
        port: The trace.
        reference: A trace of the same run.
        rows: Those of the judges.
    """
    differences = dict(_differences(port, reference))
    found = [
        row if row.kind == WIRING else _inherit(row, differences.get((row.call, row.layer)))
        for row in rows
    ]
    found += _not_judged(found, differences)
    return found, list(_doubts(found))


def _inherit(row: Row, difference: float | None) -> Row:
    return row if difference is None else replace(row, inherited=difference)


def _differences(port: Trace, reference: Trace) -> Iterator[tuple[tuple[str, str], Any]]:
    for entry in port.entries:
        other = reference.find(entry.call, entry.layer)
        if other is None or not entry.outputs or not other.outputs:
            continue
        if entry.kind != other.kind and {entry.kind, other.kind} & FUSED:
            continue  # one of them includes the activation
        got = read_output(port, entry)
        expected = read_output(reference, other)
        if got is not None and expected is not None and got.shape == expected.shape:
            yield (entry.call, entry.layer), relative_error(got, expected)


def _not_judged(rows: Sequence[Row], differences: Mapping[tuple[str, str], float]) -> Iterator[Row]:
    """Yield a row for each layer that only the reference can be compared with."""
    judged = {(row.call, row.layer) for row in rows if row.kind != WIRING}
    judged |= {(row.call, row.kind) for row in rows if not row.layer}  # a part of a step
    for (call, layer), difference in differences.items():
        if (call, layer) not in judged:
            note = REFERENCE_ALONE
            yield Row(call, layer, verdict=UNKNOWN, inherited=difference, note=note)


def _doubts(rows: Sequence[Row]) -> Iterator[str]:
    """Yield that the port agrees with ldmref, but not with the reference."""
    far = [row for row in rows if row.inherited is not None and row.inherited > FAR]
    if far and not any(row.verdict == DIFFERS for row in rows):
        yield (
            f"{counted(len(far), 'layer')} of the port differ from the reference, and none of them "
            "from ldmref: another request or noise, or the reference is the inaccurate side"
        )
