"""Live pipelines of FLUX.2 klein: right runs have no fault, and known faults are named."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.locate import diff_traces
from ldmref.trace import read_trace, record_trace

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import diffusers
import torch
from diffusers.models.normalization import AdaLayerNormContinuous
from diffusers.models.transformers import transformer_flux2
from diffusers.pipelines.flux2 import pipeline_flux2_klein as klein
from flux2_pipelines import LAYERS, make_pipeline
from qwen3_networks import write_vocabulary

SHORT = "a red cat"
LONG = "the blue house of a dog on a table, painted by an assistant of a cat"
KLEIN = klein.Flux2KleinPipeline
BLOCKS = ("transformer_blocks.0", "transformer_blocks.1")
SINGLE = ("single_transformer_blocks.0", "single_transformer_blocks.1")
ATTENTION = {f"{block}.attn.attention" for block in (*BLOCKS, *SINGLE)}
PICTURES = [
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (*shape, 3), np.uint8))
    for i, shape in enumerate(((64, 80), (67, 98)))
]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return make_pipeline(write_vocabulary(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def model(folder):
    return ldmref.load(folder, dtype="float32")


def record(pipe, path, prompts=(SHORT,), scale=1.0, steps=2, **options):
    """Record a run of the pipeline."""
    shared = {"num_inference_steps": steps, "guidance_scale": scale, "max_sequence_length": 64}
    if not isinstance(pipe, diffusers.Flux2KleinInpaintPipeline):
        shared |= {"width": 24, "height": 16}
    generator = torch.Generator().manual_seed(5)
    with ldmref.recording(pipe, path) as trace:
        pipe(
            prompt=[*prompts],
            generator=generator,
            text_encoder_out_layers=LAYERS,
            **shared,
            **options,
        )
    return trace.trace


# -- right runs -----------------------------------------------------------------------------------


RIGHT = {
    "alone": {},
    "guided": {"scale": 4.0},
    "a scale below 1": {"scale": 0.5},
    "unequal prompts": {"prompts": (SHORT, LONG), "scale": 4.0},
    "a reference": {"image": PICTURES[:1]},
    "two references, guided": {"image": PICTURES, "scale": 4.0, "prompts": (SHORT, LONG)},
    "five steps": {"steps": 5},
}


@pytest.mark.parametrize("name", [*RIGHT])
def test_a_right_run_has_no_fault(pipe, model, tmp_path, name):
    report = diff_traces(record(pipe, tmp_path / "trace", **RIGHT[name]), model)
    counts = report.counts()
    assert counts["differs"] == counts["not judged"] == 0, str(report)
    assert counts["equal"] > 300
    assert {"transformer.000", "vae.decode"} <= {row.call for row in report.rows}


def test_a_distilled_pipeline_ignores_the_scale(folder, tmp_path):
    pipe = make_pipeline(folder / "tokenizer", is_distilled=True)
    pipe.save_pretrained(tmp_path / "model")
    trace = record(pipe, tmp_path / "trace", scale=4.0)
    assert trace.manifest["params"]["guidance_scale"] == 1.0
    counts = diff_traces(trace, ldmref.load(tmp_path / "model", dtype="float32")).counts()
    assert counts["differs"] == counts["not judged"] == 0


@pytest.mark.parametrize("mode", ["txt2img", "img2img"])
def test_a_run_of_ldmref_with_references_has_no_fault(model, tmp_path, mode):
    size = {"image": PICTURES[0]} if mode == "img2img" else {"width": 24, "height": 16}
    plan = modes.plan(mode, model, prompt=SHORT, steps=2, seed=1, references=PICTURES, **size)
    record_trace(plan, model, tmp_path / "trace")
    report = diff_traces(read_trace(tmp_path / "trace"), model)
    assert report.equal and report.counts()["not judged"] == 0


# -- faults of ports, as their threads describe them ----------------------------------------------


def constant_mu(patch, pipe):
    """InvokeAI#8838: one mu at every size and number of steps."""
    patch.setattr(klein, "compute_empirical_mu", lambda **sizes: 2.02)


