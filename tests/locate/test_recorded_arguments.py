"""Arguments of recorded calls: sizes that follow from layers, and residuals of ControlNets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from ldmref.locate.recorded.arguments import RecordedArguments
from ldmref.trace import build_trace

CALL = "unet.000"


def arguments_of(*layers, model=None, call=CALL, assume=False):
    """Return the arguments of a call of (layer, inputs, outputs), arrays by role."""
    tensors, entries = {}, []
    for number, (layer, inputs, outputs) in enumerate(layers):
        sides = []
        for side in (inputs, outputs):
            names = {role: f"{number}.{role}.{len(sides)}" for role in side}
            tensors |= {names[role]: np.asarray(x) for role, x in side.items()}
            sides.append(names)
        entries.append({"call": CALL, "layer": layer, "inputs": sides[0], "outputs": sides[1]})
    return RecordedArguments(build_trace(tensors, {"entries": entries}), call, model, assume)


def zeros(*shape):
    return np.zeros(shape)


# -- names ----------------------------------------------------------------------------------------


def test_the_first_of_several_names_is_read():
    found = arguments_of(("", {"a": [1, 2], "b": [3.0]}, {}))
    assert found.read("x", "b", "a").tolist() == [3.0]
    assert found.read("a").dtype == np.float64 and found.read("x") is None and found.read() is None
    assert found.complete and found.call == CALL
    assert arguments_of(("", {"a": [1.0]}, {}), call="unet.001").read("a") is None
    assumed = arguments_of(("", {"a": [1.0]}, {}), assume=True)
    assert assumed.read("a") is None and assumed.port.entries == ()
    missing = found.missing((2, 1))
    assert missing.shape == (2, 1) and np.isnan(missing).all() and not found.complete


def test_the_first_layer_with_an_ending_and_the_role_is_read():
    found = arguments_of(
        ("a.q", {"other": [1.0]}, {}),
        ("b.q", {"input": [2.0], "other": [5.0]}, {}),
        ("c.q", {"input": [3.0]}, {"output": [4.0]}),
    )
    assert found.layer_input("q").tolist() == [2.0]
    assert found.layer_input("q", "other").tolist() == [1.0]
    assert found.layer_input("c.q").tolist() == [3.0] and found.layer_input("r") is None
    assert found.layer_output("c.q").tolist() == [4.0]
    assert found.layer_output("q") is None is found.layer_output("b.q")


# -- sizes ----------------------------------------------------------------------------------------

TABLE = "x.relative_attention_bias"


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([("a", {"input": zeros(2, 5)}, {"output": zeros(3, 6, 4)})], (3, 6)),
        ([("a", {"input": zeros(2, 5, 7)}, {"output": zeros(3, 6, 4)})], (2, 5)),
        ([("a", {"input": zeros(2, 3, 5, 7)}, {})], (2, 5)),
        ([("a", {"input": zeros(2, 3, 5, 7, 9)}, {})], None),
        ([(TABLE, {"input": zeros(8, 5)}, {})], (1, 5)),
        ([(TABLE, {"input": zeros(5)}, {})], None),
        ([(TABLE, {"input": zeros(4, 5)}, {"output": zeros(6, 7, 2)})], (1, 7)),
        ([(TABLE, {}, {"output": zeros(6, 7, 2)}), ("z", {"i": zeros(2, 3, 4)}, {})], (2, 3)),
        ([("z", {"i": zeros(2, 3, 4)}, {}), (TABLE, {}, {"output": zeros(6, 7, 2)})], (2, 3)),
        ([], None),
    ],
)
def test_texts_and_tokens_of_the_first_layer_that_tells_them(layers, expected):
    assert arguments_of(*layers).text_shape() == expected


def test_the_number_of_tokens_is_that_of_outputs_of_three_axes():
    found = arguments_of(
        ("a.k", {"input": zeros(1, 9, 2)}, {}),
        ("b.k", {}, {"output": zeros(1, 8)}),
        ("c.k", {}, {"output": zeros(1, 7, 2)}),
        ("d.v", {}, {"output": zeros(1, 6, 2)}),
    )
    assert found.length("k") == 7 and found.length("v") == 6 and found.length("v", "k") == 7
    assert found.length("a.k") == found.length("b.k") == found.length("z") == 1


LATENTS = [
    ([("conv_in", {"input": zeros(2, 4, 6, 8)}, {"output": zeros(1, 1, 1, 1)})], 3, (2, 6, 8)),
    ([("conv_in", {}, {"output": zeros(2, 4, 6, 8)})], 3, (2, 6, 8)),
    ([("down_blocks.2.resnets.0", {"input": zeros(2, 4, 3, 2)}, {})], 3, (2, 12, 8)),
    ([("down_blocks.1.downsamplers.0", {"input": zeros(1, 4, 3, 2)}, {})], 3, (1, 6, 4)),
    ([("down_blocks.1.downsamplers.0", {}, {"output": zeros(1, 4, 3, 2)})], 3, (1, 12, 8)),
    ([("down_blocks.1.downsamplers.0.conv", {}, {"output": zeros(1, 4, 3, 2)})], 3, (1, 12, 8)),
    ([("up_blocks.0.upsamplers.0", {"input": zeros(1, 4, 3, 2)}, {})], 3, (1, 12, 8)),
    ([("up_blocks.0.upsamplers.0", {}, {"output": zeros(1, 4, 6, 4)})], 3, (1, 12, 8)),
    ([("up_blocks.0.upsamplers.0.conv", {}, {"output": zeros(1, 4, 6, 4)})], 3, (1, 12, 8)),
    ([("up_blocks.0.upsamplers.10", {}, {"output": zeros(1, 4, 6, 4)})], 3, (1, 12, 8)),
    ([("mid_block.attentions.0", {"input": zeros(3, 4, 5)}, {})], 3, (3, 8, 8)),
    ([("mid_block.attentions.0", {"input": zeros(3, 5, 5)}, {})], 3, (3, 8, 8)),
    ([("mid_block.attentions.0", {"input": zeros(3, 9, 5)}, {})], 3, (3, 12, 12)),
    ([("mid_block.attentions.0", {"input": zeros(3, 0, 5)}, {})], 3, (3, 8, 8)),
    ([("time_embedding", {"input": zeros(5, 16, 4)}, {})], 3, (5, 8, 8)),
    ([("time_embedding", {"input": zeros(5, 16, 4, 4)}, {})], 3, (5, 8, 8)),
    ([("time_embedding", {"input": zeros(5)}, {})], 3, (1, 8, 8)),
    ([("time_embedding", {"input": zeros(5, 2)}, {}), ("a", {"i": zeros(3)}, {})], 2, (5, 4, 4)),
    ([("time_proj", {"input": zeros(5, 2)}, {}), ("x", {"i": zeros(3, 1)}, {})], 2, (3, 4, 4)),
    ([("x", {"a": zeros(3), "b": zeros(2, 4, 6, 8)}, {})], 1, (1, 2, 2)),
    (
        [("time_proj", {}, {"output": zeros(2, 4)}), ("conv_in", {"i": zeros(1, 4, 6, 8)}, {})],
        3,
        (1, 6, 8),
    ),
    ([], 4, (1, 16, 16)),
    ([], 3, (1, 8, 8)),
    ([], 1, (1, 2, 2)),
]


@pytest.mark.parametrize(("layers", "levels", "expected"), LATENTS)
def test_sizes_of_latents_are_those_of_the_first_layer_that_tells_them(layers, levels, expected):
    assert arguments_of(*layers).batch_and_size(levels) == expected


# -- residuals ------------------------------------------------------------------------------------


class Added(NamedTuple):
    """Residuals of which the last kind may be missing."""

    down: tuple
    mid: object
    more: object = None


EXPECTED = Added(("declared",), "declared", "declared")


def model_with(placed):
    def place(config, net, residuals):
        placed.append((config, net))
        return residuals

    declared = SimpleNamespace(inputs=lambda config: EXPECTED, residuals=Added, place=place)
    family = SimpleNamespace(control=declared)
    return SimpleNamespace(config="config", family=family)


DOWN = {"control.down.0": [[1.0]], "control.down.1": [[2.0]]}


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        (DOWN | {"control.mid": [3.0]}, ([1.0, 2.0], 3.0, None)),
        (DOWN | {"control.mid": [3.0], "control.more": [4.0]}, ([1.0, 2.0], 3.0, 4.0)),
        (DOWN, None),
        ({"control.mid": [3.0]}, None),
        ({"control.more": [3.0]}, None),
        ({}, None),
        ({"control.down.1": [[2.0]], "control.mid": [3.0]}, None),
        (DOWN | {"control.mid": []}, None),
        (DOWN | {"mid": [3.0]}, None),
    ],
)
def test_residuals_are_those_of_the_declared_fields(roles, expected):
    placed = []
    found = arguments_of(("", roles, {}), model=model_with(placed)).residuals(())
    if expected is None:
        assert found is None and placed == []
        return
    more = None if found.more is None else found.more.item()
    assert ([x.item() for x in found.down], found.mid.item(), more) == expected
    assert placed == [("config", None)]


def test_residuals_are_placed_as_the_first_controlnet_says():
    placed = []
    found = arguments_of(("", DOWN | {"control.mid": [3.0]}, {}), model=model_with(placed))
    nets = [SimpleNamespace(config=name) for name in ("first", "second")]
    assert found.residuals(nets) is not None and placed == [("config", "first")]
    assert found.complete
