"""Layers of a block whose mask was not recorded: each is judged alone, and the block names it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.cases.golden_models import golden_model
from ldmref.locate import diff_traces
from ldmref.trace import build_trace
from ldmref.trace.model import tensor_name

MASKS = ("seen", "score_bias", "bias")
CALL = "transformer.000"
WHOLE = {f"{CALL}/layers.0", f"{CALL}/layers.0.attention"}
ATTENTION = "layers.0.attention.attention"


@pytest.fixture(scope="module")
def model():
    return golden_model("z-image")


@pytest.fixture(scope="module")
def run(model):
    with ldmref.recording(model) as recorded:
        modes.txt2img(model, prompt="a red heart", steps=1, seed=0, width=32, height=48)
    return recorded.trace


def first_block(run, layer="", factor=1.0):
    """Return the arrays of the first block without masks, and one output times a factor."""
    found = {}
    for entry in run.of_call(CALL):
        if entry.layer != "layers.0" and not entry.layer.startswith("layers.0."):
            continue
        for side, roles in (("input", entry.inputs), ("output", entry.outputs)):
            for role, name in roles.items():
                wrong = entry.layer == layer and side == "output"
                if role not in MASKS:
                    x = run.tensors[name] * (factor if wrong else 1.0)
                    found[tensor_name(entry.call, entry.layer, side, role)] = x
    return build_trace(found)


def test_the_missing_mask_is_named_and_what_does_not_read_it_is_judged(model, run):
    port = first_block(run)
    report = diff_traces(port, model)
    left = {row.name: row.note for row in report.rows if row.verdict != "equal"}
    assert left.keys() == WHOLE | {f"{CALL}/{ATTENTION}"}
    for name, note in left.items():
        role = "bias" if name.endswith(ATTENTION) else "seen"
        assert note.startswith(f"its input {role!r} was not recorded; record it")
    assert not report.gaps
    assert {row.name for row in report.rows} == {x.name for x in port.entries if x.outputs}


@pytest.mark.parametrize("layer", ["layers.0.attention.to_q", "layers.0.feed_forward.w1"])
def test_a_wrong_layer_of_the_block_is_named(model, run, layer):
    report = diff_traces(first_block(run, layer, 1.01), model)
    wrong = [row for row in report.faults if row.kind == "own"]  # others read the right array
    assert [(row.name, row.cause) for row in wrong] == [(f"{CALL}/{layer}", "scaled by 1.01")]


def test_a_mask_for_the_padding_of_captions_is_named_and_belongs_to_another_model(model, run):
    """The caption is filled up to 32 tokens, the last 32 keys of the joint attention."""
    call = next(entry for entry in run.of_call(CALL) if entry.layer == ATTENTION)
    x = {role: np.asarray(run.tensors[name], np.float64) for role, name in call.inputs.items()}
    mask = np.asarray(run.tensors[f"{CALL}//input.encoder_attention_mask"])
    words = int(mask[0].sum())
    hidden = np.zeros(x["k"].shape[2], bool)
    hidden[len(hidden) - 32 + words :] = True
    scores = x["input"] @ x["k"].swapaxes(-1, -2) / np.sqrt(x["k"].shape[-1])
    rows = np.where(mask.sum(axis=1) == words, 1.0, 0.0)[:, None, None, None]
    scores = scores - 1e9 * hidden * rows
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    wrong = (weights / weights.sum(axis=-1, keepdims=True)) @ x["v"]
    tensors = dict(run.tensors) | {call.outputs["output"]: wrong.astype(np.float32)}
    report = diff_traces(replace(run, tensors=tensors), model)
    row = next(row for row in report.faults if row.layer == ATTENTION and row.call == CALL)
    assert row.cause == "the tokens that fill up the text are hidden"
    assert "sglang#34218" in row.reasonable