def mu_of_cells(patch, pipe):
    """sglang#21041: mu of the cells of z, of which four are a token."""
    right = klein.compute_empirical_mu
    patch.setattr(
        klein,
        "compute_empirical_mu",
        lambda image_seq_len, num_steps: right(4 * image_seq_len, num_steps),
    )


def raw_latents(patch, pipe):
    """InvokeAI#8838: the batch norm is not undone before the decoder."""
    right, bn = KLEIN._unpatchify_latents, pipe.vae.bn
    mean, variance = (x.view(1, -1, 1, 1) for x in (bn.running_mean, bn.running_var))

    def unfold(latents):
        return right((latents - mean) / torch.sqrt(variance + 1e-4))

    patch.setattr(KLEIN, "_unpatchify_latents", staticmethod(unfold))


def raw_references(patch, pipe):
    """A batch norm that references do not pass."""

    def encode(self, image, generator):
        mean = klein.retrieve_latents(self.vae.encode(image), generator, "argmax")
        return self._patchify_latents(mean)

    patch.setattr(KLEIN, "_encode_vae_image", encode)


def compacted(patch, pipe):
    """modular#6153: the padding of the prompt is removed."""
    right = KLEIN._get_qwen3_prompt_embeds

    def encode(*arguments, **options):
        return right(*arguments, **options)[:, :20]

    patch.setattr(KLEIN, "_get_qwen3_prompt_embeds", staticmethod(encode))


def references_in_the_image(patch, pipe):
    """InvokeAI#9155: references have the positions of the image."""
    right = KLEIN._prepare_image_ids
    patch.setattr(KLEIN, "_prepare_image_ids", staticmethod(lambda images: right(images, scale=0)))


def text_in_one_place(patch, pipe):
    """All tokens of the text have the position 0, as in Flux.1."""
    right = KLEIN._prepare_text_ids
    patch.setattr(KLEIN, "_prepare_text_ids", staticmethod(lambda states: 0 * right(states)))


def theta_of_flux1(patch, pipe):
    patch.setattr(pipe.transformer.pos_embed, "theta", 10000)


def exchanged_gate(patch, pipe):
    """The second half of the MLP is the gate."""

    def gate(self, x):
        first, second = x.chunk(2, dim=-1)
        return self.gate_fn(second) * first

    patch.setattr(transformer_flux2.Flux2SwiGLU, "forward", gate)


def original_last_layer(patch, pipe):
    """The makers' order of shift and scale with diffusers' weights."""

    def norm(self, x, conditioning):
        shift, scale = self.linear(self.silu(conditioning)).chunk(2, dim=1)
        return self.norm(x) * (1 + scale)[:, None] + shift[:, None]

    patch.setattr(AdaLayerNormContinuous, "forward", norm)


def scale_first(patch, pipe):
    """Scale, shift and gate instead of shift, scale and gate in all blocks."""
    right = transformer_flux2.Flux2Modulation.split

    def split(rows, count):
        return tuple((scale, shift, gate) for shift, scale, gate in right(rows, count))

    patch.setattr(transformer_flux2.Flux2Modulation, "split", staticmethod(split))


def symmetric_padding(patch, pipe):
    """flux-2-swift-mlx#106: a border of one pixel on all sides of the encoder's images."""
    layer = pipe.vae.encoder.down_blocks[0].downsamplers[0]

    def shrink(x, *arguments, **options):
        conv = layer.conv
        return torch.nn.functional.conv2d(x, conv.weight, conv.bias, stride=2, padding=1)

    patch.setattr(layer, "forward", shrink)


def read_padding(patch, pipe):
    """The text encoder reads padding."""
    right = pipe.text_encoder.forward

    def encode(input_ids, attention_mask, **options):
        mask = torch.ones_like(attention_mask)
        return right(input_ids=input_ids, attention_mask=mask, **options)

    patch.setattr(pipe.text_encoder, "forward", encode)


