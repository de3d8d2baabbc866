"""Masks and states that networks are given, with a whole pipeline as the original."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest

import ldmref
from ldmref.apps.cli.main import main
from ldmref.locate import diff_modules

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import diffusers
import flux2_pipelines
import krea2_pipelines
import qwen_image_21_pipelines
import sd3_networks
import torch
import transformers
import z_image_pipelines
from mask_faults import CHANGES, LONG, MIDDLE, SHORT, hook_argument, in_format, made, record_batch
from qwen3_networks import write_vocabulary

QWEN, KREA, Z_IMAGE, FLUX, SD3 = "qwen-image-2.1", "krea2", "z-image", "flux2", "sd3"
PIXART = "pixart"  # which no family of ldmref reads
FORMATS = ("float32", "bfloat16")
MASK, TEXT = "mask of the text", "text"
WORDS = {
    "inverted": "the mask is inverted",
    "one late": "the mask is one token late",
    "one early": "the mask is one token early",
    "left out": "padding is not masked",
    "of another row": "mask",
}


def make_pixart():
    """Return a small random PixArt."""
    torch.manual_seed(0)
    transformer = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        cross_attention_dim=16,
        sample_size=8,
        caption_channels=40,
        use_additional_conditions=False,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=[8, 12],
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
    )
    tokenizer = transformers.T5TokenizerFast.from_pretrained(sd3_networks.T5)
    encoder = sd3_networks.make_t5()
    scheduler = diffusers.DPMSolverMultistepScheduler()
    pipe = diffusers.PixArtSigmaPipeline(
        tokenizer, encoder, vae.eval(), transformer.eval(), scheduler
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    """Return a function of a family and a format: a pipeline, and a copy as the original."""
    found = {}

    def make(family, dtype="float32"):
        if (family, dtype) not in found:
            folder = tmp_path_factory.mktemp("tokenizer")
            makers = {
                QWEN: qwen_image_21_pipelines.make_pipeline,
                KREA: lambda: krea2_pipelines.make_pipeline(folder),
                Z_IMAGE: lambda: z_image_pipelines.make_pipeline(write_vocabulary(folder)),
                FLUX: lambda: flux2_pipelines.make_pipeline(write_vocabulary(folder)),
                SD3: lambda: sd3_networks.make_pipeline("3.5 medium"),
                PIXART: make_pixart,
            }
            pipe = makers[family]()
            if dtype != "float32":
                in_format(pipe, tmp_path_factory.mktemp("wide"), getattr(torch, dtype))
            found[family, dtype] = pipe, copy_of(pipe)
        return found[family, dtype]

    return make


def copy_of(pipe):
    """Return a copy of a pipeline and of its networks."""
    made = copy.copy(pipe)
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            vars(made)[name] = copy.deepcopy(part)
    return made


def record(pipe, family, path, prompts=None, **more):
    more = {"num_inference_steps": 1, **more}
    if family != PIXART:
        return record_batch(pipe, family, path, prompts, **more)
    options = {"width": 16, "height": 16, "guidance_scale": 1.0}
    options |= {"max_sequence_length": 32, "clean_caption": False, "output_type": "np"}
    options |= {"use_resolution_binning": False}
    with ldmref.recording(pipe, path) as run:
        pipe(prompts or [SHORT, LONG], generator=torch.Generator().manual_seed(5), **options | more)
    return run.trace


def rows_of(report, kind):
    return [row for row in report.rows if row.kind == kind]


def describe(report):
    return [(row.name, row.kind, row.verdict, row.cause, row.note) for row in report.faults]


GUIDED = {
    QWEN: {"true_cfg_scale": 3.0, "negative_prompt": ["", MIDDLE]},
    KREA: {"guidance_scale": 2.0, "negative_prompt": [MIDDLE, ""]},
    Z_IMAGE: {"guidance_scale": 2.0, "negative_prompt": [LONG, ""]},
    FLUX: {"guidance_scale": 4.0},
    SD3: {"guidance_scale": 4.0, "negative_prompt": ["", MIDDLE]},
    PIXART: {"guidance_scale": 4.0, "negative_prompt": ["", MIDDLE]},
}


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("dtype", [*FORMATS, "float16"])
@pytest.mark.parametrize("family", GUIDED)
def test_a_right_run_is_silent(subjects, tmp_path, family, dtype, guided):
    pipe, original = subjects(family, dtype)
    options = {**GUIDED[family], "num_inference_steps": 2} if guided else {}
    report = diff_modules(record(pipe, family, tmp_path / "run", **options), original)
    assert not report.faults, describe(report)
    assert {row.verdict for row in rows_of(report, TEXT)} == {"equal"}
    masks = rows_of(report, MASK)
    assert {row.verdict for row in masks} <= {"equal"}
    assert bool(masks) == (family != SD3)  # whose text encoders are given none
    assert report.verdict == "incomplete"  # for the steps


PLACES = [(QWEN, "given"), (KREA, "given"), (PIXART, "given")] + [
    (family, "encoder given") for family in GUIDED if family != SD3
]


@pytest.mark.parametrize(
    ("change", "dtype"), [*((x, "float32") for x in CHANGES), ("one early", "bfloat16")]
)
@pytest.mark.parametrize(("family", "place"), PLACES)
def test_a_wrong_mask_that_is_given_is_named(subjects, tmp_path, family, place, change, dtype):
    pipe, original = subjects(family, dtype)
    if family == PIXART:
        encoder = place == "encoder given"
        argument = "attention_mask" if encoder else "encoder_attention_mask"
        network = pipe.text_encoder if encoder else pipe.transformer
        handle = hook_argument(network, argument, change)
        try:
            trace = record(pipe, family, tmp_path / "run")
        finally:
            handle.remove()
    else:
        with made(pipe, family, place, change):
            trace = record(pipe, family, tmp_path / "run")
    report = diff_modules(trace, original)
    name = "text_encoder" if place == "encoder given" else "transformer"
    faults = report.faults
    assert {row.call.kind for row in faults} == {name}, describe(report)
    assert {row.kind for row in faults} == {MASK}, describe(report)
    assert all(WORDS[change] in row.cause for row in faults if not row.layer), describe(report)


def test_the_command_names_a_wrong_mask(subjects, tmp_path, monkeypatch, capsys):
    pipe, original = subjects(PIXART)
    monkeypatch.setattr(ldmref, "made_for_this_test", lambda: original, raising=False)
    handle = hook_argument(pipe.transformer, "encoder_attention_mask", "inverted")
    try:
        record(pipe, PIXART, tmp_path / "run")
    finally:
        handle.remove()
    assert main(["diff", str(tmp_path / "run"), "--against", "ldmref:made_for_this_test"]) == 4
    assert "the mask is inverted" in capsys.readouterr().out


# -- states of text encoders ----------------------------------------------------------------------


def select(pipe, index):
    """Let a pipeline read the states of another layer than the last but one."""

    def change(module, args, kwargs, output):
        states = list(output.hidden_states)
        states[-2] = states[index]
        output.hidden_states = tuple(states)
        return output

    return pipe.text_encoder.register_forward_hook(change, with_kwargs=True)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize(
    ("index", "cause"),
    [(-1, "states of 1 layer later are selected"), (-3, "states of 1 layer earlier are selected")],
)
def test_states_of_another_layer_are_named(subjects, tmp_path, index, cause, dtype):
    pipe, original = subjects(Z_IMAGE, dtype)
    handle = select(pipe, index)
    try:
        trace = record(pipe, Z_IMAGE, tmp_path / "run")
    finally:
        handle.remove()
    causes = {(row.kind, row.cause) for row in diff_modules(trace, original).faults}
    assert (TEXT, cause) in causes


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_norm_of_the_selected_states_is_named(subjects, tmp_path, dtype):
    pipe, original = subjects(FLUX, dtype)
    norm = copy.deepcopy(pipe.text_encoder.model.norm)

    def change(module, args, kwargs, output):
        output.hidden_states = tuple(norm(x) for x in output.hidden_states)
        return output

    handle = pipe.text_encoder.register_forward_hook(change, with_kwargs=True)
    try:
        trace = record(pipe, FLUX, tmp_path / "run")
    finally:
        handle.remove()
    faults = [row for row in diff_modules(trace, original).faults if row.kind == TEXT]
    assert {row.cause for row in faults} == {"the final norm is applied to the selected states"}


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize(
    ("count", "cause"), [(-2, "2 tokens at the start not dropped"), (3, "3 tokens too many")]
)
def test_another_number_of_dropped_tokens_is_named(
    subjects, tmp_path, monkeypatch, count, cause, dtype
):
    pipe, original = subjects(KREA, dtype)
    own = type(pipe).encode_prompt

    def encode(self, *args, **kwargs):
        states, mask = own(self, *args, **kwargs)[:2]
        return states.roll(-count, 1), mask

    monkeypatch.setattr(type(pipe), "encode_prompt", encode)
    trace = record(pipe, KREA, tmp_path / "run")
    monkeypatch.undo()
    faults = [row for row in diff_modules(trace, original).faults if row.kind == TEXT]
    assert faults and all(cause in row.cause for row in faults)


def test_exchanged_prompts_are_named(subjects, tmp_path):
    pipe, original = subjects(SD3)

    def hook(module, args, kwargs):
        return args, kwargs | {"encoder_hidden_states": kwargs["encoder_hidden_states"].flip(0)}

    handle = pipe.transformer.register_forward_pre_hook(hook, with_kwargs=True, prepend=True)
    try:
        trace = record(pipe, SD3, tmp_path / "run")
    finally:
        handle.remove()
    faults = diff_modules(trace, original).faults
    assert {(row.kind, row.cause) for row in faults} == {(TEXT, "rows of prompts are exchanged")}


def test_a_wrong_layer_of_the_encoder_is_not_blamed_on_the_text(subjects, tmp_path):
    pipe, original = subjects(Z_IMAGE)
    layer = pipe.text_encoder.model.layers[0].mlp.up_proj
    handle = layer.register_forward_hook(lambda module, args, output: 1.5 * output)
    try:
        trace = record(pipe, Z_IMAGE, tmp_path / "run")
    finally:
        handle.remove()
    report = diff_modules(trace, original)
    assert {row.layer for row in report.faults} == {"layers.0.mlp.up_proj"}
    assert {row.verdict for row in rows_of(report, TEXT)} == {"equal"}


# -- what is not judged ---------------------------------------------------------------------------


def masks_not_judged(report):
    found = rows_of(report, MASK)
    assert {row.verdict for row in found} == {"not judged"} and report.verdict == "incomplete"
    return "; ".join(row.note for row in found)


def test_masks_without_a_pipeline_are_not_judged(subjects, tmp_path):
    pipe, original = subjects(PIXART)
    trace = record(pipe, PIXART, tmp_path / "run")
    networks = {name: getattr(original, name) for name in ("text_encoder", "transformer", "vae")}
    notes = masks_not_judged(diff_modules(trace, networks))
    assert "encoder_attention_mask is given to it, and no module" in notes
    alone = SimpleNamespace(components=networks)  # which generates nothing
    assert "attention_mask is given to it" in masks_not_judged(diff_modules(trace, alone))


@pytest.mark.parametrize(
    ("without", "why"),
    [("request", "the request of the run was not recorded"), ("pipeline", "the port is no PixArt")],
)
def test_masks_of_another_or_an_unknown_request_are_not_judged(subjects, tmp_path, without, why):
    pipe, original = subjects(PIXART)
    trace = record(pipe, PIXART, tmp_path / "run")
    manifest = {key: x for key, x in trace.manifest.items() if key != without}
    assert why in masks_not_judged(diff_modules(replace(trace, manifest=manifest), original))


def test_a_request_with_arrays_is_not_judged(subjects, tmp_path):
    pipe, original = subjects(PIXART)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    trace = record(pipe, PIXART, tmp_path / "run", latents=latents)
    assert "the request has arrays or images" in masks_not_judged(diff_modules(trace, original))


def test_a_pipeline_that_fails_leaves_masks_not_judged(subjects, tmp_path, monkeypatch):
    pipe, original = subjects(PIXART)
    trace = record(pipe, PIXART, tmp_path / "run")

    def fail(self, *args, **kwargs):
        raise OSError("no vocabulary")

    monkeypatch.setattr(type(original), "encode_prompt", fail)
    assert "does not run: OSError: no vocabulary" in masks_not_judged(diff_modules(trace, original))


def test_the_original_is_as_before(subjects, tmp_path):
    pipe, original = subjects(PIXART)
    trace = record(pipe, PIXART, tmp_path / "run")
    before = {name: vars(part).keys() for name, part in original.components.items() if part}
    diff_modules(trace, original)
    after = {name: vars(part).keys() for name, part in original.components.items() if part}
    assert before == after and type(original) is diffusers.PixArtSigmaPipeline
