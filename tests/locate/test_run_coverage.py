"""Everything that was recorded is compared, or a row says that it was not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy_ports import make_model, run_port
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.locate import DiffReport, diff_traces
from ldmref.locate.pipeline import judge_host
from ldmref.locate.pipeline.tokens import tokenize
from ldmref.trace import Selection, build_trace, read_trace, record_trace

WHOLE = Selection(layers=("constrain",), optional=True)
SAMPLERS = ("ddim", "heun", "dpmpp_2s_a", "pndm", "dpm_solver_2")


@pytest.fixture(scope="module")
def model():
    return ldmref.random_model("tiny", seed=1)


def record(model, folder, mode="txt2img", **request):
    values = {"prompt": "a red cat", "seed": 1, "steps": 3, "cfg_scale": 4.0} | request
    exact = model.with_backend(model.backend)
    record_trace(modes.plan(mode, model, **values), exact, folder, selection=WHOLE)
    return read_trace(folder)


def report_of(trace, model):
    return DiffReport(tuple(judge_host(trace, model, "float32", [])))


@pytest.fixture(scope="module")
def trace(model, tmp_path_factory):
    return record(model, tmp_path_factory.mktemp("coverage") / "t")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_whole_run_is_compared(model, tmp_path, sampler):
    assert report_of(record(model, tmp_path / "t", sampler=sampler), model).equal


@pytest.mark.parametrize(
    "request_of",
    [{"count": 2}, {"prompt": ["a cat", "a dog"]}, {"cfg_scale": 1.0}],
    ids=["two images", "two prompts", "without guidance"],
)
def test_each_batch_of_a_run_is_compared(model, tmp_path, request_of):
    assert report_of(record(model, tmp_path / "t", **request_of), model).equal


@pytest.mark.parametrize("more", [{}, {"resample": (2, 2)}], ids=["plain", "with jumps"])
def test_known_parts_of_an_image_are_compared(model, tmp_path, more):
    mask = np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3))
    photo = Image.fromarray(pixels.astype(np.uint8))
    found = record(model, tmp_path / "t", "inpaint", image=photo, mask=mask, **more)
    report = report_of(found, model)
    assert report.equal, [(row.call, row.kind, row.note, row.cause) for row in report.rows]
    entry = found.find("sampler.001", "constrain")
    name = entry.outputs["output"]
    wrong = {**found.tensors, name: np.asarray(found.tensors[name]) + np.float32(0.5)}
    assert report_of(replace(found, tensors=wrong), model).verdict == "differs"


def names_of(trace):
    whole = [e for e in trace.entries if not e.layer]
    return [(e, role) for e in whole for role in e.inputs]


def test_every_array_of_the_host_matters(model, trace):
    """Each input between the networks is changed alone, and no change is called equal."""
    silent = []
    for entry, role in names_of(trace):
        name = entry.inputs[role]
        x = np.asarray(trace.tensors[name])
        if x.dtype.kind != "f":
            continue
        other = f"{entry.call}//input.{role}-changed"
        wrong = (1.5 * x + 0.25).astype(x.dtype)
        entries = tuple(
            replace(e, inputs={**e.inputs, role: other}) if e is entry else e for e in trace.entries
        )
        changed = replace(trace, tensors={**trace.tensors, other: wrong}, entries=entries)
        if report_of(changed, model).equal:
            silent.append((entry.call, role))
    assert not silent


@pytest.mark.parametrize(("side", "call"), [("input", "unet.001"), ("output", "sampler.001")])
def test_an_array_that_nobody_knows_is_named(model, trace, side, call):
    entry = trace.find(call)
    roles = {**getattr(entry, f"{side}s"), "image_embeds": "new"}
    entries = tuple(replace(e, **{f"{side}s": roles}) if e is entry else e for e in trace.entries)
    tensors = {**trace.tensors, "new": np.ones((1, 4), np.float32)}
    report = report_of(replace(trace, tensors=tensors, entries=entries), model)
    assert report.verdict == "incomplete"
    (row,) = [row for row in report.rows if row.verdict == "not judged"]
    assert row.call == call and f"{side}.image_embeds" in row.note


def test_networks_alone_are_compared_with_what_the_run_gives_them(model, trace):
    kept = tuple(e for e in trace.entries if e.call.startswith("unet"))
    report = report_of(replace(trace, entries=kept), model)
    assert not report.faults
    found = {row.kind: row.verdict for row in report.rows if row.call == "unet.000"}
    assert found == {"latents": "equal", "timestep": "equal", "text": "not judged"}
    nameless = replace(trace, entries=kept, manifest={})
    assert not report_of(nameless, model).rows


def test_text_that_was_not_encoded_in_a_run_is_not_called_equal(model, trace):
    kept = tuple(e for e in trace.entries if not e.call.startswith(("text_encoder", "tokens")))
    report = report_of(replace(trace, entries=kept), model)
    assert report.verdict == "incomplete"
    unknown = [row for row in report.rows if row.verdict == "not judged"]
    assert {row.kind for row in unknown} == {"text"}
    assert {row.note for row in unknown} == {"what text_encoder returned was not recorded"}


# -- a call whose recorded arrays do not fit each other --------------------------------------------


def test_a_call_that_cannot_be_replayed_is_judged_layer_by_layer():
    """Each layer once, those before the break and those after it, and the wrong one is named."""
    tiny = make_model("tiny")
    tensors = run_port(tiny)
    text = tensors["unet.000//input.encoder_hidden_states"]
    tensors["unet.000//input.encoder_hidden_states"] = np.pad(text, [(0, 0), (0, 0), (0, 3)])
    tensors["unet.000/conv_out/output"] = 1.01 * tensors["unet.000/conv_out/output"]
    tensors |= {n.replace("unet.000", "unet.001"): x for n, x in run_port(tiny).items()}
    report = diff_traces(build_trace(tensors), tiny)
    names = [(row.name, row.kind) for row in report.rows if row.kind == "own"]
    assert len(names) == len(set(names))
    assert {layer for layer, _ in names} >= {"unet.000/conv_in", "unet.000/conv_out"}
    wrong = {row.name: row.cause for row in report.faults if row.kind == "own"}
    assert wrong["unet.000/conv_out"] == "scaled by 1.01" and "unet.000/conv_in" not in wrong
    assert "unet.000" in wrong and not any(name.startswith("unet.001") for name in wrong)


# -- differences from a reference ------------------------------------------------------------------


def test_a_layer_with_its_activation_is_not_compared_with_one_without():
    tiny = make_model("tiny")
    norm = tiny.params["unet"].down_blocks["0"].resnets["0"].norm1
    x = np.random.default_rng(0).standard_normal((1, len(norm.weight), 8, 8)).astype(np.float32)
    plain = tiny.backend.group_norm(x, norm.weight, norm.bias, 1, 1e-5)
    name = "unet.000/down_blocks.0.resnets.0.norm1"
    found = {}
    for kind, y in (("group_norm", plain), ("group_norm_silu", plain / (1 + np.exp(-plain)))):
        entry = {"call": "unet.000", "layer": name.partition("/")[2], "kind": kind}
        found[kind] = build_trace({f"{name}/input": x, f"{name}/output": y}, {"entries": [entry]})
    port, reference = found["group_norm_silu"], found["group_norm"]
    report = diff_traces(port, tiny, reference)
    assert [row.inherited for row in report.rows] == [None] and not report.notes
    same = diff_traces(reference, tiny, reference)
    assert [row.inherited for row in same.rows] == [0.0]


# -- lengths of T5 ---------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [4, 16, 40])
def test_ids_of_another_length(length):
    from ldmref.locate.pipeline.context import PipelineContext

    flux = ldmref.random_model("flux-tiny")
    context = PipelineContext(build_trace({}), flux, "float32", [])
    usual = tokenize(context, 1, ["cat"], {}).ids[0, 0]
    found = tokenize(context, 1, ["cat"], {}, length).ids[0, 0]
    shared = min(length, len(usual)) - 1
    assert len(found) == length
    assert np.array_equal(found[:shared], usual[:shared])
    clip = tokenize(context, 0, ["cat"], {}).ids
    assert np.array_equal(
        tokenize(context, 0, ["cat"], {}, length).ids, clip
    )  # CLIP reads one length
