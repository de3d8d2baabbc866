"""Known faults of adaptive norms: parts of a modulation in another order, or used in another way.

A linear layer gives shift, scale and gate of a block (adaLN-Zero: Peebles and Xie 2023,
arXiv:2212.09748, section 3.2). A port that reads its parts in another order computes what the block
would with the rows of this layer in that order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations, permutations
from typing import Any

import numpy as np

from ldmref.locate.points import FollowedRun, OperationChange, Point

ChangeArray = Callable[[np.ndarray], np.ndarray]
ChangedOperations = tuple[str, Mapping[str, OperationChange]]  # words, and changes by name
ATTENTION = ("shift", "scale", "gate")
MLP = ("shift of the MLP", "scale of the MLP", "gate of the MLP")
SECOND = ("shift of the second attention", "scale of the second attention",
          "gate of the second attention")  # fmt: skip
PARTS = {  # by their number, in the order of diffusers
    2: ("scale", "shift"),
    3: ATTENTION,
    6: (*ATTENTION, *MLP),
    9: (*ATTENTION, *MLP, *SECOND),
}
GIVEN = {"modulation": "the modulation", "text_modulation": "the text's modulation"}
NEAREST = 4  # modulations that are tried


def other_modulation(replay: FollowedRun, point: Point) -> Iterator[ChangedOperations]:
    """Yield parts of the modulations of a block exchanged or misused."""
    within = f"{point.frame.name}." if point.frame.name else ""
    near = [name for name in reversed(replay.modulations) if name.startswith(within)]
    for name in near[:NEAREST]:
        parts = PARTS[replay.modulations[name]]
        for text, change in _changes(parts):
            yield f"{text} in {name}", {name: _after(change)}


def other_modulations_of_blocks(point: Point) -> Iterator[tuple[str, Mapping[str, np.ndarray]]]:
    """Yield modulations that a block is given, with parts exchanged or misused: words, and them."""
    inputs: Mapping[str, Any] = point.frame.inputs
    width = np.shape(inputs.get("input", inputs.get("x", 0.0)))[-1:]
    for name, words in GIVEN.items():
        x = inputs.get(name)
        if not isinstance(x, np.ndarray) or not width:
            continue
        for text, change in _changes(PARTS.get(x.shape[-1] // width[0], ())):
            yield f"{text} in {words} of {point.frame.name}", {name: change(x)}


def _changes(parts: tuple[str, ...]) -> Iterator[tuple[str, ChangeArray]]:
    """Yield words, and changes of a modulation with these parts."""
    count = len(parts)
    for i, j in combinations(range(count), 2):
        order = list(range(count))
        order[i], order[j] = j, i
        yield f"{parts[i]} and {parts[j]} are exchanged", _in_order(order)
    for i, j in permutations(range(count), 2):
        if parts[i].split()[0] == parts[j].split()[0]:  # both are shifts, scales or gates
            order = list(range(count))
            order[j] = i
            yield f"the {parts[i]} is also the {parts[j]}", _in_order(order)
    for i, name in enumerate(parts):
        if name.startswith("scale"):
            yield f"1 is not added to the {name}", _with_part(i, count, 1.0, -1.0)
        elif name.startswith("gate"):
            yield f"1 is added to the {name}", _with_part(i, count, 1.0, 1.0)
            yield f"the {name} is missing", _with_part(i, count, 0.0, 1.0)
        else:
            yield f"the {name} is missing", _with_part(i, count, 0.0, 0.0)


def _after(change: ChangeArray) -> OperationChange:
    return lambda call, x: change(call.compute(x))


def _in_order(order: list[int]) -> ChangeArray:
    def change(x: np.ndarray) -> np.ndarray:
        parts = np.split(x, len(order), axis=-1)
        return np.concatenate([parts[i] for i in order], axis=-1)

    return change


def _with_part(index: int, count: int, factor: float, term: float) -> ChangeArray:
    def change(x: np.ndarray) -> np.ndarray:
        parts = np.split(x, count, axis=-1)
        parts[index] = factor * parts[index] + term
        return np.concatenate(parts, axis=-1)

    return change
