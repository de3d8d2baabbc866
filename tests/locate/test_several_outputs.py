"""Networks that return more than ldmref's: which of their arrays are compared."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.locate.recorded.several_outputs import read_selected, select_outputs, with_selected
from ldmref.trace import build_trace

RNG = np.random.default_rng(0)
STATES = {f"hidden_states.{i}": RNG.standard_normal((2, 3, 4)) for i in range(4)}
POOLED = RNG.standard_normal((2, 8))
CALL = "text_encoder.000"


def traced(outputs):
    return build_trace({f"{CALL}//output.{role}": x for role, x in outputs.items()})


def selected(outputs, computed, role="output"):
    trace = traced(outputs)
    names = select_outputs(trace, trace.entries[0], role, computed)
    return [name.partition("output.")[2] for name in names]


def test_the_nearest_array_of_the_shape_is_the_output():
    right = STATES["hidden_states.2"] + 1e-3
    assert selected(STATES | {"pooler_output": POOLED}, right) == ["hidden_states.2"]
    # of a wrong network too: the row says by how much
    assert selected(STATES, 1.1 * right) == ["hidden_states.2"]


@pytest.mark.parametrize("order", [(0, 1), (3, 1, 2)])
def test_states_side_by_side_are_the_output(order):
    names = [f"hidden_states.{i}" for i in order]
    joined = np.concatenate([STATES[name] for name in names], axis=2)
    assert selected(STATES, joined) == names
    trace = traced(STATES)
    read = read_selected(trace, select_outputs(trace, trace.entries[0], "output", joined))
    assert np.array_equal(read, joined)


def test_an_array_of_its_role_comes_first():
    outputs = {"output": STATES["hidden_states.0"], **STATES}
    assert select_outputs(
        traced(outputs), traced(outputs).entries[0], "output", STATES["hidden_states.2"]
    ) == (f"{CALL}//output.output",)


def test_nothing_that_is_returned_may_be_the_output():
    assert selected({"pooler_output": POOLED}, STATES["hidden_states.0"]) == []


def test_the_array_of_another_output_is_not_taken():
    trace = traced({"pooled": POOLED})
    assert select_outputs(trace, trace.entries[0], "output", POOLED, ["pooled"]) == ()
    assert select_outputs(trace, trace.entries[0], "output", POOLED) != ()


def test_the_selected_arrays_are_those_of_ldmref():
    trace = traced(STATES)
    names = [f"{CALL}//output.hidden_states.{i}" for i in (1, 3)]
    found = {"output": names, "pooled": names[:1]}
    entry, *_ = (changed := with_selected(trace, {trace.entries[0].call: found})).entries
    assert {*entry.outputs} == {"output", "pooled"}
    both = np.concatenate([STATES["hidden_states.1"], STATES["hidden_states.3"]], axis=2)
    assert np.array_equal(changed.tensors[entry.outputs["output"]], both)
    assert np.array_equal(changed.tensors[entry.outputs["pooled"]], STATES["hidden_states.1"])
