"""Faults that no table knows: an operation of the definition that reads or does something else.

Of the part that leads to a wrong array, as a graph (`ldmref.locate.replay.graph`), one thing is
changed at a time: an operation is applied after or before another one, or to another array as well;
tokens are taken from the other end; an operation reads another array of the same shape; two parts
of an array are exchanged; or a term or factor is missing. What is elsewhere is tried before what is
missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from ldmref.locate.causes.alike import without_numbers
from ldmref.locate.faults.words import (
    ACTIVATION,
    GATE,
    NORM,
    NOUNS,
    PRODUCT,
    SCALE,
    Applied,
    Edge,
    Words,
    adds_one,
    matters,
)
from ldmref.locate.replay.graph import (
    INPUT,
    RECORDED,
    NewValue,
    NotedOperation,
    PartGraph,
    Read,
    shape_of,
)
from ldmref.locate.replay.points import FollowedRun, Point

ORDERS = {  # what is said of the other operation
    "the product is applied before the activation": "the activation is applied after the product",
}
NEAREST = 48  # operations before an array whose inputs are changed
MOST = 1000  # hypotheses of a part
MOST_NUMBERS = 2**18  # of an array of a part that is tried


@dataclass(frozen=True)
class Rewiring:
    """A change of a graph.

    Attributes:
        words: The change, without names of layers.
        where: The rest of the sentence.
        results: By the numbers of operations, what they return instead.
        inputs: By the numbers of operations and the places of their inputs, what they read.
    """

    words: str
    where: str
    results: Mapping[int, NewValue] = field(default_factory=dict)
    inputs: Mapping[Edge, NewValue] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The change in words."""
        return f"{self.words}{self.where}"


