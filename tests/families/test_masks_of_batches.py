"""Prompts of unequal length in one batch: right runs are silent, and wrong masks are named."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

import ldmref
from ldmref.locate import diff_traces
from ldmref.locate.report import summary

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import flux2_pipelines
import flux3_pipelines
import flux_networks
import krea2_pipelines
import qwen_image_21_pipelines
import sd3_networks
import torch
import z_image_pipelines
from diffusers.guiders import ClassifierFreeGuidance
from mask_faults import (
    CHANGES,
    LONG,
    LONGER,
    MIDDLE,
    SHORT,
    T5,
    TRANSFORMERS,
    exchange_argument,
    exchange_ids,
    in_format,
    made,
    mask_t5,
    pool_the_last,
    record_batch,
)
from qwen3_networks import write_vocabulary

QWEN, KREA, Z_IMAGE, FLUX = ("qwen-image-2.1", "krea2", "z-image", "flux2")
SD3, FLUX_1, FLUX_3, FLUX_3_MAP = ("sd3", "flux", "flux3", "flux3 distilled")
WORDS = {
    "inverted": "the mask is inverted",
    "one late": "the mask is one token late",
    "one early": "the mask is one token early",
    "left out": "mask",  # padding is not masked, the padding mask is missing
    "of another row": "mask",  # rows are exchanged, each row has the mask of another row
}
# Texts pad on the right, so causal attention needs no mask.
HARMLESS = {(Z_IMAGE, "encoder", "left out")}


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    """Return a function of a family and a format: its pipeline, and our model of its folder."""
    found = {}

    def make(family, dtype="float32"):
        if (family, dtype) not in found:
            folder = tmp_path_factory.mktemp("tokenizer")
            flux3 = flux3_pipelines.make_pipeline
            makers = {
                QWEN: qwen_image_21_pipelines.make_pipeline,
                KREA: lambda: krea2_pipelines.make_pipeline(folder),
                Z_IMAGE: lambda: z_image_pipelines.make_pipeline(write_vocabulary(folder)),
                FLUX: lambda: flux2_pipelines.make_pipeline(write_vocabulary(folder)),
                SD3: lambda: sd3_networks.make_pipeline("3.5 medium"),
                FLUX_1: lambda: flux_networks.make_pipeline(True),
                FLUX_3: lambda: flux3(write_vocabulary(folder)),
                FLUX_3_MAP: lambda: flux3(write_vocabulary(folder), flow_map=True),
            }
            pipe, path = makers[family](), tmp_path_factory.mktemp("model")
            if dtype != "float32":
                in_format(pipe, tmp_path_factory.mktemp("wide"), getattr(torch, dtype))
            save = (
                flux3_pipelines.save_pipeline if family in (FLUX_3, FLUX_3_MAP) else save_pipeline
            )
            save(pipe, path)
            found[family, dtype] = pipe, ldmref.load(path, dtype="float32")
        return found[family, dtype]

    return make


def save_pipeline(pipe, path):
    pipe.save_pretrained(path)


def describe(report):
    return [(row.name, row.kind, row.verdict, row.cause, row.note) for row in report.faults]


TWO, THREE = [SHORT, LONG], [LONG, SHORT, MIDDLE]
CFG = {"true_cfg_scale": 3.0, "negative_prompt": ["", MIDDLE]}
RIGHT = [
    (QWEN, {}),
    (QWEN, {"prompts": SHORT}),
    (QWEN, {"prompts": [SHORT, "a red dog"]}),
    (QWEN, {"prompts": THREE}),
    (QWEN, {"use_kv_cache": True}),
    (QWEN, CFG),
    (QWEN, CFG | {"use_kv_cache": True}),
    (QWEN, {"num_images_per_prompt": 2}),
    (QWEN, {"attention": "eager"}),
    (QWEN, {"dtype": "bfloat16"}),
    (QWEN, {"dtype": "bfloat16", "prompts": THREE}),
    (KREA, {}),
    (KREA, {"prompts": THREE}),
    (KREA, {"guidance_scale": 2.0, "negative_prompt": [MIDDLE, ""]}),
    (KREA, {"attention": "eager"}),
    (KREA, {"dtype": "bfloat16"}),
    (Z_IMAGE, {}),
    (Z_IMAGE, {"guidance_scale": 2.0, "negative_prompt": [LONG, ""]}),
    (Z_IMAGE, {"attention": "eager"}),
    (Z_IMAGE, {"dtype": "bfloat16"}),
    (FLUX, {}),
    (FLUX, {"prompts": THREE, "guidance_scale": 4.0}),
    (FLUX, {"dtype": "bfloat16"}),
    (SD3, {}),
    (SD3, {"prompts": THREE, "guidance_scale": 4.0}),
    (SD3, {"guidance_scale": 4.0, "negative_prompt": ["", MIDDLE], "dtype": "bfloat16"}),
    (FLUX_1, {}),
    (FLUX_1, {"prompts": THREE, "true_cfg_scale": 3.0, "negative_prompt": ["", MIDDLE, LONG]}),
    (FLUX_1, {"dtype": "bfloat16"}),
    (FLUX_3, {"negative_prompt": LONGER}),  # of another window
    (FLUX_3, {"negative_prompt": LONGER, "num_images_per_prompt": 2, "dtype": "bfloat16"}),
    (FLUX_3_MAP, {"prompts": LONGER}),
    (FLUX_3_MAP, {"num_inference_steps": 4, "dtype": "bfloat16"}),
]


@pytest.mark.parametrize(("family", "options"), RIGHT)
def test_a_right_run_is_silent(subjects, tmp_path, family, options):
    options = dict(options)
    attention = options.pop("attention", "sdpa")
    pipe, model = subjects(family, options.pop("dtype", "float32"))
    pipe.text_encoder.set_attn_implementation(attention)
    prompts = options.pop("prompts", None)
    try:
        trace = record_batch(pipe, family, tmp_path / "trace", prompts, **options)
    finally:
        pipe.text_encoder.set_attn_implementation("sdpa")
    report = diff_traces(trace, model)
    counts = report.counts()
    assert counts["differs"] == counts["not judged"] == 0, describe(report)
    assert counts["equal"] > 180


FAULTS = [
    (family, place, change)
    for family, places in {
        QWEN: ("given", "encoder given", "transformer", "encoder"),
        KREA: ("given", "encoder given", "transformer", "encoder"),
        Z_IMAGE: ("encoder given", "transformer", "encoder"),
        FLUX: ("encoder given", "encoder"),
        FLUX_3: ("encoder given", "encoder"),
    }.items()
    for place in places
    for change in CHANGES
    if family != FLUX_3 or change != "of another row"  # which a call of one prompt does not have
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("family", "place", "change"), FAULTS)
def test_a_wrong_mask_is_named(subjects, tmp_path, family, place, change, dtype):
    pipe, model = subjects(family, dtype)
    with made(pipe, family, place, change):
        trace = record_batch(pipe, family, tmp_path / "trace", seed=len(place) + len(change))
    report = diff_traces(trace, model)
    if (family, place, change) in HARMLESS:
        assert not report.faults, describe(report)
        return
    first = "text_encoder" if place.startswith("encoder") else "transformer"
    assert {re.split("[.~]", row.call)[0] for row in report.faults} == {first}, describe(report)
    assert any(WORDS[change] in row.cause for row in report.faults), describe(report)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("change", ["right", *CHANGES])
@pytest.mark.parametrize("family", [SD3, FLUX_1])
def test_a_mask_that_t5_does_not_have_is_named(subjects, tmp_path, family, change, dtype):
    """T5 reads its padding in these families; a mask that hides nothing is harmless."""
    pipe, model = subjects(family, dtype)
    handle = mask_t5(getattr(pipe, T5[family]), change)
    try:
        trace = record_batch(pipe, family, tmp_path / "trace", num_inference_steps=1)
    finally:
        handle.remove()
    report = diff_traces(trace, model)
    assert report.counts()["not judged"] == 0
    if change == "left out":
        assert not report.faults, describe(report)
        return
    assert {row.call for row in report.faults} == {T5[family]}, describe(report)
    assert {row.kind for row in report.faults} == {"own", "attention mask"}
    words = {"right": "that should not be there"} | WORDS
    causes = [(row.kind, row.cause) for row in report.faults]
    assert all(x.startswith("a padding mask that should not be there") for _, x in causes), causes
    assert all(words[change] in x for kind, x in causes if kind == "own"), causes


def causes_of_text(pipe, model, family, path, handle):
    """Return the causes of all faults, by kind, of a run with a hook."""
    try:
        trace = record_batch(pipe, family, path)
    finally:
        handle.remove()
    return {row.kind: row.cause for row in diff_traces(trace, model).faults}


EXCHANGED = "rows of prompts are exchanged"


@pytest.mark.parametrize(
    ("family", "argument", "kind", "cause"),
    [
        (QWEN, TRANSFORMERS[QWEN], "mask of the text", "rows of the mask are exchanged"),
        (KREA, TRANSFORMERS[KREA], "mask of the text", "rows of the mask are exchanged"),
        (SD3, "pooled_projections", "pooled text", EXCHANGED),
        (FLUX_1, "pooled_projections", "pooled text", EXCHANGED),
    ],
)
def test_texts_of_other_rows_are_named(subjects, tmp_path, family, argument, kind, cause):
    """With their masks or pooled texts: all is right but whose text it is."""
    pipe, model = subjects(family)
    handle = exchange_argument(pipe.transformer, "encoder_hidden_states", argument)
    found = causes_of_text(pipe, model, family, tmp_path / "trace", handle)
    assert found == {"text": EXCHANGED, kind: cause}


@pytest.mark.parametrize(
    ("family", "encoder", "causes"),
    [
        (SD3, "text_encoder", {}),
        (SD3, "text_encoder_2", {}),
        (SD3, "text_encoder_3", {}),
        (FLUX_1, "text_encoder", {"pooled text": "pooled at the end of the tokens that were read"}),
        (FLUX_1, "text_encoder_2", {}),
    ],
)
def test_prompts_of_other_rows_in_one_encoder_are_named(
    subjects, tmp_path, family, encoder, causes
):
    pipe, model = subjects(family)
    handle = exchange_ids(getattr(pipe, encoder))
    found = causes_of_text(pipe, model, family, tmp_path / "trace", handle)
    assert found == {"ids": EXCHANGED, "tokens": EXCHANGED, **causes}


@pytest.mark.parametrize(("family", "kind"), [(SD3, "own"), (FLUX_1, "pooled text")])
def test_a_pooled_row_of_padding_is_named(subjects, tmp_path, family, kind):
    pipe, model = subjects(family)
    handle = pool_the_last(pipe.text_encoder)
    found = causes_of_text(pipe, model, family, tmp_path / "trace", handle)
    assert found == {kind: "pooled at the last token instead of the first end token"}


def test_exchanged_texts_of_guidance_are_named(subjects, tmp_path, monkeypatch):
    """In families that run both predictions in calls of their own."""
    pipe, model = subjects(FLUX_3)
    prepare = ClassifierFreeGuidance.prepare_inputs

    def exchanged(self, data):
        return prepare(self, {name: pair[::-1] for name, pair in data.items()})

    monkeypatch.setattr(ClassifierFreeGuidance, "prepare_inputs", exchanged)
    trace = record_batch(pipe, FLUX_3, tmp_path / "trace", negative_prompt=MIDDLE)
    faults = diff_traces(trace, model).faults
    assert [(row.call, row.kind) for row in faults] == [
        (f"transformer.{i:03}", "text") for i in range(4)
    ]
    others = ("that of the call after", "that of the call before")
    assert [row.cause for row in faults] == [*others, *others]


@pytest.mark.parametrize("family", [QWEN, KREA])
def test_values_of_other_rows_are_named(subjects, tmp_path, family):
    pipe, model = subjects(family)
    layer = pipe.transformer.transformer_blocks[1].attn.to_v
    handle = layer.register_forward_hook(lambda module, args, output: output.flip(0))
    try:
        trace = record_batch(pipe, family, tmp_path / "trace")
    finally:
        handle.remove()
    faults = diff_traces(trace, model).faults
    assert {(row.layer, row.cause) for row in faults} == {
        ("transformer_blocks.1.attn.to_v", "batch halves swapped")
    }


def test_what_was_not_compared_is_counted(subjects, tmp_path):
    pipe, model = subjects(QWEN)
    batch = diff_traces(record_batch(pipe, QWEN, tmp_path / "batch"), model)
    alone = diff_traces(record_batch(pipe, QWEN, tmp_path / "alone", SHORT), model)
    kept = diff_traces(record_batch(subjects(FLUX)[0], FLUX, tmp_path / "kept"), subjects(FLUX)[1])
    by_layer = {row.name: row.padding for row in batch.rows}
    tokens = [e for e in batch.rows if e.name == "transformer.000/txt_in"]
    missing = by_layer["transformer.000/txt_in"]
    assert missing > 0 and tokens[0].verdict == "equal"
    # a norm of the blocks, with the image behind the text
    assert by_layer["transformer.000/transformer_blocks.0.attn.attention"] == missing
    assert by_layer["transformer.000/transformer_blocks.1.img_mlp"] == missing
    assert by_layer["transformer.000/img_in"] == by_layer["transformer.000/norm_out"] == 0
    assert f"rows of padding not compared: {batch.padding}" in summary(batch)
    assert batch.to_dict()["padding"] == batch.padding == sum(row.padding for row in batch.rows)
    assert alone.padding == kept.padding == 0  # FLUX.2 reads the states of padding
    assert "padding" not in summary(alone)


def test_a_fault_of_kept_rows_is_named_beside_padding(subjects, tmp_path):
    """Whose padding is a thousand times larger, which must not widen what is allowed."""
    pipe, model = subjects(QWEN)
    layer = pipe.transformer.transformer_blocks[0].attn.to_v

    def hook(module, args, output):
        changed = output.clone()
        changed[1, :3] *= 1.01  # the text of row 1 has no padding
        changed[0, 20:25] *= 1000.0
        return changed

    handle = layer.register_forward_hook(hook)
    try:
        trace = record_batch(pipe, QWEN, tmp_path / "trace")
    finally:
        handle.remove()
    report = diff_traces(trace, model)
    assert {row.layer for row in report.faults} >= {"transformer_blocks.0.attn.to_v"}
    assert all(row.call.startswith("transformer") for row in report.faults)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_padding_that_is_not_finite_is_no_fault(subjects, tmp_path, value):
    """As of softmaxes of rows without keys in some kernels."""
    pipe, model = subjects(KREA)
    layer = pipe.text_encoder.language_model.layers[0].self_attn.q_proj
    trace = record_batch(pipe, KREA, tmp_path / "trace")
    entries = [e for e in trace.entries if e.name == "text_encoder/layers.0.self_attn.q_proj"]
    [name] = entries[0].outputs.values()
    mask = next(e for e in trace.entries if e.name == "text_encoder/").inputs["attention_mask"]
    lost = trace.tensors[name].copy()
    lost[trace.tensors[mask] == 0] = value
    assert lost.shape[-1] == layer.out_features
    report = diff_traces(replace(trace, tensors={**trace.tensors, name: lost}), model)
    assert not report.faults, describe(report)