def with_thoughts(patch, pipe):
    """The chat of a model that thinks, without the empty block."""
    kind = type(pipe.tokenizer)
    right = kind.apply_chat_template

    def apply(self, messages, **options):
        return right(self, messages, **options | {"enable_thinking": True})

    patch.setattr(kind, "apply_chat_template", apply)


def other_layers(patch, pipe):
    """Each layer that is read is one too early."""
    right = KLEIN._get_qwen3_prompt_embeds

    def encode(*arguments, hidden_states_layers, **options):
        layers = [number - 1 for number in hidden_states_layers]
        return right(*arguments, hidden_states_layers=layers, **options)

    patch.setattr(KLEIN, "_get_qwen3_prompt_embeds", staticmethod(encode))


REFERENCE = {"image": PICTURES[:1]}
MODULATED = {f"{b}.{x}" for b in BLOCKS for x in ("attn", "ff", "ff_context")}
# fault -> options of the run, kinds of calls and layers that are named, and words of a cause
FAULTS = {
    constant_mu: ({}, {("schedule", "")}, "mu 2.02 at every size"),
    mu_of_cells: ({}, {("schedule", "")}, "96 image tokens instead of 24"),
    raw_latents: ({}, {("vae.decode", "")}, "the latents are not denormalised"),
    raw_references: (REFERENCE, {("transformer", "")}, "the latents are not normalised"),
    compacted: ({}, {("transformer", "")}, ""),
    references_in_the_image: (REFERENCE, {("transformer", x) for x in ATTENTION}, ""),
    text_in_one_place: ({}, {("transformer", x) for x in ATTENTION}, ""),
    theta_of_flux1: ({}, {("transformer", x) for x in ATTENTION}, "theta 10000 instead of 2000"),
    exchanged_gate: (
        {},
        {("transformer", f"{b}.{x}.linear_out") for b in BLOCKS for x in ("ff", "ff_context")}
        | {("transformer", f"{b}.{x}.silu") for b in BLOCKS for x in ("ff", "ff_context")}
        | {("transformer", f"{b}.attn.{x}") for b in SINGLE for x in ("silu", "to_out")},
        "",
    ),
    original_last_layer: ({}, {("transformer", "norm_out")}, "scale and shift are exchanged"),
    scale_first: (
        {},
        {("transformer", x) for x in MODULATED | {f"{b}.attn" for b in SINGLE}},
        "",
    ),
    symmetric_padding: (
        REFERENCE,
        {("vae.encode", "encoder.down_blocks.0.downsamplers.0")},
        "padded on the left and top",
    ),
    read_padding: (
        {},
        {("text_encoder", f"layers.{i}.self_attn.attention") for i in range(3)},
        "the padding mask is missing",
    ),
    with_thoughts: ({}, {("tokens", ""), ("text_encoder", "")}, ""),
    other_layers: ({}, {("transformer", "")}, ""),
}


@pytest.mark.parametrize("fault", [*FAULTS], ids=lambda fault: fault.__name__)
def test_a_fault_is_named(pipe, model, tmp_path, fault):
    options, named, cause = FAULTS[fault]
    with pytest.MonkeyPatch.context() as patch:
        fault(patch, pipe)
        trace = record(pipe, tmp_path / "trace", **options)
    rows = [row for row in diff_traces(trace, model).rows if row.verdict == "differs"]
    assert {(row.call.partition(".0")[0], row.layer) for row in rows} == named
    assert any(cause in row.cause for row in rows)


def test_a_wrong_layer_is_named(pipe, model, tmp_path):
    for name in ("transformer_blocks.1.ff_context", "single_transformer_blocks.0.attn.to_out"):
        module = pipe.transformer.get_submodule(name)
        hook = module.register_forward_hook(lambda module, args, output: 1.01 * output)
        try:
            trace = record(pipe, tmp_path / name, steps=1)
        finally:
            hook.remove()
        rows = diff_traces(trace, model).rows
        assert {row.layer for row in rows if row.verdict == "differs"} == {name}
