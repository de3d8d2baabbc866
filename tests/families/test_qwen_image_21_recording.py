"""Live pipelines of diffusers: none of the numbers is found wrong, and wrong ones are named."""

from __future__ import annotations

from dataclasses import replace
from functools import wraps

import pytest

import ldmref
from ldmref.locate import diff_traces

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import torch
from diffusers.models.transformers import transformer_qwenimage21 as module
from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21KVLayerCache
from diffusers.pipelines.qwenimage21 import pipeline_qwenimage21 as pipeline
from qwen_image_21_pipelines import TURBO_TIMES, make_pipeline

PROMPT, NEGATIVE = "a red cat", "the blue house of a dog"
GUIDED = {"true_cfg_scale": 3.0, "negative_prompt": NEGATIVE}


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline()


@pytest.fixture(scope="module")
def model(pipe, tmp_path_factory):
    """Return our model of the folder that diffusers writes."""
    path = tmp_path_factory.mktemp("qwen-image-21")
    pipe.save_pretrained(path)
    return ldmref.load(path, dtype="float32")


def record(pipe, path, prompt=PROMPT, steps=2, **options):
    """Record a run of the pipeline."""
    options = {"width": 96, "height": 64, "num_inference_steps": steps} | options
    with ldmref.recording(pipe, path) as trace:
        pipe(prompt, generator=torch.Generator().manual_seed(5), **options)
    return trace.trace


@pytest.mark.parametrize(
    ("options", "least"),
    [
        ({}, 250),
        ({"use_kv_cache": False}, 290),
        (GUIDED, 400),
        (GUIDED | {"use_kv_cache": False}, 470),
        ({"prompt": [PROMPT, "a red dog"], "steps": 3}, 260),
        ({"width": 64, "height": 160, "steps": 2}, 240),
    ],
)
def test_a_live_pipeline_has_no_fault(pipe, model, tmp_path, options, least):
    report = diff_traces(record(pipe, tmp_path / "trace", **options), model)
    counts = report.counts()
    assert counts["differs"] == counts["not judged"] == 0 and counts["equal"] >= least
    assert {"text_encoder", "transformer.000", "vae.decode"} <= {row.call for row in report.rows}


def test_images_behind_padding_are_where_diffusers_puts_them(pipe, model, tmp_path):
    """In a batch, whose places depend on the longest text."""
    options = {"prompt": [PROMPT, NEGATIVE], "use_kv_cache": False}
    trace = record(pipe, tmp_path / "trace", **options)
    rows = diff_traces(trace, model).rows
    assert {row.verdict for row in rows} == {"equal"}
    assert [row.call for row in rows if row.kind == "image start"] == [
        "transformer.000",
        "transformer.001",
    ]
    name = next(e for e in trace.entries if e.name == "transformer.000/").inputs["image_start"]
    mask = next(e for e in trace.entries if e.name == "transformer.000/").inputs
    alone = trace.tensors[mask["encoder_attention_mask"]].sum(axis=1)
    moved = replace(trace, tensors={**trace.tensors, name: alone})
    [row] = [row for row in diff_traces(moved, model).rows if row.kind == "image start"][:1]
    assert (row.verdict, row.cause) == ("differs", "each row is that of its text alone")


def test_turbo_has_no_fault(tmp_path):
    turbo = make_pipeline(TURBO_TIMES)
    turbo.save_pretrained(tmp_path / "turbo")
    report = diff_traces(record(turbo, tmp_path / "trace"), ldmref.load(tmp_path / "turbo"))
    counts = report.counts()
    assert counts["differs"] == counts["not judged"] == 0 and counts["equal"] > 250
    assert "transformer.007" in {row.call for row in report.rows}


LAYERS = {
    "transformer_blocks.1.img_mlp": lambda x: x * 1.01,
    "transformer_blocks.0.attn.to_v": lambda x: -x,
    "txt_in.out_layer": lambda x: x + 0.1,
    "norm_out": lambda x: x.flip(-1),
}


@pytest.mark.parametrize("layer", [*LAYERS])
def test_a_wrong_layer_is_named(pipe, model, tmp_path, layer):
    found = pipe.transformer.get_submodule(layer)
    hook = found.register_forward_hook(lambda module, args, output: LAYERS[layer](output))
    try:
        whole = record(pipe, tmp_path / "whole", use_kv_cache=False)
        trace = record(pipe, tmp_path / "trace")
    finally:
        hook.remove()
    assert {row.layer for row in diff_traces(whole, model).faults} == {layer}
    first, *later = diff_traces(trace, model).faults
    assert (first.call, first.layer) == ("transformer.000", layer)
    # of a step with a cache, the layers of the text are not computed again
    assert {row.call for row in later} <= {"transformer.001"}


def find_faults(pipe, model, path, **options):
    """Return the faults of a run, by the name of a row."""
    report = diff_traces(record(pipe, path, **options), model)
    return {row.name: row for row in report.faults}


