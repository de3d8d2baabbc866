"""Which declared input of a network a numbered array may be."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ldmref.locate.recorded.argument_names import name_numbered
from ldmref.models.declared import CallSize, NetworkInput
from ldmref.trace import build_trace

N, L = CallSize("batch"), CallSize("tokens")
FLOAT, IDS = np.float32, np.int64


INPUTS = (
    NetworkInput("x", "sample", (N, L, 4)),
    NetworkInput("context", "hidden", (N, L, 4), also=("text", "h")),
    NetworkInput("y", "other", (N, L, 4)),
    NetworkInput("r", "refs", (N, CallSize("references"), 4)),
    NetworkInput("z", "last", (N, L, 4)),
    NetworkInput("i", "ids", (N, L), "ids"),
)


def names(roles, call="net.000", inputs=INPUTS, arrays=None):
    shapes = {role: np.ones((1, 2, 4)) for role in roles} | (arrays or {})
    trace = build_trace({f"{call}//input.{role}": x for role, x in shapes.items()})
    network = SimpleNamespace(name="net", inputs=inputs)
    found = name_numbered(trace, [network]).entries[0].inputs
    assert [*found.values()] == [f"{call}//input.{role}" for role in shapes]
    return [*found]


@pytest.mark.parametrize(
    ("roles", "right"),
    [
        (["0", "1", "2", "3"], ["0", "hidden", "other", "last"]),
        (["0", "1", "2", "3", "4"], ["0", "hidden", "other", "last", "4"]),
        (["0", "3", "10", "2"], ["0", "other", "last", "hidden"]),
        (["hidden", "1"], ["hidden", "other"]),
        (["context", "1"], ["context", "other"]),
        (["text", "1"], ["text", "other"]),
        (["h", "1"], ["h", "other"]),
        (["sample", "1"], ["sample", "hidden"]),
        (["a", "b"], ["a", "b"]),
    ],
)
def test_numbers_name_the_inputs_that_are_left(roles, right):
    assert names(roles) == right


def test_an_array_of_another_size_leaves_its_place_to_others():
    wide = {"1": np.ones((1, 2, 5)), "2": np.ones((1, 2, 4)), "3": np.ones((1, 2), int)}
    assert names([], arrays=wide) == ["1", "hidden", "ids"]


def test_only_whole_calls_of_known_networks_are_named():
    assert names(["1"], call="guide.net.000") == ["hidden"]
    assert names(["1"], call="other.000") == ["1"]
    assert names(["1"], inputs=()) == ["1"]
    tensors = {"net.000/a/input.1": np.ones((1, 2, 4)), "net.000//input.1": np.ones((1, 2, 4))}
    network = SimpleNamespace(name="net", inputs=INPUTS)
    trace = build_trace(tensors)
    found = {entry.layer: [*entry.inputs] for entry in name_numbered(trace, [network]).entries}
    assert found == {"a": ["1"], "": ["hidden"]}


@pytest.mark.parametrize(
    ("content", "shape", "array", "fits"),
    [
        ("timesteps", (N,), np.ones(3), True),
        ("timesteps", (N,), np.ones(()), True),
        ("timesteps", (N,), np.ones((3, 1)), False),
        ("guidance", (N,), np.ones(3, int), True),
        ("normal", (N, L, 6), np.ones((2, 5, 6)), True),
        ("normal", (N, L, 6), np.ones((2, 5, 7)), False),
        ("normal", (N, 5, 6), np.ones((2, 4, 6)), False),
        ("normal", (N, L, 6), np.ones((2, 5, 6), int), False),
        ("mask", (N, L), np.array([[1.0, 0.0]]), True),
        ("mask", (N, L), np.array([[1, 2]]), False),
        ("mask", (N, L), np.array([1, 0]), False),
        ("ids", (N, L), np.array([[1, 2]], np.uint8), True),
        ("ids", (N, L), np.array([[1.0, 2.0]]), False),
        ("labels", (N, L), np.array([[1, 2]]), True),
        ("labels", (N, L), np.array([[1.0, 2.0]]), False),
    ],
)
def test_sizes_and_numbers_of_an_input(content, shape, array, fits):
    inputs = (INPUTS[0], NetworkInput("a", "named", shape, content))
    assert names([], inputs=inputs, arrays={"1": array}) == ["named" if fits else "1"]


@pytest.mark.parametrize("role", ["0", "x", "1a", "10"])
def test_numbers_after_the_first_are_later_arguments(role):
    assert names([role]) == (["hidden"] if role == "10" else [role])
