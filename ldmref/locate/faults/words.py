"""What is said of the operations of a definition, of which one is elsewhere or reads another array.

An operation has no words of its own: its name is that of the layer around it, and what it is for
follows from what it reads and what reads it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ldmref.locate.replay.graph import (
    INPUT,
    READER,
    RECORDED,
    NotedOperation,
    PartGraph,
    Read,
    shape_of,
)
from ldmref.locate.replay.points import FollowedRun, Point

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
DEEPEST = 4  # operations that are followed to describe an array
Edge = tuple[int, int]


@dataclass(frozen=True)
class Applied:
    """An operation that may be applied elsewhere.

    Attributes:
        noun: What it is in words.
        number: Its number.
        source: The number of the array to which it is applied.
        apply: Applies it to another array.
        factor: The number of what it multiplies by. None: it is no product.
    """

    noun: str
    number: int
    source: int
    apply: Callable[[Read, np.ndarray], np.ndarray]
    factor: int | None = None


def adds_one(graph: PartGraph, number: int) -> bool:
    """Return whether an operation adds 1, as to a scale."""
    operation = graph.operations[number]
    ones = [x for x in operation.constants if isinstance(x, (int, float)) and x == 1.0]
    return operation.kind == "add" and bool(ones)


def matters(operation: NotedOperation) -> bool:
    """Return whether an operation is one whose input may be another array, and no mere view."""
    kinds = ("add", "multiply", "subtract", "concatenate", "where", READER)
    return operation.is_layer or operation.kind in kinds


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
        if adds_one(self.graph, number):
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
                if adds_one(self.graph, reader):
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
        return "" if one.factor is None else f": {self.describe(one.factor)}"

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
            scale = any(adds_one(self.graph, i) for i in operation.inputs)
            return f"the {SCALE if scale else GATE}"
        if operation.kind == "add":
            return "the sum" if self.is_sum(number) else "the shift"
        return f"{operation.kind} in {operation.name or self.frame}"

    def between(self, one: Applied, source: int) -> str:
        """Return the last operation between one and an array that follows from it, in words."""
        number = source
        while not matters(self.graph.operations[number]) and self.graph.operations[number].inputs:
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
        elif kind in ("concatenate", "getitem") and (found := self.attended_as(consumer)):
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
        """Return as which input an attention reads joined or cut arrays; "": it does not."""
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
        of_sum = self.is_sum(consumer) and self.is_residual(consumer, old)
        if operation.kind == READER and operation.constants == ("add", "input"):
            of_sum = True  # the stream is the first term of a sum
        if not (branch or of_norm) and of_sum:
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
