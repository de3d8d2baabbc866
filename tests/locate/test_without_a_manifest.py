"""A recording without its trace.json is judged as far as its names go, and accuses nobody."""

from __future__ import annotations

import random
from functools import cache

import numpy as np
import pytest
from safetensors.numpy import save_file

import ldmref
from ldmref.locate import diff_traces
from ldmref.models.family import list_families
from ldmref.modes import img2img, txt2img
from ldmref.trace import Trace, build_trace, load_trace
from ldmref.trace.order import in_order_of_run

MODELS = [name for family in list_families() for name in [*family.presets][:1] if "tiny" in name]
PHOTO = np.random.default_rng(0).random((16, 16, 3))
model_of = cache(lambda name: ldmref.random_model(name, seed=1))
RUNS = {
    "text": lambda model: txt2img(model, "a red cat", seed=1, steps=3),
    "image": lambda model: img2img(model, "a red cat", PHOTO, seed=1, steps=4, strength=0.5),
}


def recorded(name: str, run: str, folder) -> Trace:
    """Return a run of which only the files of its tensors are left."""
    with ldmref.recording(model_of(name), folder):
        RUNS[run](model_of(name))
    (folder / "trace.json").unlink()
    return load_trace(folder)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", MODELS)
def test_a_right_run_without_its_manifest_has_no_fault(name, run, tmp_path):
    report = diff_traces(recorded(name, run, tmp_path / "t"), model_of(name))
    assert not report.faults, [(row.name, row.kind, row.note) for row in report.faults]
    assert report.verdict == "incomplete"  # the prompts are not known
    assert report.counts()["equal"] > 200
    assert not report.gaps


def test_two_evaluations_a_step_are_told_apart(tmp_path):
    model = model_of("tiny")
    with ldmref.recording(model, tmp_path / "t"):
        txt2img(model, "a cat", seed=1, steps=3, sampler="heun")
    (tmp_path / "t" / "trace.json").unlink()
    report = diff_traces(load_trace(tmp_path / "t"), model)
    wires = {row.kind for row in report.rows if row.kind in ("latents", "prediction")}
    assert wires == {"latents", "prediction"}
    steps = [row for row in report.faults if row.call.startswith("unet")]
    assert not steps, [(row.name, row.kind, row.cause) for row in steps]


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_files_is_not_that_of_the_run(seed, tmp_path):
    calls = ["tokens", "text_encoder", "text_encoder~1", "vae.encode", "schedule", "initial"]
    for i in range(12):
        calls += [f"scale_input.{i:03}", f"controlnet.{i:03}", f"unet.{2 * i:03}"]
        calls += [f"unet.{2 * i + 1:03}", f"guidance.{i:03}", f"sampler.{i:03}"]
    if seed % 2:  # a step of two evaluations
        for i in range(0, 12, 2):
            calls.remove(f"sampler.{i:03}")
    calls += ["vae.decode", "image"]
    names = [f"{call}//input.x" for call in calls]
    random.Random(seed).shuffle(names)
    trace = in_order_of_run(build_trace({name: np.ones(2, np.float32) for name in names}))
    assert [str(call) for call in trace.calls] == calls
    save_file({name: np.ones(2, np.float32) for name in names}, tmp_path / "p.safetensors")
    assert [str(call) for call in load_trace(tmp_path / "p.safetensors").calls] == calls


# -- two operations that were recorded as one -----------------------------------------------------


def without_kinds(name: str, *layers: str) -> dict[str, np.ndarray]:
    """Return what a model's run has of some layers, by the names of its tensors."""
    with ldmref.recording(model_of(name)) as run:
        txt2img(model_of(name), "a cat", seed=1, steps=1)
    found = {}
    for layer in layers:
        entry = run.trace.find("unet.000", layer)
        for side, roles in (("input", entry.inputs), ("output", entry.outputs)):
            found |= {f"{entry.name}/{side}": run.trace.tensors[x] for x in roles.values()}
    return found


NORM = "down_blocks.0.resnets.0.norm1"
GEGLU = "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj"


@pytest.mark.parametrize("layer", [NORM, GEGLU])
@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_a_layer_with_its_activation_is_known_by_its_numbers(layer, factor):
    tensors = without_kinds("tiny", layer)
    output = f"unet.000/{layer}/output"
    tensors[output] = factor * tensors[output]
    report = diff_traces(build_trace(tensors), model_of("tiny"))
    assert {row.layer for row in report.faults} == ({layer} if factor != 1.0 else set())


@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_a_norm_alone_is_judged_as_a_norm(factor):
    model = model_of("tiny")
    x = np.random.default_rng(0).standard_normal((2, 16, 8, 8))
    norm = model.params["unet"].down_blocks["0"].resnets["0"].norm1
    x = x[:, : len(norm.weight)]
    groups = model.config.unet.norm_num_groups
    y = factor * model.backend.group_norm(x, norm.weight, norm.bias, groups, 1e-5)
    tensors = {f"unet.000/{NORM}/input": x, f"unet.000/{NORM}/output": y}
    report = diff_traces(build_trace(tensors), model, dtype="float32")
    assert {row.layer for row in report.faults} == ({NORM} if factor != 1.0 else set())


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_recorded_pipeline_without_its_manifest_has_no_fault(family, tmp_path):
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    from recorded_pipelines import build, record

    pipe, model = build(family, tmp_path / "model")
    record(pipe, tmp_path / "t")
    (tmp_path / "t" / "trace.json").unlink()
    report = diff_traces(load_trace(tmp_path / "t"), model)
    assert not report.faults, [(row.name, row.kind, row.cause) for row in report.faults]
    assert report.verdict == "incomplete" and report.counts()["equal"] > 800