def test_the_state_after_the_final_norm_is_named(pipe, model, tmp_path, monkeypatch):
    """vllm-omni#7765: transformers 5 returns the last state after the norm."""
    hooked = torch.nn.Module.register_forward_hook
    norm = pipe.text_encoder.model.language_model.norm

    def without(self, hook, **options):
        keep = (lambda module, args, output: None) if self is norm else hook
        same = "pipelines.qwenimage21" in getattr(hook, "__module__", "")
        return hooked(self, keep if same else hook, **options)

    monkeypatch.setattr(torch.nn.Module, "register_forward_hook", without)
    found = find_faults(pipe, model, tmp_path / "trace", steps=2)
    assert {row.call for row in found.values()} == {"text_encoder"}


def test_a_mu_of_another_model_is_named(pipe, model, tmp_path, monkeypatch):
    """The fall-back of the pipeline, Flux.1's line, as where a port has no scheduler's file."""
    find_mu = pipeline.calculate_shift
    monkeypatch.setattr(pipeline, "calculate_shift", lambda tokens, *line: find_mu(tokens))
    found = find_faults(pipe, model, tmp_path / "trace", steps=4)
    assert found and {row.call for row in found.values()} == {"schedule"}


def test_a_mu_that_no_size_changes_is_named(pipe, model, tmp_path, monkeypatch):
    """ComfyUI#16447: 0.69 at every size."""
    monkeypatch.setattr(pipeline, "calculate_shift", lambda *line: 0.69)
    found = find_faults(pipe, model, tmp_path / "trace", steps=4)
    assert found and {row.call for row in found.values()} == {"schedule"}


def test_turbo_with_a_shift_is_named(tmp_path, monkeypatch):
    """Its list is shifted again, as that of the base model."""
    turbo = make_pipeline(TURBO_TIMES)
    turbo.save_pretrained(tmp_path / "turbo")
    set_timesteps = type(turbo.scheduler).set_timesteps

    @wraps(set_timesteps)
    def shifted(self, *args, **options):
        set_timesteps(self, *args, **options)
        self.sigmas = 2.0 * self.sigmas / (1.0 + self.sigmas)
        self.timesteps = 1000.0 * self.sigmas[:-1]

    monkeypatch.setattr(type(turbo.scheduler), "set_timesteps", shifted)
    found = find_faults(turbo, ldmref.load(tmp_path / "turbo"), tmp_path / "trace")
    assert found and {row.call for row in found.values()} == {"schedule"}


def test_the_cache_of_another_layer_is_named(pipe, model, tmp_path, monkeypatch):
    """sglang#40447: every layer reads the prefix of layer 0, from the second step on."""
    kept = []

    def get(self):
        kept.append(self)
        return kept[0].k, kept[0].v

    monkeypatch.setattr(QwenImage21KVLayerCache, "get", get)
    found = find_faults(pipe, model, tmp_path / "trace")
    assert {row.call for row in found.values()} == {"transformer.001"}


def test_positions_that_begin_at_the_corner_are_named(pipe, model, tmp_path, monkeypatch):
    """Rows and columns of the image are counted from 0, not from its middle."""
    forward = module.QwenImage21Rope.forward

    def shifted(self, shapes, mask, device):
        found = forward(self, shapes, mask, device)
        _, height, width = shapes[-1]
        first = self.axes_dim[0] // 2
        middle = first + self.axes_dim[1] // 2
        turned = found.clone()
        turned[mask, first:middle] *= self.freqs[1][height // 2]
        turned[mask, middle:] *= self.freqs[2][width // 2]
        return turned

    monkeypatch.setattr(module.QwenImage21Rope, "forward", shifted)
    found = find_faults(pipe, model, tmp_path / "trace", use_kv_cache=False)
    blocks = [f"transformer_blocks.{number}.attn.attention~1" for number in range(2)]
    assert {row.layer for row in found.values()} == {*blocks}


def test_text_at_the_time_of_the_image_is_named(pipe, model, tmp_path, monkeypatch):
    """The row for t = 0 is not read: text is modulated as the image is."""
    choose = module._select_modulation_rows

    def all_rows(params, mask):
        return choose(params, None if mask is None else torch.ones_like(mask))

    monkeypatch.setattr(module, "_select_modulation_rows", all_rows)
    found = find_faults(pipe, model, tmp_path / "trace", use_kv_cache=False)
    layers = {row.layer for row in found.values()}
    assert "transformer_blocks.0" in layers
    assert all(name.startswith(("transformer_blocks.", "norm_out")) for name in layers)


def test_guidance_of_another_family_is_named(pipe, model, tmp_path, monkeypatch):
    """Krea 2 guides by c + s (c - u): what the scheduler gets is not u + s (c - u)."""
    step = type(pipe.scheduler).step

    def other(self, model_output, timestep, sample, return_dict=True):
        return step(self, 1.5 * model_output, timestep, sample, return_dict=return_dict)

    monkeypatch.setattr(type(pipe.scheduler), "step", other)
    found = find_faults(pipe, model, tmp_path / "trace", **GUIDED)
    assert found and {row.call.partition(".")[0] for row in found.values()} <= {
        "sampler",
        "guidance",
    }
