"""What is missing at one layer of a block and applied at another one is one fault: it is elsewhere.

A gate that is applied after the output projection is missing before it, and both arrays differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ldmref.locate.findings import Row

BLOCK = re.compile(r".*?\.\d+(?=\.|$)")
NOUN_MISSING = re.compile(r"the (rotation|norm|activation|gate|scale|product) is missing")
TWICE = "the residual is added twice"
ELSEWHERE = re.compile(r"the (\w+) is applied (after|before) the (\w+)")
TOO = " too"
EQUALS = "equals the output of {}"
NOT_ADDED, ADDED_TWICE = "is not added", "is added twice"
READS = re.compile(r"equals the (output|input) of|\S+ reads the output of")


def join_causes(rows: Sequence[Row]) -> list[Row]:
    """Return rows of which none says that something is missing which another row has elsewhere.

    >>> rows = [Row("unet.000", "a.0.to_out", cause="the gate is missing in a.0.to_gate"),
    ...         Row("unet.000", "a.0", cause="the gate is applied after the output projection")]
    >>> {row.cause for row in join_causes(rows)}
    {'the gate is applied after the output projection'}
    """
    found = {}
    for row in rows:
        if row.cause.startswith(TWICE) and "norm" in row.layer.rpartition(".")[2]:
            other = row.cause.replace(TWICE, "the residual is missing")
            if any(x.cause == other and _block_of(x) == _block_of(row) for x in rows):
                words = f"the norm is applied after the residual sum: {row.layer}"
                found |= {(_block_of(row), said): words for said in (row.cause, other)}
        if row.cause.endswith(NOT_ADDED):
            other = row.cause.replace(NOT_ADDED, ADDED_TWICE)
            if any(x.cause == other and _block_of(x) == _block_of(row) for x in rows):
                words = row.cause.replace(NOT_ADDED, f"is added after {row.layer}")
                found |= {(_block_of(row), said): words for said in (row.cause, other)}
        if ELSEWHERE.match(row.cause):
            said = {(_block_of(row), words) for words in _said_of(row)}
            moved = said & {_key(other) for other in rows}  # it is missing at its place
            words = row.cause.replace(TOO, "", 1) if moved else row.cause
            found |= dict.fromkeys({*said, _key(row)}, words)
            found |= {_key(x): words for x in rows if _is_moved(x, row)}
    return [replace(row, cause=found.get(_key(row), row.cause)) for row in rows]


def _is_moved(row: Row, other: Row) -> bool:
    """Return whether a row is at an operation that another row of its block says is elsewhere."""
    names = other.cause.partition(": ")[2].split(", ")
    same = _block_of(row) == _block_of(other) and row.layer.partition("~")[0] in names
    return same and READS.match(row.cause) is not None


def _said_of(row: Row) -> Iterator[str]:
    """Yield what other rows may say of what is elsewhere: that it is missing at its place."""
    match = ELSEWHERE.match(row.cause)
    for noun in (match[1], match[3]) if match else ():
        yield f"the {noun} is missing"
    yield EQUALS.format(row.layer)


def _key(row: Row) -> tuple[str, str]:
    match = NOUN_MISSING.match(row.cause)
    return _block_of(row), match[0] if match else row.cause


def _block_of(row: Row) -> str:
    match = BLOCK.match(row.layer)
    return match[0] if match else ""
