"""Known faults of adaptive norms: parts of a modulation in another order, or used in another way.

A linear layer gives shift, scale and gate of a block (adaLN-Zero: Peebles and Xie 2023,
arXiv:2212.09748, section 3.2). A port that reads its parts in another order computes what the block
would with the rows of this layer in that order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, permutations

import numpy as np

from ldmref.locate.replay.points import FollowedRun, OperationChange, Point

ChangedOperations = tuple[str, Mapping[str, OperationChange]]  # words, and changes by name
ChangedInputs = tuple[str, Mapping[str, np.ndarray]]  # words, and arguments of a part by name
TurnRows = Callable[[np.ndarray], np.ndarray]
ATTENTION = ("shift", "scale", "gate")
MLP = ("shift of the MLP", "scale of the MLP", "gate of the MLP")
SECOND = ("shift of the second attention", "scale of the second attention",
          "gate of the second attention")  # fmt: skip
PARTS = {  # by their number, in the order of diffusers
    1: ("scale",),
    2: ("scale", "shift"),
    3: ATTENTION,
    4: (*ATTENTION[1:], *MLP[1:]),
    6: (*ATTENTION, *MLP),
    9: (*ATTENTION, *MLP, *SECOND),
}
# The order of blocks that add a table to a modulation which all share.
SCALE_FIRST = ("scale", "shift", "gate", "scale of the MLP", "shift of the MLP", "gate of the MLP")
# The last layers of what embeds times, guidance and pooled texts.
EMBEDDERS = re.compile(r"(.*\.)?(\w+_)?embedder(\.linear_2)?")
BOUNDED = 4  # parts of blocks whose gates go through tanh
NEAREST = 4  # modulations that are tried


def other_modulation(replay: FollowedRun, point: Point) -> Iterator[ChangedOperations]:
    """Yield parts of the modulations of a block exchanged or misused."""
    within = f"{point.frame.name}." if point.frame.name else ""
    near = [name for name in reversed(replay.modulations) if name.startswith(within)]
    for name in near[:NEAREST]:
        for text, change in _changes(PARTS[replay.modulations[name]]):
            yield f"{text} in {name}", {name: _of_operation(change)}


def other_modulation_of_block(replay: FollowedRun, point: Point) -> Iterator[ChangedInputs]:
    """Yield other arguments of a block that holds the modulations of all blocks of its kind.

    A block may add a table of its own to them, as in Krea 2.
    """
    inputs = point.frame.inputs
    tokens = inputs.get("input")
    if not point.frame.name or not isinstance(tokens, np.ndarray) or tokens.ndim != 3:
        return
    width = tokens.shape[-1]
    table = _table_of(replay, point.frame.name)
    widths = [(count * width,) for count in PARTS if count > 1]
    arrays = {role: x for role, x in inputs.items() if isinstance(x, np.ndarray)}
    found = {role: x for role, x in arrays.items() if x.shape[-1:] in widths}
    for role, x in found.items():
        has_table = table is not None and table.shape == x.shape[-1:]
        added = table if table is not None and has_table else np.zeros(1)
        for text, change in _changes(SCALE_FIRST if has_table else PARTS[x.shape[-1] // width]):
            yield f"{text} in the modulation {role!r}", {role: change(x + added) - added}
    for first, second in permutations(found, 2):
        if found[first].shape == found[second].shape:
            yield f"the modulation {first!r} is {second!r}", {first: found[second]}


def unused_embedding(replay: FollowedRun, point: Point) -> Iterator[ChangedOperations]:
    """Yield sums of embeddings from which that of the text, or of a time, is missing."""
    if not point.role or np.ndim(point.computed) not in (2, 3):
        return
    names = {entry.layer for entry in replay.port.of_call(replay.call)}
    for name in sorted(name for name in names if EMBEDDERS.fullmatch(name)):
        text = f"the output of {name} is not added"
        yield text, {name: _of_operation(np.zeros_like)}


def _table_of(replay: FollowedRun, block: str) -> np.ndarray | None:
    """Return the numbers (6 d,) that a block adds to its modulation; None: it has no table."""
    table = replay.parameters_of(block)
    return None if table is None or table.shape[0] != len(SCALE_FIRST) else np.ravel(table)


def _of_operation(change: TurnRows) -> OperationChange:
    return lambda call, x: change(call.compute(x))


def _changes(parts: tuple[str, ...]) -> Iterator[tuple[str, TurnRows]]:
    """Yield words, and changes of the rows of a modulation, (..., parts d)."""
    count = len(parts)
    for i, j in permutations(range(count), 2):  # before exchanges, of which they are a half
        if parts[i].partition(" ")[0] == parts[j].partition(" ")[0]:
            order = [*range(count)]
            order[i] = j
            yield f"the {parts[i]} is the {parts[j]}", _in_order(order)
    for i, j in combinations(range(count), 2):
        order = list(range(count))
        order[i], order[j] = j, i
        yield f"{parts[i]} and {parts[j]} are exchanged", _in_order(order)
    for i, name in enumerate(parts):
        kind = name.partition(" ")[0]
        if kind == "scale":
            yield f"1 is not added to the {name}", _with_part(i, count, lambda x: x - 1.0)
        elif kind == "gate":
            yield f"1 is added to the {name}", _with_part(i, count, lambda x: x + 1.0)
            yield f"the {name} is missing", _with_part(i, count, np.ones_like)
            if count == BOUNDED:
                yield f"the {name} does not go through tanh", _with_part(i, count, _undo_tanh)
        else:
            yield f"the {name} is missing", _with_part(i, count, np.zeros_like)
    yield from _rotations(parts)


def _rotations(parts: tuple[str, ...]) -> Iterator[tuple[str, TurnRows]]:
    """Yield words, and changes of the rows of a modulation whose shift, scale and gate turn.

    A class of the three that is filled in another order turns those of attention and MLP alike.
    """
    count = len(parts)
    starts = [*range(0, count, 3)] if count % 3 == 0 else []
    several = [starts] if len(starts) > 1 else []
    for by in (1, 2):
        for turned in (*([start] for start in starts), *several):
            order = [*range(count)]
            for start in turned:
                order[start : start + 3] = [start + (i + by) % 3 for i in range(3)]
            read = [ATTENTION[(i + by) % 3] for i in range(3)]
            of = parts[turned[0]].removeprefix(ATTENTION[0])  # " of the MLP"
            also = " in all parts" if len(turned) > 1 else ""
            yield f"{_listed(ATTENTION)}{of} are {_listed(read)}{also}", _in_order(order)


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _in_order(order: list[int]) -> TurnRows:
    def change(rows: np.ndarray) -> np.ndarray:
        parts = np.split(rows, len(order), axis=-1)
        return np.concatenate([parts[i] for i in order], axis=-1)

    return change


def _with_part(index: int, count: int, turn: TurnRows) -> TurnRows:
    def change(rows: np.ndarray) -> np.ndarray:
        parts = np.split(rows, count, axis=-1)
        parts[index] = turn(parts[index])
        return np.concatenate(parts, axis=-1)

    return change


def _undo_tanh(x: np.ndarray) -> np.ndarray:
    """Return numbers whose tanh is x; NaN, which is not compared, for other x."""
    inside = np.abs(x) < 1.0
    return np.where(inside, np.arctanh(np.where(inside, x, 0.0)), np.nan)
