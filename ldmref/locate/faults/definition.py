"""Faults that no table knows: an operation of the definition that reads or does something else.

Of the part that leads to a wrong array, as a graph (`ldmref.locate.graph`), one thing is changed at
a time: an operation is applied after or before another one, or to another array as well; tokens are
taken from the other end; an operation reads another array of the same shape; two parts of an array
are exchanged; or a term or factor is missing. What is elsewhere is tried before what is missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np

from ldmref.locate.alike import without_numbers
from ldmref.locate.graph import (
    INPUT,
    READER,
    RECORDED,
    NewValue,
    NotedOperation,
    PartGraph,
    Read,
    shape_of,
)
from ldmref.locate.points import FollowedRun, Point

ROTATION, NORM, ACTIVATION = "rotation", "norm", "activation"
GATE, SCALE, PRODUCT = "gate", "scale", "product"
NOUNS = {
    **dict.fromkeys(("rotate", "rotate_halves", "turn_pairs"), ROTATION),
    **dict.fromkeys(
        ("layer_norm", "group_norm", "divide_by_rms", "divide_by_deviation"), NORM
    ),
    **dict.fromkeys(
        ("silu", "gelu", "quick_gelu", "tanh_gelu", "sigmoid", "relu"), ACTIVATION
    ),
}  # fmt: skip
PARTICIPLES = {ROTATION: "rotated", NORM: "normalized", ACTIVATION: "activated", GATE: "gated",
               SCALE: "scaled"}  # fmt: skip
SLOTS = {"input": "queries", "q": "queries", "k": "keys", "v": "values"}  # of an attention
PRODUCTS = ("linear", "conv2d", "grouped_conv2d")
ATTENTION = re.compile(r"(^|[._])(attn|attention)\d*([._]|$)")
MLP = re.compile(r"(^|[._])(ff|ffn|mlp|feed_forward)\d*([._]|$)")
OUTPUT = re.compile(r"\.(to_out(\.0)?|to_add_out|proj_out|wo)$")
ORDERS = {  # what is said of the other operation
    "the product is applied before the activation": "the activation is applied after the product",
}
NEAREST = 48  # operations before an array whose inputs are changed
MOST = 1000  # hypotheses of a part
MOST_NUMBERS = 2**18  # of an array of a part that is tried
DEEPEST = 4  # operations that are followed to describe an array
Edge = tuple[int, int]


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


@dataclass(frozen=True)
class Applied:
    """An operation that may be applied elsewhere: its name in words, its number and input."""

    noun: str
    number: int
    place: int
    apply: Callable[[Read, np.ndarray], np.ndarray]


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
            if not _fits(graph, one, source):
                continue
            rule = _applied(one, source)
            after = one.number in graph.before(source)
            if after and not graph.operations[one.number].fixed:
                where = words.between(one, source)
                text = f"the {one.noun} is applied after {where}"
                moved.append(Rewiring(text, words.name_of(one), {one.number: _skip(graph, one)},
                                      {edge: rule}))  # fmt: skip
            elif consumer in graph.before(graph.operations[one.number].inputs[one.place]):
                text = f"the {one.noun} is applied before {words.consumer(consumer)}"
                at = words.name_of(one)
                moved.append(Rewiring(text, at, {one.number: _skip(graph, one)}, {edge: rule}))
            more.append(Rewiring(*words.also(one, edge, after), {}, {edge: rule}))
    for one in (*moved, *more):
        yield replace(one, words=ORDERS.get(one.words, one.words))


def _applicable(graph: PartGraph) -> Iterator[Applied]:
    for number, operation in enumerate(graph.operations):
        if operation.kind in NOUNS and operation.is_layer and operation.inputs:
            rest = operation.inputs[1:]
            yield Applied(
                NOUNS[operation.kind], number, 0,
                lambda read, x, o=operation, r=rest: o.compute([x, *map(read, r)]),
            )  # fmt: skip
        elif operation.kind == "multiply" and len(operation.inputs) == 2:
            for place in (0, 1):
                x, other = operation.inputs[place], operation.inputs[1 - place]
                if graph.shape(x) == shape_of(operation.value):
                    noun = _noun_of_factor(graph, number, other)
                    yield Applied(noun, number, place, lambda read, x, i=other: x * read(i))


def _adds_one(graph: PartGraph, number: int) -> bool:
    operation = graph.operations[number]
    ones = [x for x in operation.constants if isinstance(x, (int, float)) and x == 1.0]
    return operation.kind == "add" and bool(ones)


def _noun_of_factor(graph: PartGraph, number: int, factor: int) -> str:
    """Return what a factor of a product is: a scale, a gate, or half of a feed-forward layer."""
    if _adds_one(graph, factor):
        return SCALE
    kinds = {graph.operations[i].kind for i in graph.operations[number].inputs}
    return PRODUCT if any(NOUNS.get(kind) == ACTIVATION for kind in kinds) else GATE


def _skip(graph: PartGraph, one: Applied) -> NewValue:
    source = graph.operations[one.number].inputs[one.place]
    return lambda read: read(source)


def _applied(one: Applied, source: int) -> NewValue:
    return lambda read: one.apply(read, read(source))


def _fits(graph: PartGraph, one: Applied, source: int) -> bool:
    """Return whether an operation may be applied to an array, which keeps its shape."""
    x, usual = graph.value(source), graph.value(graph.operations[one.number].inputs[one.place])
    if shape_of(x)[1:] == () or len(shape_of(x)) != len(shape_of(usual)) or x.ndim < 3:
        return False
    return x.shape[-2:] == usual.shape[-2:] and x.shape[0] == usual.shape[0]


def _edges(graph: PartGraph) -> Iterator[Edge]:
    """Yield the inputs of the operations nearest before the target, the nearest first."""
    assert graph.target is not None
    left, seen, count = [graph.target], {graph.target}, 0
    for number in left:
        operation = graph.operations[number]
        if operation.fixed:
            continue
        if _matters(operation) or _cuts_sum(graph, operation):
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


def _matters(operation: NotedOperation) -> bool:
    kinds = ("add", "multiply", "subtract", "concatenate", "where", READER)
    return operation.is_layer or operation.kind in kinds


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
            if graph.operations[old].kind == "multiply" and new in graph.operations[old].inputs:
                continue  # a factor is missing
            if words.describe(new) == words.describe(old):
                continue  # no words tell them apart
            text, where = words.reads(consumer, old, new)
            yield Rewiring(text, where, {}, {edge: lambda read, i=new: read(i)})


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


# -- words ----------------------------------------------------------------------------------------


class Words:
    """The operations of a graph in words."""

    def __init__(self, graph: PartGraph, point: Point, replay: FollowedRun):
        self.graph = graph
        self.frame = point.frame.name or "the network"
        context: Any = replay.arguments.get("context")
        known = isinstance(context, np.ndarray) and context.ndim == 3
        self.text = context.shape[1] if known else 0

    def tokens(self, count: int) -> str:
        """Return whose tokens there are as many of."""
        return "the text" if count == self.text else "the image"

    def describe(self, number: int, depth: int = 0) -> str:
        """Return which array an operation returns."""
        operation = self.graph.operations[number]
        if _adds_one(self.graph, number):
            return f"the scale of {self.noun_after(number)}"
        role = self.role_of(number)
        if role:
            return role
        if number in self.graph.ends:
            return f"the output of {self.graph.ends[number][-1]}"
        if operation.kind == INPUT:
            return f"the input of {self.frame} ({operation.name})"
        if operation.is_layer:
            return f"the output of {operation.name}"
        if operation.kind == RECORDED:
            return f"the output of {operation.name}" if operation.inputs else "what was recorded"
        if not operation.inputs or depth > DEEPEST:
            return f"an array of {operation.name or self.frame}"
        first = operation.inputs[0]
        if operation.kind in ("getitem", "part"):
            return f"a part of {self.describe(first, depth + 1)}"
        if self.is_sum(number):
            return f"the stream after {self.noun_before(operation.inputs[1])}"
        wide = [i for i in operation.inputs if self.graph.shape(i) == shape_of(operation.value)]
        if len(operation.inputs) == 1 or len(wide) == 1:
            return self.describe(wide[0] if wide else first, depth + 1)
        return f"the result of {operation.kind} in {operation.name or self.frame}"

    def is_sum(self, number: int) -> bool:
        """Return whether an operation adds two arrays of one shape."""
        operation = self.graph.operations[number]
        shapes = {self.graph.shape(i) for i in operation.inputs}
        return operation.kind == "add" and len(operation.inputs) == 2 and len(shapes) == 1

    def role_of(self, number: int) -> str:
        """Return which part of a modulation an array (n, 1, d) is; "": none."""
        x = self.graph.value(number)
        if not isinstance(x, np.ndarray) or x.ndim != 3 or x.shape[1] != 1:
            return ""
        left, seen = [number], set()
        for i in left:
            for reader, place in self.graph.readers.get(i, ()):
                operation = self.graph.operations[reader]
                if reader in seen or operation.kind in ("getitem", "part"):
                    continue
                seen.add(reader)
                if _adds_one(self.graph, reader):
                    return f"the scale of {self.noun_after(reader)}"
                if len(operation.inputs) == 2 and shape_of(operation.value)[1:2] > (1,):
                    if operation.kind == "multiply":
                        other = operation.inputs[1 - place]
                        return f"the gate of {self.noun_before(other)}"
                    if operation.kind == "add":
                        return f"the shift of {self.noun_after(reader)}"
                if shape_of(operation.value) == x.shape:
                    left.append(reader)
        return ""

    def noun_before(self, number: int) -> str:
        """Return the layer that leads to an array, in words."""
        names = []
        left, seen = [number], {number}
        for i in left:
            operation = self.graph.operations[i]
            names += self.graph.ends.get(i, [])
            if operation.is_layer or operation.kind == RECORDED:
                names.append(operation.name)
            if names:
                return _noun(names[-1])
            shapes = [self.graph.shape(j) for j in operation.inputs]
            for j, shape in zip(operation.inputs, shapes, strict=True):
                factor = operation.kind == "multiply" and shape != shape_of(operation.value)
                if j not in seen and not factor:
                    seen.add(j)
                    left.append(j)
        return self.frame

    def noun_after(self, number: int) -> str:
        """Return the layer that reads an array next, in words."""
        left, seen = [number], {number}
        for i in left:
            for reader, _ in self.graph.readers.get(i, ()):
                operation = self.graph.operations[reader]
                layer = operation.is_layer and operation.kind in (*PRODUCTS, "attention")
                if layer or operation.kind == RECORDED:
                    return _noun(operation.name)
                if reader not in seen:
                    seen.add(reader)
                    left.append(reader)
        reader = self.graph.operations[-1]
        return _noun(reader.name) if reader.name else "the output"

    def name_of(self, one: Applied) -> str:
        """Return the layer of an operation, or what is multiplied."""
        operation = self.graph.operations[one.number]
        if operation.is_layer:
            return f": {operation.name}"
        return f": {self.describe(operation.inputs[1 - one.place])}"

    def consumer(self, number: int) -> str:
        """Return what reads an array, in words."""
        operation = self.graph.operations[number]
        if operation.kind in NOUNS:
            return f"the {NOUNS[operation.kind]}"
        if operation.kind == "attention":
            return "the attention"
        if operation.kind in PRODUCTS:
            return "the output projection" if OUTPUT.search(operation.name) else "the projection"
        if operation.kind == READER:
            kind, role = operation.constants
            return (f"the {NOUNS[kind]}" if role and kind in NOUNS else operation.name) or "the end"
        if operation.kind == "multiply":
            scale = any(_adds_one(self.graph, i) for i in operation.inputs)
            return f"the {SCALE if scale else GATE}"
        if operation.kind == "add":
            return "the sum" if self.is_sum(number) else "the shift"
        return f"{operation.kind} in {operation.name or self.frame}"

    def between(self, one: Applied, source: int) -> str:
        """Return the last operation between one and an array that follows from it, in words."""
        number = source
        while not _matters(self.graph.operations[number]) and self.graph.operations[number].inputs:
            number = self.graph.operations[number].inputs[0]
        operation = self.graph.operations[number]
        if operation.kind == "multiply" and operation.name and not operation.is_layer:
            shapes = {self.graph.shape(i) for i in operation.inputs}
            return "the product" if len(shapes) == 1 else self.consumer(number)
        return self.consumer(number)

    def also(self, one: Applied, edge: Edge, after: bool) -> tuple[str, str]:
        """Return that an operation is applied to an array to which it should not be."""
        consumer, place = edge
        operation = self.graph.operations[consumer]
        name = self.name_of(one)
        kind, role = operation.kind, ""
        if kind == READER:
            kind, role = operation.constants
            if not role:
                where = self.between(one, operation.inputs[place])
                return f"the {one.noun} is applied after {where}", name
        elif kind == "attention":
            role = operation.constants[place]
        elif kind == "concatenate" and (found := self.attended_as(consumer)):
            kind, role = "attention", found
        if kind == "attention":
            return f"the {SLOTS.get(role, role)} are {PARTICIPLES[one.noun]} too", name
        if operation.kind == READER and kind in NOUNS:
            return (
                f"the {one.noun} is applied before the {NOUNS[kind]}",
                f"{name}, {operation.name}",
            )
        return f"the {one.noun} is applied before {self.consumer(consumer)} too", name

    def attended_as(self, number: int) -> str:
        """Return as which input an attention reads joined arrays; "": it does not read them."""
        readers = self.graph.readers.get(number, ())
        for reader, place in readers:
            operation = self.graph.operations[reader]
            if operation.kind == "attention":
                return operation.constants[place]
        return ""

    def reads(self, consumer: int, old: int, new: int) -> tuple[str, str]:
        """Return that an operation reads another array."""
        operation = self.graph.operations[consumer]
        where = f"{self.describe(new)} instead of {self.describe(old)}"
        branch = self.is_sum(old) and new == self.graph.operations[old].inputs[1]
        first = self.is_sum(old) and new == self.graph.operations[old].inputs[0]
        kind, role = self.graph.operations[-1].constants
        of_norm = first and role != "" and NOUNS.get(kind) == NORM
        if not (branch or of_norm) and self.is_sum(consumer) and self.is_residual(consumer, old):
            return f"the residual is {where}", ""
        if branch:
            return self.without_term(old, self.graph.operations[old].inputs[0])
        name = operation.name if operation.is_layer else ""
        reader = name or f"{self.consumer(consumer)} in {operation.name or self.frame}"
        reader = operation.name or "the output" if operation.kind == READER else reader
        if first:
            term = self.noun_before(self.graph.operations[old].inputs[1])
            at = old if operation.kind == READER else consumer
            text = f"{self.noun_after(at)} reads the stream without {term}"
            return text, f": {reader} reads {where}"
        return f"{reader} reads {where}", ""

    def is_residual(self, number: int, term: int) -> bool:
        """Return whether a term of a sum is the stream to which the other one is added."""
        inputs = self.graph.operations[number].inputs
        others = [i for i in inputs if i != term]
        return (bool(others) and term in self.graph.before(others[0])) or inputs[0] == term

    def without_term(self, number: int, term: int) -> tuple[str, str]:
        """Return that a term of a sum is missing."""
        if self.is_sum(number) and self.is_residual(number, term):
            return "the residual is missing", f": {self.describe(term)}"
        role = self.role_of(term)
        return f"{role or self.describe(term)} is not added", ""


def _noun(name: str) -> str:
    """Return a layer in words if it is an attention or an MLP, and its name if not.

    >>> _noun("blocks.0.attn.to_out.0"), _noun("layers.1.feed_forward"), _noun("conv_in")
    ('the attention', 'the MLP', 'conv_in')
    """
    if MLP.search(name):
        return "the MLP"
    return "the attention" if ATTENTION.search(name) else name