def rewirings(
    replay: FollowedRun, point: Point, wanted: str = ""
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what a part computes with one change of what its operations read or do, in words.

    Args:
        replay: The replay that computed the point.
        point: The array that is wrong.
        wanted: The change in words without numbers. "": any.
    """
    if np.size(point.computed) > MOST_NUMBERS or np.asarray(point.computed).dtype.kind != "f":
        return
    graph = replay.graph_of(point)
    if graph is None:
        return
    words = Words(graph, point, replay)
    tried = 0
    for find in (_elsewhere, _other_tokens, _other_inputs, _exchanged, _missing):
        for change in _joined(find(graph, words)):
            if wanted and without_numbers(change.text) != wanted:
                continue
            tried += 1
            if tried > MOST:
                return
            try:
                with np.errstate(all="ignore"):
                    found = graph.evaluate(change.results, change.inputs)
            except (ValueError, IndexError, KeyError, TypeError, ZeroDivisionError):
                continue
            if np.shape(found) == np.shape(point.computed):
                yield change.text, point.kept(np.asarray(found, np.float64))


def _joined(found: Iterator[Rewiring]) -> Iterator[Rewiring]:
    """Yield changes that have the same words together, as of queries and keys, then each alone."""
    groups: dict[str, list[Rewiring]] = {}
    for one in found:
        groups.setdefault(one.words, []).append(one)
    for words, alike in groups.items():
        changed = [key for one in alike for key in (*one.results, *one.inputs)]
        if len(alike) > 1 and len(changed) == len({*changed}):
            results = {key: rule for one in alike for key, rule in one.results.items()}
            inputs = {key: rule for one in alike for key, rule in one.inputs.items()}
            where = dict.fromkeys(one.where for one in alike)
            together = " and ".join(x.removeprefix(": ") for x in where)
            yield Rewiring(words, f": {together}", results, inputs)
    for alike in groups.values():
        yield from alike


# -- elsewhere ------------------------------------------------------------------------------------


def _elsewhere(graph: PartGraph, words: Words) -> Iterator[Rewiring]:
    """Yield operations that are applied after or before another one, or to another array."""
    edges = [*_edges(graph)]
    moved, more = [], []
    for one in _applicable(graph):
        for edge in edges:
            consumer, place = edge
            source = graph.operations[consumer].inputs[place]
            if one.number in (source, consumer) or (one.number > source and consumer == one.number):
                continue
            if not _fits(graph, one, source) or _is_there(graph, one, source):
                continue
            rule = _applied(one, source)
            after = one.number in graph.before(source)
            if after and not graph.operations[one.number].fixed:
                where = words.between(one, source)
                text = f"the {one.noun} is applied after {where}"
                moved.append(Rewiring(text, words.name_of(one), {one.number: _skip(one)},
                                      {edge: rule}))  # fmt: skip
            elif consumer in graph.before(one.source):
                text = f"the {one.noun} is applied before {words.consumer(consumer)}"
                at = words.name_of(one)
                moved.append(Rewiring(text, at, {one.number: _skip(one)}, {edge: rule}))
            more.append(Rewiring(*words.also(one, edge, after), {}, {edge: rule}))
    for one in (*moved, *more):
        yield replace(one, words=ORDERS.get(one.words, one.words))


def _applicable(graph: PartGraph) -> Iterator[Applied]:
    for number, operation in enumerate(graph.operations):
        if operation.kind in NOUNS and operation.is_layer and operation.inputs:
            rest = operation.inputs[1:]
            yield Applied(
                NOUNS[operation.kind], number, operation.inputs[0],
                lambda read, x, o=operation, r=rest: o.compute([x, *map(read, r)]),
            )  # fmt: skip
        elif operation.kind == "multiply" and len(operation.inputs) == 2:
            for place in (0, 1):
                x, other = operation.inputs[place], operation.inputs[1 - place]
                if graph.shape(x) == shape_of(operation.value):
                    noun = _noun_of_factor(graph, number, other)
                    rule = lambda read, x, i=other: x * read(i)  # noqa: E731
                    yield Applied(noun, number, x, rule, other)
        elif operation.kind == "concatenate":
            found = _product_of_rows(graph, number)
            if found is not None:
                yield found


def _product_of_rows(graph: PartGraph, number: int) -> Applied | None:
    """Return a product whose factor is one for some tokens and another one for the others.

    That is joined tokens, of which each part is cut out of one array and multiplied.
    """
    joined = graph.operations[number]
    products = [graph.operations[i] for i in joined.inputs]
    if any(x.kind != "multiply" or len(x.inputs) != 2 for x in products):
        return None
    cuts = [graph.operations[x.inputs[0]] for x in products]
    factors = [x.inputs[1] for x in products]
    source = cuts[0].inputs[0] if cuts and cuts[0].inputs else number
    if any(cut.kind != "getitem" or cut.inputs != (source,) for cut in cuts):
        return None
    if graph.shape(source) != shape_of(joined.value):
        return None

    def apply(read: Read, x: np.ndarray) -> np.ndarray:
        parts = zip(cuts, factors, strict=True)
        return joined.compute([cut.compute([x]) * read(factor) for cut, factor in parts])

    noun = _noun_of_factor(graph, joined.inputs[-1], factors[-1])
    return Applied(noun, number, source, apply, factors[-1])


def _noun_of_factor(graph: PartGraph, number: int, factor: int) -> str:
    """Return what a factor of a product is: a scale, a gate, or half of a feed-forward layer."""
    if adds_one(graph, factor):
        return SCALE
    kinds = {graph.operations[i].kind for i in graph.operations[number].inputs}
    return PRODUCT if any(NOUNS.get(kind) == ACTIVATION for kind in kinds) else GATE


def _skip(one: Applied) -> NewValue:
    return lambda read: read(one.source)


def _applied(one: Applied, source: int) -> NewValue:
    return lambda read: one.apply(read, read(source))


def _fits(graph: PartGraph, one: Applied, source: int) -> bool:
    """Return whether an operation may be applied to an array, which keeps its shape."""
    x, usual = graph.value(source), graph.value(one.source)
    if shape_of(x)[1:] == () or len(shape_of(x)) != len(shape_of(usual)) or x.ndim < 3:
        return False
    return x.shape[-2:] == usual.shape[-2:] and x.shape[0] == usual.shape[0]


def _is_there(graph: PartGraph, one: Applied, source: int) -> bool:
    """Return whether the definition applies the same to an array: then that is read, not moved.

    Norms without weights are the same for all layers.
    """
    kind = graph.operations[one.number].kind
    if one.source == source:
        return True
    if graph.shape(one.source) != graph.shape(source):
        return False
    for reader, place in graph.readers.get(source, ()):
        other = graph.operations[reader]
        if place == 0 and other.kind == kind and NOUNS.get(kind) == NORM:
            found = one.apply(graph.value, graph.value(source))
            return np.allclose(found, other.value, rtol=0.0, atol=1e-3 * np.max(np.abs(found)))
    return False


def _edges(graph: PartGraph) -> Iterator[Edge]:
    """Yield the inputs of the operations nearest before the target, the nearest first."""
    assert graph.target is not None
    left, seen, count = [graph.target], {graph.target}, 0
    for number in left:
        operation = graph.operations[number]
        if operation.fixed:
            continue
        if matters(operation) or _cuts_sum(graph, operation) or _cuts_heads(graph, number):
            count += 1
            if count > NEAREST:
                return
            yield from ((number, place) for place in range(len(operation.inputs)))
        for i in operation.inputs:
            if i not in seen:
                seen.add(i)
                left.append(i)


def _cuts_sum(graph: PartGraph, operation: NotedOperation) -> bool:
    """Return whether an operation takes tokens of a sum, which may have been changed before."""
    if operation.kind != "getitem" or graph.operations[operation.inputs[0]].kind != "add":
        return False
    return len(shape_of(operation.value)) == 3 == len(graph.shape(operation.inputs[0]))


def _cuts_heads(graph: PartGraph, number: int) -> bool:
    """Return whether an operation takes tokens that an attention reads, such as those of text."""
    operation = graph.operations[number]
    if operation.kind != "getitem" or len(shape_of(operation.value)) != 4:
        return False
    readers = graph.readers.get(number, ())
    return any(graph.operations[reader].kind == "attention" for reader, _ in readers)


# -- other arrays ---------------------------------------------------------------------------------


def _other_tokens(graph: PartGraph, words: Words) -> Iterator[Rewiring]:
    """Yield tokens that are taken from the other end of a sequence."""
    for number in reversed(graph.cone):
        operation = graph.operations[number]
        if operation.kind != "getitem" or not operation.constants:
            continue
        (source,) = operation.inputs
        whole, part = graph.value(source), operation.value
        key = operation.constants[0]
        axis = whole.ndim - 2
        same = isinstance(key, tuple) and part.ndim == whole.ndim > 2 and len(key) > axis
        if not same or whole.shape[axis] <= part.shape[axis] or not isinstance(key[axis], slice):
            continue
        count, size = part.shape[axis], whole.shape[axis]
        front = (key[axis].start or 0) == 0
        begin, end, other = ("first", "last", "front") if not front else ("last", "first", "end")
        other_key = slice(0, count) if not front else slice(size - count, size)
        changed = (*key[:axis], other_key, *key[axis + 1 :])
        text = f"{words.tokens(count)} is taken from the {other} of the sequence"
        yield Rewiring(
            text, f": the {begin} tokens instead of the {end} ones",
            {number: lambda read, i=source, k=changed: read(i)[k]},
        )  # fmt: skip


def _other_inputs(graph: PartGraph, words: Words) -> Iterator[Rewiring]:
    """Yield operations that read another array of the same shape."""
    candidates = [i for i in range(len(graph.operations) - 1) if _is_array(graph, i)]
    for edge in _edges(graph):
        consumer, place = edge
        old = graph.operations[consumer].inputs[place]
        right = graph.value(old)
        if not isinstance(right, np.ndarray):
            continue
        below = _after(graph, consumer)
        for new in candidates:
            x = graph.value(new)
            if new == old or x.shape != right.shape or new in below or np.array_equal(x, right):
                continue
            if _is_product_of(graph, old, new):
                continue  # a factor is missing
            if words.describe(new) == words.describe(old):
                continue  # no words tell them apart
            text, where = words.reads(consumer, old, new)
            yield Rewiring(text, where, {}, {edge: lambda read, i=new: read(i)})


def _is_product_of(graph: PartGraph, number: int, factor: int) -> bool:
    operation = graph.operations[number]
    if operation.kind == "multiply":
        return factor in operation.inputs
    rows = _product_of_rows(graph, number) if operation.kind == "concatenate" else None
    return rows is not None and rows.source == factor


def _is_array(graph: PartGraph, number: int) -> bool:
    operation = graph.operations[number]
    kinds = ("add", "multiply", "concatenate", "getitem", "part", INPUT, RECORDED)
    known = operation.is_layer or operation.kind in kinds or number in graph.ends
    return known and isinstance(operation.value, np.ndarray) and operation.value.ndim > 1


def _after(graph: PartGraph, number: int) -> set[int]:
    """Return the operations that read the result of one, and it."""
    found = {number}
    for later in range(number + 1, len(graph.operations)):
        operation = graph.operations[later]
        if not operation.fixed and not found.isdisjoint(operation.inputs):
            found.add(later)
    return found


def _exchanged(graph: PartGraph, words: Words) -> Iterator[Rewiring]:
    """Yield parts of one array that are exchanged, such as a scale and a shift."""
    alike: dict[tuple[object, ...], list[int]] = {}
    for number in graph.cone:
        operation = graph.operations[number]
        if operation.kind in ("getitem", "part", "add", "linear") and len(operation.inputs) == 1:
            shape = shape_of(operation.value)
            alike.setdefault((operation.inputs, operation.kind, shape), []).append(number)
    for (inputs, *_), numbers in alike.items():
        (source,) = inputs if isinstance(inputs, tuple) else (0,)
        for i, j in combinations(numbers, 2):
            results = {
                i: lambda read, o=graph.operations[j], s=source: o.compute([read(s)]),
                j: lambda read, o=graph.operations[i], s=source: o.compute([read(s)]),
            }
            text = f"{words.describe(i)} and {words.describe(j)} are exchanged"
            yield Rewiring(text, "", results)


def _missing(graph: PartGraph, words: Words) -> Iterator[Rewiring]:
    """Yield sums without one of their terms, and products without a factor."""
    for number in reversed(graph.cone):
        operation = graph.operations[number]
        rows = _product_of_rows(graph, number) if operation.kind == "concatenate" else None
        if rows is not None:
            yield Rewiring(
                f"the {rows.noun} is missing", words.name_of(rows), {number: _skip(rows)}
            )
        if operation.kind not in ("add", "multiply") or len(operation.inputs) != 2:
            continue
        for place in (0, 1):
            kept, left_out = operation.inputs[place], operation.inputs[1 - place]
            if graph.shape(kept) != shape_of(operation.value):
                continue
            rule = {number: lambda read, i=kept: read(i)}
            if operation.kind == "add":
                yield Rewiring(*words.without_term(number, left_out), rule)
            else:
                noun = _noun_of_factor(graph, number, left_out)
                where = f": {words.describe(kept)} is not multiplied by {words.describe(left_out)}"
                yield Rewiring(f"the {noun} is missing", where, rule)
