"""Causes that real ports had: residuals, halves, heads, places and modulations of whole blocks."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from fault_calls import call_of, faulty, normal, point_of, replay_of
from test_conventions import judge, record

from ldmref.locate.causes import diagnosis
from ldmref.locate.faults import attention, between, masks, modulation, rotary, text
from ldmref.locate.recorded.conventions import Convention, turn_call
from ldmref.trace import build_trace
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace, TraceEntry

X, OTHER, ADDED = (normal(seed, 1, 3, 4) for seed in range(3))


def cause_of(recorded, port=None, **known):
    """Return the cause of what a block of the input X returned, which adds ADDED to it."""
    point = point_of(
        computed=X + ADDED, recorded=recorded, role="", within="block", norms=(), after=(),
        frame={"input": X, "context": OTHER}, name="block", padding=None, earlier=(),
        kept=lambda x: x, kind="block",
    )  # fmt: skip
    replay = replay_of(rerun=lambda *values, **more: None, similar_layers=lambda call: (), **known)
    replay.port = port or SimpleNamespace(find=lambda *names: None, of_call=lambda call: ())
    replay.call = "transformer.000"
    return diagnosis.diagnose(replay, point, 0.5, 1e-16).cause


def test_a_residual_that_is_missing_or_another_one():
    assert cause_of(ADDED) == "the residual is missing: the input of block (input)"
    last = [("block.ff", ADDED)]  # of which the block's output has the numbers
    assert cause_of(ADDED, recent=last) == "the residual is missing: the input of block (input)"
    assert cause_of(2.0 * X + ADDED) == "the residual is added twice: the input of block (input)"
    assert cause_of(OTHER + ADDED) == (
        "the residual is the input of block (context) instead of the input of block (input)"
    )


def test_a_residual_that_is_what_a_norm_long_before_returned():
    normalized = normal(3, 1, 3, 4)
    port = build_trace({"transformer.000/block.norm1/output": normalized})
    found = cause_of(normalized + ADDED, port, streams=[("block.norm1", X)])
    assert found == (
        "the residual is the output of block.norm1 instead of the input of block (input)"
    )


def test_modulations_that_a_block_is_given():
    rows = np.arange(12.0)[None]
    frame = {"input": np.zeros((1, 5, 2)), "of_image": rows, "of_text": -rows, "emb": rows[:, :2]}
    point = point_of(within="block", frame=frame)
    found = dict(modulation.other_modulation_of_block(replay_of(), point))
    words = "1 is not added to the scale in the modulation 'of_image'"
    expected = rows - np.repeat([0.0, 1, 0, 0, 0, 0], 2)
    np.testing.assert_array_equal(found[words]["of_image"], expected)
    assert found["the modulation 'of_text' is 'of_image'"]["of_text"] is rows
    assert not any("emb" in changes for changes in found.values())
    assert not [*modulation.other_modulation_of_block(replay_of(), point_of(frame=frame))]


def test_modulations_to_which_a_block_adds_a_table():
    rows, table = np.arange(12.0)[None, None], normal(0, 6, 2)
    point = point_of(within="block", frame={"input": np.zeros((1, 5, 2)), "modulation": rows})
    replay = replay_of(tables={"block": table})
    found = dict(modulation.other_modulation_of_block(replay, point))
    changed = found["scale and shift are exchanged in the modulation 'modulation'"]["modulation"]
    used, right = changed + table.ravel(), rows + table.ravel()
    np.testing.assert_allclose(used, right[..., [2, 3, 0, 1, *range(4, 12)]])
    assert "1 is not added to the scale of the MLP in the modulation 'modulation'" in found


def test_gates_that_tanh_does_not_bound():
    gates = np.array([[0.1, 0.9, 0.0, 2.0]])
    call = SimpleNamespace(compute=lambda x: np.tanh(gates))
    replay = replay_of(modulations={"a": 4})
    found = dict(modulation.other_modulation(replay, point_of()))
    changed = found["the gate does not go through tanh in a"]["a"](call, {})
    np.testing.assert_allclose(changed[0, :2], [np.tanh(0.1), 0.9])
    call.compute = lambda x: 2.0 * gates  # of which no number has this tanh
    assert np.isnan(found["the gate does not go through tanh in a"]["a"](call, {})[0, 1])


def test_silu_of_the_other_half_of_a_joined_layer():
    y = normal(0, 1, 3, 10)
    silu = call_of("silu", lambda input: input, {"input": y[..., 6:8]})
    replay = replay_of(recent=[("to_q", y[..., :4]), ("proj", y)])
    [(words, changes)] = text.exchanged_halves(replay, point_of(suspects=(silu,)))
    assert words == "gate and value are exchanged: SiLU is applied to the other half of proj"
    changed = changes["proj"](SimpleNamespace(compute=lambda x: y), {})
    np.testing.assert_array_equal(changed, y[..., [0, 1, 2, 3, 4, 5, 8, 9, 6, 7]])


def test_heads_that_are_tiled():
    k, v = (np.repeat(normal(seed, 1, 2, 3, 4), 2, axis=1) for seed in range(2))
    inputs = {"input": normal(2, 1, 4, 3, 4), "k": k, "v": v}
    call = call_of("attention", lambda input, k, v: np.stack([k, v]), inputs)
    found = faulty(attention.tiled_heads, call)
    tiled = k[:, [0, 2, 0, 2]], v[:, [0, 2, 0, 2]]
    both = found["the heads of keys and values are tiled instead of each repeated"]
    np.testing.assert_array_equal(both, np.stack(tiled))
    alone = found["the heads of keys are tiled instead of each repeated"]
    np.testing.assert_array_equal(alone, np.stack([tiled[0], v]))
    own = call_of("attention", lambda: None, {**inputs, "k": inputs["input"]})
    assert not [*attention.tiled_heads(own)]


def test_heads_of_keys_that_are_tiled_before_attention_reads_them():
    k = np.repeat(normal(0, 1, 2, 3, 4), 2, axis=1)
    point = point_of("attention", "k", k, kind="attention")
    [(words, found)] = attention.tiled_arrays(replay_of(), point)
    assert words == "the heads of keys are tiled instead of each repeated"
    np.testing.assert_array_equal(found, k[:, [0, 2, 0, 2]])
    own = point_of("attention", "k", normal(0, 1, 4, 3, 4), kind="attention")
    assert not [*attention.tiled_arrays(replay_of(), own)]


def test_a_gate_that_goes_through_another_function():
    gate, mixed = normal(0, 1, 3, 4), normal(1, 1, 3, 4)
    point = point_of("attn.to_out.0", "input", mixed / (1.0 + np.exp(-gate)))
    recent = [("attn.to_q", mixed), ("attn.to_gate", gate)]
    found = dict(between.other_gate(replay_of(recent=recent), point))
    expected = {
        "tanh instead of sigmoid in attn.to_gate": mixed * np.tanh(gate),
        "no sigmoid in attn.to_gate": mixed * gate,
        "the gate is missing in attn.to_gate": mixed,
    }
    assert found.keys() == expected.keys()
    for words, x in expected.items():
        np.testing.assert_allclose(found[words], x)


def test_times_that_are_changed_before_they_are_embedded():
    point = point_of("t_embedder", "input", np.ones(1))
    found = dict(between.other_times(replay_of(), point))
    assert found["the timestep t is 1000 - t"] == 999.0
    assert found["the timestep is scaled by 1/1000"] == 0.001
    named = dict(between.other_times(replay_of(), point_of("guidance_in", "input", np.ones(2))))
    assert named["the guidance is scaled by 1000"].tolist() == [1000.0, 1000.0]
    assert not [*between.other_times(replay_of(), point_of("t", "input", np.ones((2, 3))))]


def test_times_in_0_to_1_that_are_not_reversed():
    point = point_of("t_embedder", "input", np.array([999.0]), frame={"t": np.array([1.0])})
    replay = replay_of(rerun=lambda point, arguments: 1000.0 - arguments["t"])
    words = [words for words, t in between.other_times(replay, point) if t == 1000.0]
    assert words[0] == "the timestep t is 1000 - t"


def test_embeddings_that_are_not_added():
    layers = ("a.text_embedder.linear_2", "a.text_embedder.linear_1", "target_timestep_embedder")
    port = SimpleNamespace(of_call=lambda call: [SimpleNamespace(layer=name) for name in layers])
    replay = replay_of(port=port, call="transformer.000")
    found = dict(modulation.unused_embedding(replay, point_of(computed=np.ones((1, 3)))))
    words = [f"the output of {name} is not added" for name in (layers[0], layers[2])]
    assert [*found] == words
    change = found[words[0]][layers[0]]
    np.testing.assert_array_equal(change(SimpleNamespace(compute=lambda x: X), {}), 0.0 * X)


def test_one_number_is_no_scaled_array():
    def cause(computed):
        point = point_of(
            "t", computed=computed, recorded=294.0 * computed, norms=(), padding=None, after=(),
            earlier=(), kept=lambda x: x,
        )  # fmt: skip
        replay = replay_of(rerun=lambda *values, **more: None, similar_layers=lambda call: ())
        replay.port = build_trace({"transformer.000/t/input": computed})
        replay.call = "transformer.000"
        return diagnosis.diagnose(replay, point, 0.5, 1e-16).cause

    assert cause(np.array([1.5, 2.5])) == "scaled by 294"
    assert cause(np.array([1.5])) == ""


def test_places_of_an_image_behind_a_padded_text():
    """The text has 2 tokens and is filled up to 4; the image is behind these, at place 5."""
    positions = np.array([[[5.0, 0, 0], [5, 0, 1], [1, 0, 0], [2, 0, 0], [3, 0, 0], [4, 0, 0]]])
    inputs = {"input": np.zeros((1, 6, 3)), "positions": positions}
    call = call_of("rotate", lambda input, positions: positions[0, :, 0].tolist(), inputs)
    found = faulty(lambda c: rotary.other_places(c, np.array([[1, 1, 0, 0]])), call)
    assert found == {
        "the image's positions do not count the padding of the text": [3, 3, 1, 2, 3, 4],
        "the places of the text count from 0": [5, 5, 0, 1, 2, 3],
        "the image is one place earlier, at that of the text's last token": [4, 4, 1, 2, 3, 4],
        "the image is one place later": [6, 6, 1, 2, 3, 4],
        "the image is at place 0": [0, 0, 1, 2, 3, 4],
    }


def test_an_array_that_a_layer_shares_with_the_whole_call_is_not_turned_with_it():
    call = TraceCall("transformer.000")
    entries = tuple(TraceEntry(call, layer, {"input": "x"}) for layer in ("", "x_embedder"))
    port = Trace({"x": np.ones(3)}, entries)
    negative = Convention("sign", "negative", np.negative, lambda entry, *_: not entry.layer)
    turned = turn_call(port, call, [negative])
    whole, layer = (turned.read_inputs(entry)["input"].tolist() for entry in turned.entries)
    assert whole == [-1.0] * 3 and layer == [1.0] * 3


@pytest.mark.full
def test_positions_of_a_port_whose_norms_are_no_layers():
    """Only the layers that read the first norm show that a table is cropped in its corner."""

    def crop(call, x):
        table = np.asarray(model.params["transformer"]["pos_embed"]["pos_embed"])
        side = math.isqrt(table.shape[1])
        grid = table.reshape(side, side, -1)
        rows, columns = (size // 2 for size in x["input"].shape[2:])
        top, left = (side - rows) // 2, (side - columns) // 2
        right = grid[top : top + rows, left : left + columns]
        moved = (grid[:rows, :columns] - right).reshape(1, rows * columns, -1)
        return call.compute(x) + moved

    model, _ = record("sd3-tiny")
    _, wrong = record("sd3-tiny", {"pos_embed": crop})
    words = "the positions are those of the first rows and columns"
    inputs = {key: x for key, x in wrong.items() if "//input" in key}
    layer = "transformer_blocks.1.attn.to_q"
    read = {key: x for key, x in wrong.items() if f"/{layer}/input" in key}
    (fault,) = judge(model, inputs | read).faults
    assert fault.layer == layer and fault.cause.startswith(words)


def test_attention_without_a_mask_to_rows_that_the_port_alone_has():
    q, k, v = (normal(seed, 1, 2, 9, 4) for seed in range(3))
    scores = q @ k.swapaxes(2, 3) / 2.0
    weights = np.exp(scores)
    mixed = weights / weights.sum(-1, keepdims=True) @ v
    call = call_of("attention", None, {"input": q[:, :, :5], "k": k[:, :, :5], "v": v[:, :, :5]})
    layer = f"transformer.000/{call.name}"

    def found(**changed):
        arrays = {"input": q, "input.k": k, "input.v": v, "output": mixed, **changed}
        port = build_trace({f"{layer}/{role}": x for role, x in arrays.items()})
        kept = point_of(computed=0.5 * mixed[:, :, :5], recorded=mixed[:, :, :5], role="", unit=0.0)
        kept.call = call
        replay = SimpleNamespace(port=port, call="transformer.000")
        return [*masks.unmasked_rows(replay, kept)]

    ((words, array),) = found()
    assert words.startswith("the padding mask is missing") and np.array_equal(
        array, mixed[:, :, :5]
    )
    assert not found(output=1.01 * mixed)  # a fault of another kind
    assert not found(**{"input.k": k[:, :, :5], "input.v": v[:, :, :5], "output": mixed})
    assert not found(
        **{
            name: x[:, :, :5]
            for name, x in {"input": q, "input.k": k, "input.v": v, "output": mixed}.items()
        }
    )
