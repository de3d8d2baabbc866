"""What a pipeline was asked for of its guidance is compared with what it used.

Every pipeline that the families read, and those of perturbed attention, with each argument that
asks for guidance: a right run has no fault, and one that uses something else has one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import diffusers
from asked_runs import (
    ARGUMENTS,
    MODULAR,
    OF_GUIDER,
    UNGUIDED,
    AskedRun,
    arguments_of_guidance,
    base_of,
    guided_kinds,
    judge,
    model_of,
    record,
    wrong_runs,
)

from ldmref.locate import diff_traces, pipeline
from ldmref.locate.pipeline import follow_diffusers, judge_host

KINDS = [*guided_kinds(), *MODULAR]
WRONG = [
    *wrong_runs(),
    *(AskedRun(k, guider={name: used}) for k in MODULAR for name, (_, used) in OF_GUIDER.items()),
]
OTHER_GUIDERS = sorted(
    name
    for name in dir(diffusers.guiders)
    if name.endswith("Guidance") and name not in ("BaseGuidance", "ClassifierFreeGuidance")
)
UNABLE = {
    "LTX2Guidance": "it is of videos",
    "AutoGuidance": "it names layers of other transformers",
    "PerturbedAttentionGuidance": "it names layers of other transformers",
    "SkipLayerGuidance": "it names layers of other transformers",
    "SmoothedEnergyGuidance": "it names layers of other transformers",
    "FrequencyDecoupledGuidance": "it needs kornia",
}


def faults_of(rows):
    return [(row.call, row.kind, row.cause, row.note) for row in rows if row.verdict == "differs"]


def test_every_argument_that_asks_for_guidance_is_in_the_table():
    for kind in guided_kinds():
        assert {*arguments_of_guidance(kind)} <= {*ARGUMENTS}, kind
    assert all(reason for reason in UNGUIDED.values())


# What ControlNets that are not given, and packed latents of a mask, are given is not compared.
APART = (
    "FluxControlInpaintPipeline", "FluxControlNetPipeline", "FluxControlNetImg2ImgPipeline",
    "FluxControlNetInpaintPipeline", "StableDiffusion3ControlNetPipeline",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_asked_for_and_used_has_no_fault(kind, tmp_path, monkeypatch):
    """The run is followed as a whole, from its request to its images."""
    found = []

    def follow(context):
        found.append(follow_diffusers(context))
        return found[-1]

    monkeypatch.setattr(pipeline, "follow_diffusers", follow)
    rows = judge(AskedRun(kind), tmp_path)
    assert not faults_of(rows)
    unjudged = [(row.call, row.kind, row.note) for row in rows if row.verdict == "not judged"]
    known = ("ControlNet" in kind) or kind == "FluxControlInpaintPipeline"
    assert known or not unjudged
    assert not isinstance(found[0], str) or kind in APART, found[0]


@pytest.mark.parametrize("run", WRONG, ids=lambda run: run.name.replace(" ", "-"))
def test_something_else_that_is_used_is_named(run, tmp_path):
    found = faults_of(judge(run, tmp_path))
    assert found
    kinds = ("guidance", "layers", "scale")
    assert all(any(word in kind for word in kinds) for _, kind, *_ in found), found


@pytest.mark.parametrize("name", OTHER_GUIDERS)
def test_other_guiders_are_not_judged(name, tmp_path):
    """Their right runs have no fault, and are not equal."""
    if name in UNABLE:
        pytest.skip(UNABLE[name])
    rows = judge(AskedRun(MODULAR[0], guider_class=name), tmp_path)
    assert not faults_of(rows)
    assert any(row.verdict == "not judged" and "guid" in row.note + row.kind for row in rows)


SKIPPING = AskedRun("StableDiffusion3Pipeline")


@pytest.mark.parametrize(
    ("used", "words"),
    [
        ({"skip_layer_guidance_scale": 0.3}, "0.3 instead of 2.8"),
        ({"skip_guidance_layers": [0]}, "0 instead of 1"),
        ({"skip_layer_guidance_stop": 0.5}, "prediction without layers is missing at this step"),
        ({"skip_layer_guidance_stop": 1.0}, ""),  # the same steps
        ({"skip_guidance_layers": None}, "prediction without layers is missing at this step"),
    ],
)
def test_skipped_layers_of_a_run_with_few_layers(used, words, tmp_path):
    """Layers that are recorded do not matter: the call says what it was asked to skip."""
    trace = record(SKIPPING._replace(used=used), tmp_path, layers=("*norm_out*",))
    report = diff_traces(trace, model_of("sd3"))
    assert report.equal == (not words)
    assert all(words in row.cause for row in report.faults)


def test_layers_that_were_not_recorded_are_not_judged(tmp_path):
    trace = record(SKIPPING, tmp_path)
    entries = tuple(
        replace(e, attributes={k: x for k, x in e.attributes.items() if k != "skip_layers"})
        for e in trace.entries
    )
    rows = judge_host(replace(trace, entries=entries), model_of("sd3"), "float32", [])
    notes = {row.note for row in rows if row.kind == "skipped layers"}
    assert notes == {"which layers were skipped was not recorded"}


@pytest.mark.parametrize("name", ["skip_layer_guidance_scale", "skip_layer_guidance_stop"])
def test_what_a_recording_does_not_say_is_not_compared(name, tmp_path):
    trace = record(SKIPPING, tmp_path)
    request = {k: x for k, x in trace.manifest["request"].items() if k != name}
    manifest = {**trace.manifest, "request": request, "requests": [request]}
    rows = judge_host(replace(trace, manifest=manifest), model_of("sd3"), "float32", [])
    assert not faults_of(rows)
    notes = [row.note for row in rows if row.verdict == "not judged"]
    assert name.endswith("stop") or any("skip_scale not compared" in note for note in notes)


def test_an_argument_that_nothing_compares_is_named(tmp_path):
    trace = record(AskedRun("StableDiffusionPipeline"), tmp_path)
    request = {**trace.manifest["request"], "sag_scale": 0.75, "image_guidance_scale": 1.5}
    manifest = {**trace.manifest, "request": request, "requests": [request]}
    rows = judge_host(replace(trace, manifest=manifest), model_of("sd1"), "float32", [])
    (row,) = [row for row in rows if row.verdict == "not judged"]
    assert row.note.startswith("sag_scale 0.75, image_guidance_scale 1.5: nothing compares")


@pytest.mark.parametrize("layers", [("",), ("*attn*",), ()])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.endswith("PAGPipeline")])
def test_perturbed_attention_accuses_no_right_layer(kind, layers, tmp_path):
    """Its layers are not judged, nor the prediction if their outputs were not recorded."""
    if "ControlNet" in kind:
        pytest.skip("its networks are those of the others")
    report = diff_traces(record(AskedRun(kind), tmp_path, layers), model_of(base_of(kind)))
    assert not report.faults
    follows = [row for row in report.rows if "it follows an attention" in row.note]
    assert ("" in {row.layer for row in follows}) == (layers == ("",))
    assert not any("spacing" in note for note in report.notes)


def test_times_of_a_turbo_are_those_of_the_pipeline(tmp_path):
    from qwen_image_21_pipelines import TURBO_TIMES, make_pipeline

    import ldmref
    from ldmref.trace import Selection, read_trace, record_pipeline

    pipe = make_pipeline(TURBO_TIMES)
    pipe.save_pretrained(tmp_path / "model")
    with record_pipeline(pipe, tmp_path / "trace", selection=Selection(layers=("",))):
        pipe("a red cat", num_inference_steps=8, height=32, width=32, output_type="np")
    model = ldmref.load(tmp_path / "model", backend="numpy", dtype="float32")
    report = diff_traces(read_trace(tmp_path / "trace"), model)
    assert report.equal
    assert not any("flow_times" in note for note in report.notes)
    assert np.allclose(model.config.scheduler.flow_times, TURBO_TIMES)
