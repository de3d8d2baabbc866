"""Ports without a mask: their layers show whether all tokens are read."""

from dataclasses import replace

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.locate import diff_traces
from ldmref.trace import Trace

FILLED = ("z-image-tiny", "krea-2-tiny")  # up to a multiple, the rest is hidden
FAMILIES = (*FILLED, "qwen-image-2.1-tiny")
TOKENS = 64  # a multiple of all that texts are filled up to


def record(name, real=TOKENS):
    """Return a model, and its run with a text of 64 tokens of which the first are real."""
    model = ldmref.random_model(name, seed=0)
    asked = {"steps": 1, "seed": 0, "width": 32, "height": 32, "cfg_scale": 1.0}
    with ldmref.recording(model) as run:
        modes.txt2img(model, "red heart", **asked)
    states = run.trace.tensors["transformer.000//input.encoder_hidden_states"]
    text = np.random.default_rng(0).standard_normal((1, TOKENS, *states.shape[2:]))
    mask = (np.arange(TOKENS) < real).astype(np.int64)[None]
    given = {"prompt_embeds": text.astype(np.float32), "prompt_mask": mask}
    with ldmref.recording(model) as run:
        modes.txt2img(model, None, **asked, **given)
    return model, run.trace


def without_masks(run):
    """Return the calls of a denoiser without the masks, and layers with their first input alone."""
    entries = []
    for entry in run.entries:
        if entry.call.kind == "transformer":
            kept = {
                role: name
                for role, name in entry.inputs.items()
                if (role == "input" if entry.layer else "mask" not in role)
            }
            entries.append(replace(entry, inputs=kept))
    names = [name for e in entries for name in (*e.inputs.values(), *e.outputs.values())]
    return Trace({name: run.tensors[name] for name in names}, tuple(entries), {})


@pytest.mark.parametrize("name", FAMILIES)
def test_a_port_without_a_mask_is_right_where_all_tokens_are_real(name):
    model, run = record(name)
    report = diff_traces(without_masks(run), model)
    assert report.verdict == "equal", str(report)
    assert "no mask: all tokens are read" in "; ".join(report.notes)


@pytest.mark.parametrize("name", FILLED)
def test_layers_that_hide_tokens_need_their_mask(name):
    model, run = record(name, real=20)
    report = diff_traces(without_masks(run), model)
    assert report.verdict == "incomplete"
    assert "no mask" not in "; ".join(report.notes)
    assert any("encoder_attention_mask was not recorded" in row.note for row in report.rows)


def test_a_mask_that_no_layer_shows_is_not_known():
    model, run = record("qwen-image-2.1-tiny")
    port = without_masks(run)
    entries = tuple(e for e in port.entries if not e.layer or "time" in e.layer)
    whole = next(e for e in entries if not e.layer)
    entries = tuple(replace(e, outputs={}) if e is whole else e for e in entries)
    report = diff_traces(Trace(port.tensors, entries, {}), model)
    assert report.verdict == "incomplete"
    assert "no mask" not in "; ".join(report.notes)
