"""Live pipelines of diffusers: none of the numbers is found wrong, and wrong ones are named."""

from __future__ import annotations

import pytest

import ldmref
from ldmref.locate import diff_traces

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import torch
from qwen3_networks import write_vocabulary
from z_image_pipelines import make_pipeline

SHORT = "a red cat"
LONGER = "a dog on a table"  # of as many segments
LONG = "the blue house of a dog on a table, painted by an assistant of a cat, and a " * 2


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return make_pipeline(write_vocabulary(tmp_path_factory.mktemp("tokenizer")))


def record(pipe, path, prompts, scale=2.0, steps=2):
    """Record a run of the pipeline."""
    options = {"num_inference_steps": steps, "guidance_scale": scale}
    with ldmref.recording(pipe, path) as trace:
        generator = torch.Generator().manual_seed(5)
        pipe(prompts, generator=generator, width=24, height=16, **options)
    return trace.trace


@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_a_live_pipeline_has_no_fault(pipe, folder, tmp_path, scale):
    model = ldmref.load(folder, dtype="float32")
    report = diff_traces(record(pipe, tmp_path / "trace", SHORT, scale), model)
    counts = report.counts()
    assert counts["differs"] == counts["not judged"] == 0 and counts["equal"] > 250
    assert {"transformer.000", "vae.decode"} <= {row.call for row in report.rows}


@pytest.mark.parametrize("other", [LONGER, LONG])
def test_captions_of_unequal_length_have_no_fault(pipe, folder, tmp_path, other):
    model = ldmref.load(folder, dtype="float32")
    report = diff_traces(record(pipe, tmp_path / "trace", [SHORT, other]), model)
    counts = report.counts()
    assert counts["differs"] == counts["not judged"] == 0 and counts["equal"] > 250


FAULTS = {
    "layers.1.feed_forward": lambda x: x * 1.01,
    "layers.0.attention": lambda x: -x,
    "noise_refiner.0": lambda x: x + 0.1,
    "context_refiner.0.ffn_norm2": lambda x: x * 0.9,
    "context_refiner.1.attention.to_k": lambda x: x.roll(1, 1),
    "all_final_layer.2-1.linear": lambda x: x.flip(-1),
}


@pytest.mark.parametrize("layer", [*FAULTS])
def test_a_wrong_layer_is_named(pipe, folder, tmp_path, layer):
    module = pipe.transformer.get_submodule(layer)
    hook = module.register_forward_hook(lambda module, args, output: FAULTS[layer](output))
    try:
        trace = record(pipe, tmp_path / "trace", SHORT, steps=1)
    finally:
        hook.remove()
    report = diff_traces(trace, ldmref.load(folder, dtype="float32"))
    assert {row.layer for row in report.rows if row.verdict == "differs"} == {layer}


def test_a_missing_mask_of_unequal_captions_is_found(pipe, folder, tmp_path, monkeypatch):
    """Rows that nothing reads are left out; that they are read is a fault."""
    processor = type(pipe.transformer.context_refiner[1].attention.processor)
    call = processor.__call__

    def unmasked(self, attn, states, *args, attention_mask=None, **rest):
        return call(self, attn, states, *args, attention_mask=None, **rest)

    monkeypatch.setattr(processor, "__call__", unmasked)
    trace = record(pipe, tmp_path / "trace", [SHORT, LONG], steps=1)
    report = diff_traces(trace, ldmref.load(folder, dtype="float32"))
    wrong = {row.layer for row in report.rows if row.verdict == "differs"}
    assert {f"context_refiner.{i}.attention.attention" for i in range(2)} <= wrong


def test_a_wrong_layer_of_the_text_encoder_is_named(pipe, folder, tmp_path):
    module = pipe.text_encoder.get_submodule("model.layers.1.mlp")
    hook = module.register_forward_hook(lambda module, args, output: output * 1.02)
    try:
        trace = record(pipe, tmp_path / "trace", SHORT, steps=1)
    finally:
        hook.remove()
    report = diff_traces(trace, ldmref.load(folder, dtype="float32"))
    wrong = {row.layer for row in report.rows if row.verdict == "differs"}
    assert wrong == {"layers.1.mlp"}
