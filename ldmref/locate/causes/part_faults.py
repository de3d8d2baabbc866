"""The known faults of a part as hypotheses: what may be changed in it, one thing at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ldmref.backends.named import AGAIN, LayerCall
from ldmref.locate.faults.attention import with_padding_mask, with_text_mask
from ldmref.locate.faults.hypothesis import Hypothesis, together
from ldmref.locate.faults.masks import with_mask, with_wrong_padding_mask
from ldmref.locate.faults.norms import KINDS, eps_of_all
from ldmref.locate.faults.rotary import other_places
from ldmref.locate.faults.table import BY_POSITIONS, FAULTS, ROTATIONS
from ldmref.locate.faults.variants import Variant
from ldmref.locate.faults.whole import argument_changes
from ldmref.locate.recorded.unfit import while_it_fits
from ldmref.locate.replay.points import FollowedRun, Point

LARGE = 24  # operations in a part; in a larger one, a fault concerns all operations of a kind
SMALL = 2**16  # numbers of an array of a part that is quickly computed again
LARGE_OF_SMALL = 64  # operations in such a part
MOST_OF_BLOCK = 200  # operations of a block, written as those of torch; a network has more
# Operations that share a table or a constant: a fault concerns all of them or one.
TOGETHER = (*ROTATIONS, "power", "polar", "sine", "cosine", "repeat_each", "masked")
OF_KIND = {**KINDS, "turn_pairs": "rotate"}  # several operations in words
OF_QUERIES, OF_KEYS = ", of the queries alone,", ", of the keys alone,"


def known_hypotheses(replay: FollowedRun, point: Point) -> Iterator[Hypothesis]:
    """Yield every known fault of a part."""
    for text, arguments, free in while_it_fits(argument_changes, replay, point):
        yield Hypothesis(text, None, arguments, free)
    yield from _of_table(replay, point)
    yield from _changes(replay, point)


def hypotheses_of_each(replay: FollowedRun, point: Point) -> Iterator[Hypothesis]:
    """Yield the known faults of each operation of a part, and of those that are called again."""
    groups: dict[tuple[str, str], list[LayerCall]] = {}
    for call in point.suspects:
        groups.setdefault((call.kind, call.name), []).append(call)
    for found in (_called_again(point.suspects), groups):
        yield from _changes_of(replay, point, found)


def _of_table(
    replay: FollowedRun, point: Point, calls: Sequence[LayerCall] = ()
) -> Iterator[Hypothesis]:
    """Yield the faults of the table that apply to these operations, or to the part as a whole."""
    for fault in FAULTS:
        yield from while_it_fits(fault.hypotheses, replay, point, calls)


def _changes(replay: FollowedRun, point: Point) -> Iterator[Hypothesis]:
    """Yield changes of one operation, or of all operations of a kind in a large part.

    Operations that were computed earlier are changed one by one.
    """
    groups: dict[tuple[str, str], list[LayerCall]] = {}
    alone = not is_large(point)
    again = _called_again(point.suspects) if alone else {}
    for call in point.suspects:
        groups.setdefault((call.kind, call.name if alone else ""), []).append(call)
        if call.kind in TOGETHER and call.kind not in ROTATIONS and alone:
            groups.setdefault((call.kind, ""), []).append(call)
    for call in point.suspects if alone else ():
        if call.kind in ROTATIONS:  # first those of queries or keys alone
            groups.setdefault((call.kind, ""), []).append(call)
    yield from _changes_of(replay, point, groups)
    yield from _changes_of(replay, point, again)
    for text, changes in eps_of_all((*point.suspects, *point.earlier, *point.norms)):
        yield Hypothesis(text, changes)
    before: dict[tuple[str, str], list[LayerCall]] = {}
    for call in point.earlier:
        before.setdefault((call.kind, call.name), []).append(call)
        if call.kind in TOGETHER:
            before.setdefault((call.kind, ""), []).append(call)
    yield from _changes_of(
        replay, point, {key: x for key, x in before.items() if key not in groups}
    )


def _called_again(suspects: Iterable[LayerCall]) -> dict[tuple[str, str], list[LayerCall]]:
    """Return the operations that a part computes several times, which then share a fault.

    An attention that is computed for the text and for the image has two with one name.
    """
    found: dict[tuple[str, str], list[LayerCall]] = {}
    for call in suspects:
        if call.kind not in TOGETHER:  # which are all changed anyway
            found.setdefault((call.kind, call.name.partition(AGAIN)[0]), []).append(call)
    return {key: calls for key, calls in found.items() if len(calls) > 1}


def _changes_of(
    replay: FollowedRun, point: Point, groups: Mapping[tuple[str, str], list[LayerCall]]
) -> Iterator[Hypothesis]:
    """Yield changes of the operations of each group, by their kind and their name."""
    for (kind, name), calls in groups.items():
        alone = _name_alone(calls[0]) if name else ""
        for hypothesis in _of_operations(replay, point, calls):
            where = f"{alone} in {name}" if name not in ("", point.call.name) else ""
            where = f" in all {OF_KIND.get(kind, kind)}" if not name and len(calls) > 1 else where
            yield replace(hypothesis, text=f"{hypothesis.text}{where}")


def _name_alone(call: LayerCall) -> str:
    """Return in words which of queries and keys a rotation turns, those first; "" for others."""
    if call.kind not in ROTATIONS:
        return ""
    return OF_KEYS if call.name.endswith(f"{AGAIN}1") else OF_QUERIES


def _of_operations(
    replay: FollowedRun, point: Point, calls: Sequence[LayerCall]
) -> Iterator[Hypothesis]:
    """Yield the faults that operations of one kind may have together."""
    yield from together(calls, _of_places(replay, calls[0]))
    yield from _of_table(replay, point, calls)
    yield from together(calls, _of_run(replay, calls[0]))


def _of_places(replay: FollowedRun, call: LayerCall) -> Iterator[Variant]:
    """Yield rotations by positions that a mask tells."""
    mask = replay.arguments.get("mask")
    if call.kind in BY_POSITIONS and isinstance(mask, np.ndarray):
        yield from while_it_fits(other_places, call, mask)


def _of_run(replay: FollowedRun, call: LayerCall) -> Iterator[Variant]:
    """Yield masks of an attention by what the network was called with, and weights of others."""
    mask = replay.arguments.get("mask")
    if call.kind == "attention" and replay.ids is not None:
        yield from while_it_fits(with_padding_mask, call, replay.ids, replay.config)
        if mask is None:
            yield from while_it_fits(with_wrong_padding_mask, call, replay.ids, replay.config)
    if call.kind == "attention" and isinstance(mask, np.ndarray):
        yield from while_it_fits(with_text_mask, call, mask)
        yield from while_it_fits(with_mask, call, mask)
    for name, parameters in replay.similar_layers(call):
        yield Variant(
            f"has the weights of {name}", lambda c, x, p=parameters: c.compute({**x, **p})
        )


def is_small(point: Point) -> bool:
    """Return whether a part is quickly computed again."""
    return np.size(point.computed) <= SMALL


def is_large(point: Point) -> bool:
    """Return whether a part has too many operations to change each alone."""
    return len(point.suspects) > (LARGE_OF_SMALL if is_small(point) else LARGE)


def is_block(point: Point) -> bool:
    """Return whether a large part is a block, whose operations are few enough to change each."""
    return is_large(point) and len(point.suspects) <= MOST_OF_BLOCK
