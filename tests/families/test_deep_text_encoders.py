"""Faults of all blocks of a deep text encoder: each is found, and few are tried at length."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import torch
from qwen3_networks import make_encoder, write_vocabulary
from z_image_pipelines import make_pipeline

import ldmref
from ldmref.locate import diff_traces
from ldmref.locate.causes.alike import TRIED, AlikeLayers
from ldmref.locate.replay.definition import Replay
from ldmref.trace import read_trace, record_pipeline

DEPTH = 18
READ = DEPTH - 1  # blocks before the hidden states that Z-Image reads


def other_scale(encoder):
    """Let every attention use a scale that no known fault has."""
    for block in encoder.model.layers:
        block.self_attn.scaling *= 1.1


def other_activation(encoder):
    for block in encoder.model.layers:
        block.mlp.act_fn = torch.nn.GELU()


def other_norm(encoder):
    for block in encoder.model.layers:
        block.input_layernorm.variance_epsilon = 1e-3


def none(encoder):
    pass


FAULTS = {  # the layer of each block, and the cause
    other_scale: ("self_attn.attention", ""),
    other_activation: ("mlp.down_proj", "exact GELU instead of SiLU"),
    other_norm: ("input_layernorm", "eps 0.001 instead of 1e-06"),
    none: ("", ""),
}


def judge(folder, change, monkeypatch):
    """Return the report of one text, and how often parts were computed again."""
    pipe = make_pipeline(write_vocabulary(folder / "words"))
    torch.manual_seed(0)
    pipe.register_modules(text_encoder=make_encoder(num_hidden_layers=DEPTH))
    pipe.save_pretrained(folder / "model")
    change(pipe.text_encoder)
    with record_pipeline(pipe, folder / "trace"), torch.no_grad():
        pipe.encode_prompt("a red cat", max_sequence_length=32, do_classifier_free_guidance=False)
    counted = []
    rerun = Replay.rerun

    def count(self, point, *args, **options):
        counted.append(point.call.name)
        return rerun(self, point, *args, **options)

    monkeypatch.setattr(Replay, "rerun", count)
    model = ldmref.load(folder / "model", backend="numpy", dtype="float32")
    return diff_traces(read_trace(folder / "trace"), model), counted


@pytest.mark.parametrize("change", FAULTS, ids=lambda change: change.__name__)
def test_a_fault_of_all_blocks(change, tmp_path, monkeypatch):
    report, counted = judge(tmp_path, change, monkeypatch)
    layer, cause = FAULTS[change]
    wrong = [row for row in report.faults if row.layer.endswith(layer)]
    assert len(report.faults) == len(wrong) == (READ if layer else 0)
    assert all(cause in row.cause for row in wrong)
    tries = np.array([sum(name == row.layer for name in counted) for row in wrong])
    if layer:
        at_length = np.count_nonzero(tries > tries.max() / 2)
        assert at_length <= (TRIED + 2 if not cause else 1)


def test_layers_of_a_kind_are_tried_until_one_is_explained():
    known = AlikeLayers()
    tried = []
    for number in range(1, 40):
        if known.tries("attention"):
            tried.append(number)
        known.fail("attention")
    assert tried == [1, 2, 3, 4, 8, 16, 32]
    assert known.tries("mlp") and not known.cause_of("attention")
    known.explain("attention", "eps 1e-05 instead of 1e-06 in layers.3.norm")
    assert known.cause_of("attention") == "eps # instead of # in layers.#.norm"
    assert known.tries("attention")


def test_of_layers_that_follow_from_each_other_few_are_tried():
    """An array of a wrong shape gives it to all that follow, whatever their kind."""
    known = AlikeLayers(most=3)
    kinds = [f"layer {letter}" for letter in "abcdef"]
    tried = []
    for kind in kinds:
        tried += [kind] if known.tries(kind) else []
        known.fail(kind)
    assert tried == kinds[:3]
    known.explain(kinds[4], "the heads are not joined")
    assert known.tries(kinds[5])
