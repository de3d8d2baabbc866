"""Live modular pipelines of FLUX.3: right runs are not found wrong, and faults are named."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref.locate import diff_traces

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import torch
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.models.transformers import transformer_flux3
from diffusers.modular_pipelines.flux3 import before_denoise, denoise, encoders
from flux3_pipelines import make_pipeline, run, save_pipeline, set_scale
from qwen3_networks import write_vocabulary

SIZE = {"width": 24, "height": 16}
LONG = "the blue house of a dog on a table, painted by an assistant of a cat, and a red cat" * 3


@pytest.fixture(scope="module", params=["base", "distilled"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def pipes(tmp_path_factory):
    """Return both pipelines with the folders that diffusers writes, by name."""
    vocabulary = write_vocabulary(tmp_path_factory.mktemp("tokenizer"))
    found = {}
    for name in ("base", "distilled"):
        pipe = make_pipeline(vocabulary, name == "distilled")
        found[name] = pipe, save_pipeline(pipe, tmp_path_factory.mktemp(name))
    return found


@pytest.fixture(scope="module")
def photos():
    generator = np.random.default_rng(3)
    sizes = ((37, 21), (18, 50))
    return [
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in sizes
    ]


def find(pipes, kind, path, prompt="a red cat", scale=2.5, steps=2, **options):
    """Record a run and compare it; return the report."""
    pipe, folder = pipes[kind]
    set_scale(pipe, scale)
    with ldmref.recording(pipe, path) as trace:
        run(pipe, prompt, 5, num_inference_steps=steps, **options, **SIZE)
    return diff_traces(trace.trace, ldmref.load(folder, dtype="float32"))


def list_wrong(report):
    """Return calls and layers of what differs, the first first."""
    return [(row.call, row.layer, row.kind) for row in report.rows if row.verdict == "differs"]


def list_causes(report):
    return {row.cause for row in report.rows if row.verdict == "differs"}


@pytest.mark.parametrize(
    ("kind", "options", "images"),
    [
        ("base", {"scale": 1.0}, 0),
        ("base", {"scale": 2.5, "prompt": LONG}, 0),
        ("base", {}, 1),
        ("distilled", {"steps": 4}, 0),
        ("distilled", {"prompt": LONG}, 2),
    ],
)
def test_a_right_run_has_no_fault(pipes, photos, tmp_path, kind, options, images):
    shown = {"image": photos[:images]} if images else {}
    report = find(pipes, kind, tmp_path / "trace", **options, **shown)
    counts = report.counts()
    assert counts["differs"] == 0 and counts["equal"] > 250
    assert {"text_encoder", "transformer.001", "vae.decode"} <= {row.call for row in report.rows}


def test_a_wrong_layer_is_named(pipes, tmp_path, kind):
    pipe, _ = pipes[kind]
    layer = "single_transformer_blocks.1.attn"
    module = pipe.transformer.get_submodule(layer)
    hook = module.register_forward_hook(lambda module, args, output: output * 1.01)
    try:
        report = find(pipes, kind, tmp_path / "trace", steps=1)
    finally:
        hook.remove()
    assert {name for _, name, _ in list_wrong(report)} == {layer}


def test_exchanged_halves_of_the_last_layer(pipes, tmp_path, kind, monkeypatch):
    """The makers' file has shift and scale, diffusers scale and shift."""

    def forward(self, hidden_states, temb):
        shift, scale = torch.chunk(self.linear(self.act_fn(temb)), 2, dim=-1)
        return self.norm(hidden_states) * (1 + scale) + shift

    monkeypatch.setattr(transformer_flux3.Flux3AdaLayerNorm, "forward", forward)
    report = find(pipes, kind, tmp_path / "trace", steps=1)
    assert {name for _, name, _ in list_wrong(report)} == {"norm_out"}


def test_rows_and_columns_that_are_not_halved(pipes, tmp_path, kind, monkeypatch):
    prepare = before_denoise._prepare_image_ids
    monkeypatch.setattr(
        before_denoise,
        "_prepare_image_ids",
        lambda height, width, scale, l_coord=0: prepare(height, width, 1.0, l_coord),
    )
    report = find(pipes, kind, tmp_path / "trace", steps=1)
    assert list_wrong(report)[0][1].startswith("mode_blocks.image.0.attn")


