"""Layers that a definition has no name for are compared by their arrays, or are a gap."""

from __future__ import annotations

import numpy as np
import pytest
from test_conventions import judge, record

from ldmref.backends.named import LayerCall
from ldmref.locate.recorded.unnamed import ComputedArrays
from ldmref.locate.replay.unvisited import RunReads
from ldmref.trace import build_trace
from ldmref.trace.model import TraceEntry

CALL = "transformer.000"
RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 6, 8)).astype(np.float32)  # images, tokens, channels
FLOAT32 = 2.0**-23


def is_right(x, *computed, kind="", inputs=(), reads=None):
    """Return whether a layer without a name is right that returns an array of computed ones."""
    arrays = {f"{CALL}/other/input.{i}": np.asarray(y) for i, y in enumerate(inputs)}
    port = build_trace({f"{CALL}/other/output": np.asarray(x), **arrays})
    (entry,) = port.entries
    entry = TraceEntry(entry.call, entry.layer, entry.inputs, entry.outputs, kind)
    found = ComputedArrays(port, [entry], "float32")
    found.note(*(np.asarray(y, np.float64) for y in computed), "no array", None)
    return found.find_right(reads or RunReads()) == {"other"}


ARRAYS = {
    "the array": (X, [X]),
    "an axis of one": (X[:, None], [X]),
    "rounded": (X * (1.0 + FLOAT32), [X]),
    "transposed": (X.transpose(0, 2, 1), [X]),
    "heads": (X.reshape(2, 6, 2, 4).transpose(0, 2, 1, 3), [X.reshape(2, 6, 2, 4)]),
    "heads of tokens": (X.reshape(2, 6, 2, 4).transpose(0, 2, 1, 3), [X]),
    "the same for all images": (np.stack([X[0], X[0]]), [X[0]]),
    "some channels": (X[..., 2:4], [X]),
    "some tokens": (X[:, 1:4], [X]),
    "channels of two": (X, [X[..., :3], X[..., 3:]]),
    "tokens from a later one on": (np.roll(X, 2, axis=1), [X]),
    "tokens of two": (X, [X[:, 2:], X[:, :2]]),
}  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_that_is_computed_is_right(name):
    x, computed = ARRAYS[name]
    assert is_right(x, *computed)
    wrong = x.copy()
    wrong.flat[-1] += 1e-3
    assert not is_right(wrong, *computed) and not is_right(x, *computed[1:])
    assert not is_right(x, *(2.0 * y for y in computed))


def test_all_arrays_of_a_layer_have_to_be_right():
    assert is_right(X, X, 2.0 * X, inputs=[2.0 * X]) and is_right(X, X, inputs=[np.arange(3)])
    assert not is_right(X, X, inputs=[3.0 * X])
    assert not is_right(X, 2.0 * X, inputs=[2.0 * X])


def test_a_sum_of_unknown_terms_is_right_by_its_result():
    terms = [0.25 * X, 0.75 * X]
    assert is_right(X, X, inputs=terms, kind="add")
    assert not is_right(X, X, inputs=terms) and not is_right(X, inputs=terms, kind="add")
    assert not is_right(X, X, inputs=[X, X], kind="add")  # which is no sum of itself
    silu = X / (1.0 + np.exp(-X))
    assert is_right(silu, X, inputs=[X], kind="silu")
    assert not is_right(X * silu, X, inputs=[X], kind="silu")


def test_a_table_of_matrices_that_rotate_is_one_of_angles():
    angles = np.arange(15.0).reshape(5, 3)
    reads = RunReads(waves=[np.exp(1j * angles)])
    cos, sin = np.cos(angles), np.sin(angles)
    table = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    assert table.shape == (5, 3, 2, 2)
    assert is_right(table, reads=reads) and is_right(table[None, None], reads=reads)
    assert not is_right(table.swapaxes(-1, -2), reads=reads)  # turned the other way
    assert not is_right(np.abs(table), reads=reads)


def test_what_a_block_adds_to_its_modulation():
    table = RNG.standard_normal((2, 8))
    params = {"block": {"table": table, "norm": {"weight": np.ones(8)}}}
    for given in (RNG.standard_normal((2, 1, 16)), RNG.standard_normal((2, 1, 8))):
        rows = given + table.ravel() if given.shape[-1] == 16 else given + table[1]
        recorded = rows[..., -8:]
        port = build_trace({f"{CALL}/mod/output": recorded, f"{CALL}/no/output": given[..., -8:]})
        found = ComputedArrays(port, port.entries, "float64")
        block = LayerCall("block", "block", {"input": X}, {}, {}, max, composite=True)
        found.note_layer(block, {"emb": given}, X, params, lambda *values: None)
        assert "mod" in found.find_right(RunReads())


def test_a_layer_that_is_called_again_is_judged_by_its_own_input():
    tensors = {f"{CALL}/a~1/input": X, f"{CALL}/a~1/output": 2.0 * X,
               f"{CALL}/b/input": 2.0 * X, f"{CALL}/b/output": X}  # fmt: skip
    for factor, right in ((2.0, {"a~1", "b"}), (2.5, set())):
        port = build_trace(tensors)
        found = ComputedArrays(port, port.entries, "float32")
        call = LayerCall("a", "linear", {"input": np.ones((2, 6, 8))}, {}, {}, max)
        found.note_layer(call, {}, X, {}, lambda call, x, low, f=factor: f * x["input"])
        assert found.find_right(RunReads()) == right


# -- whole networks --------------------------------------------------------------------------------


def renamed(tensors, layer, name):
    """Return the arrays of a port that calls a layer by another name."""
    begin = f"{CALL}/{layer}/"
    return {
        f"{CALL}/{name}/{key.removeprefix(begin)}" if key.startswith(begin) else key: x
        for key, x in tensors.items()
    }


@pytest.mark.parametrize("layer", ["single_transformer_blocks.1", "time_text_embed"])
def test_a_layer_of_another_name_is_compared_by_its_arrays(layer):
    model, right = record("flux-tiny")
    port = renamed(right, layer, "other")
    assert len(port.keys() - right.keys()) > 1
    assert judge(model, port).verdict == "equal"
    key = next(key for key in port if key.startswith(f"{CALL}/other/output"))
    report = judge(model, port | {key: 1.01 * port[key]})
    assert report.verdict == "incomplete"
    assert any(gap.endswith(": other") for gap in report.gaps)


def test_the_output_of_a_network_that_returns_several_arrays():
    model, right = record("flux-tiny")
    whole = right[f"{CALL}//output"]
    rest = {key: x for key, x in right.items() if key != f"{CALL}//output"}
    first, second = (f"{CALL}//output.output.{i}" for i in (0, 1))
    for port in ({first: whole, second: 0.5 * whole}, {first: whole[:, :1], second: whole}):
        report = judge(model, rest | port)
        assert report.verdict == "equal" and report.rows[-1].layer == ""
    wrong = judge(model, rest | {first: 0.5 * whole, second: 2.0 * whole})
    assert [(row.layer, row.kind) for row in wrong.faults] == [("", "own")]
    other = judge(model, rest | {first: whole[:, :1], second: whole[:, :1]})
    assert other.verdict == "incomplete"
    (note,) = (row.note for row in other.rows if row.verdict == "not judged")
    assert note == "none of the arrays that it returned is its output"