def test_references_with_positive_numbers(pipes, photos, tmp_path, kind, monkeypatch):
    prepare = before_denoise._prepare_image_ids
    monkeypatch.setattr(
        before_denoise,
        "_prepare_image_ids",
        lambda height, width, scale, l_coord=0: prepare(height, width, scale, -l_coord),
    )
    report = find(pipes, kind, tmp_path / "trace", steps=1, image=photos[:1])
    first = list_wrong(report)[0]
    assert first[:1] == ("transformer.000",) and "attn" in first[1]


def test_a_map_that_gets_its_own_time(pipes, tmp_path, monkeypatch):
    step = denoise.Flux3DistilledLoopDenoiser.__call__

    def call(self, components, block_state, i, t):
        times = block_state.timesteps
        block_state.timesteps = torch.cat([times[:1], times])
        result = step(self, components, block_state, i, t)
        block_state.timesteps = times
        return result

    monkeypatch.setattr(denoise.Flux3DistilledLoopDenoiser, "__call__", call)
    report = find(pipes, "distilled", tmp_path / "trace")
    assert list_wrong(report) == [(f"transformer.00{i}", "", "end of the step") for i in range(2)]
    assert list_causes(report) == {"the time to which the step leads is its own"}


def test_times_are_recorded_as_they_are_embedded(pipes, tmp_path, kind):
    """Whatever their format: the transformer multiplies in that of the tokens."""
    pipe, _ = pipes[kind]
    transformer = copy.deepcopy(pipe.transformer).to(torch.bfloat16)
    embedded, right = [], pipe.transformer
    transformer.time_proj.register_forward_pre_hook(lambda module, args: embedded.append(args[0]))

    def hook(module, args, kwargs):
        times = {key: x.float() + 1e-3 for key, x in kwargs.items() if key.endswith("timestep")}
        return args, kwargs | times

    transformer.register_forward_pre_hook(hook, with_kwargs=True, prepend=True)
    set_scale(pipe, 1.0)
    pipe.update_components(transformer=transformer)
    try:
        with ldmref.recording(pipe, tmp_path / "trace") as trace:
            run(pipe, "a red cat", 5, num_inference_steps=2, **SIZE)
    finally:
        pipe.update_components(transformer=right)
    step = 3 if kind == "distilled" else 2  # calls of `time_proj` in each step: with 0, and the end
    for number, first in enumerate(embedded[::step]):
        recorded = trace.trace.tensors[f"transformer.{number:03}//input.timestep"]
        assert float(recorded[0]) == float(first[0])
    ends = embedded[2::step] if kind == "distilled" else []
    for number, end in enumerate(ends):
        recorded = trace.trace.tensors[f"transformer.{number:03}//input.target_timestep"]
        assert float(recorded[0]) == float(end[0])


def test_padding_at_another_position(pipes, tmp_path, kind, monkeypatch):
    """Of transformers 5, where the pipeline does not say it."""
    fill = torch.Tensor.masked_fill

    def masked_fill(self, mask, value):
        is_position = value == 1 and self.dtype == torch.int64
        return fill(self, mask, 0 if is_position else value)

    monkeypatch.setattr(torch.Tensor, "masked_fill", masked_fill)
    report = find(pipes, kind, tmp_path / "trace", steps=1)
    first = list_wrong(report)[0]
    assert first[0] == "text_encoder" and first[1].startswith("layers.0.self_attn")


def test_a_scale_that_is_not_the_one_of_the_guider(pipes, tmp_path, monkeypatch):
    forward = ClassifierFreeGuidance.forward

    def guide(self, pred_cond, pred_uncond=None):
        found = forward(self, pred_cond, pred_uncond)
        found.pred = found.pred + pred_cond - pred_uncond
        return found

    monkeypatch.setattr(ClassifierFreeGuidance, "forward", guide)
    report = find(pipes, "base", tmp_path / "trace", steps=1)
    assert list_wrong(report)[0][0] == "guidance.000"


def test_encoded_references_are_compared(pipes, photos, tmp_path, kind, monkeypatch):
    """Several references are cropped, and one is kept whole."""
    resize = encoders.Flux3ImageProcessor.preprocess

    def preprocess(self, image, resize_mode="fill"):
        return resize(self, image, "crop")

    monkeypatch.setattr(encoders.Flux3ImageProcessor, "preprocess", preprocess)
    report = find(pipes, kind, tmp_path / "trace", steps=1, image=photos[:1])
    unjudged = [row for row in report.rows if row.call == "vae.encode" and row.verdict != "equal"]
    assert unjudged
