"""Every wire between calls is judged, also if both of its ends were recorded."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import torch
from recorded_pipelines import build
from test_twenty_faults import plain_ddim

from ldmref.locate import DiffReport
from ldmref.locate.pipeline import judge_host
from ldmref.trace import Selection, build_trace, read_trace, record_pipeline

SCALE = 7.5
STEPS = 3


def generate(pipe, fault=""):
    """Make an image in a loop of one's own, with a fault on one of its wires."""
    pipe._guidance_scale = SCALE
    generator = torch.Generator().manual_seed(1)
    cond, uncond = pipe.encode_prompt("a red cat", "cpu", 1, True, "dog")
    states = torch.cat([uncond, cond])
    pipe.scheduler.set_timesteps(STEPS)
    x = pipe.prepare_latents(1, 4, 16, 16, torch.float32, torch.device("cpu"), generator)
    if fault == "noise":
        x = x / x.std()
    before = None
    for t in pipe.scheduler.timesteps:
        raw = pipe.unet(torch.cat([x, x]), t, encoder_hidden_states=states, return_dict=False)[0]
        uncond, cond = raw.chunk(2)
        if fault == "halves":
            uncond, cond = cond, uncond
        guided = uncond + SCALE * (cond - uncond)
        given = {"unused": cond, "before": guided if before is None else before}
        x = pipe.scheduler.step(given.get(fault, guided), t, x, return_dict=False)[0]
        before = guided
        if fault == "clamp":
            x = x.clamp(-0.5, 0.5)
    pipe.vae.decode(x / pipe.vae.config.scaling_factor)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return build("sd1", tmp_path_factory.mktemp("wires") / "model", plain_ddim)


def judge(made, folder, fault=""):
    pipe, model = made
    with record_pipeline(pipe, folder, selection=Selection(layers=("",))), torch.no_grad():
        generate(pipe, fault)
    return host_report(read_trace(folder), model)


def host_report(trace, model):
    """Return the rows of the host alone; those of the networks take longer."""
    return DiffReport(tuple(judge_host(trace, model, "float32", [])))


def faults(report):
    return {(row.call, row.kind): row.cause for row in report.faults}


def test_a_right_loop_has_no_fault(made, tmp_path):
    report = judge(made, tmp_path / "t")
    assert report.equal, (faults(report), report.gaps)
    kinds = [row.kind for row in report.rows]
    assert kinds.count("state") == STEPS  # the first is the initial latents


CLAMPED = {("sampler.001", "state"), ("sampler.002", "state"), ("vae.decode", "latents")}
CASES = (
    ("halves", {(f"guidance.{i:03}", "guidance") for i in range(STEPS)}, "uncond are swapped"),
    ("unused", {(f"guidance.{i:03}", "guidance") for i in range(STEPS)}, "guidance is dropped"),
    ("before", {(f"guidance.{i:03}", "guidance") for i in (1, 2)}, "of the step before"),
    ("clamp", CLAMPED, "clamped to ["),
    ("noise", {("sampler.000", "state")}, "scaled by"),
)


@pytest.mark.parametrize(("fault", "names", "words"), CASES, ids=[case[0] for case in CASES])
def test_each_fault_of_a_wire_is_named_alone(made, tmp_path, fault, names, words):
    report = judge(made, tmp_path / "t", fault)
    found = faults(report)
    assert set(found) - {("sampler.000", "initial noise")} == names, found
    assert all(words in cause for cause in found.values()), found


# -- a port that records its guidance itself ------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(made, tmp_path_factory):
    """Return the arrays and the manifest of a right loop, to be changed."""
    folder = tmp_path_factory.mktemp("recorded") / "t"
    with record_pipeline(made[0], folder, selection=Selection(layers=("",))), torch.no_grad():
        generate(made[0])
    trace = read_trace(folder)
    tensors = {
        f"{e.call}//{side}" + ("" if role == side else f".{role}"): np.array(trace.tensors[name])
        for e in trace.entries
        for side, names in (("input", e.inputs), ("output", e.outputs))
        for role, name in names.items()
    }
    return tensors, dict(trace.manifest)


def changed(made, recorded, arrays):
    tensors, manifest = recorded
    port = build_trace(tensors | arrays, manifest)
    return faults(host_report(port, made[1]))


def test_a_right_record_has_no_fault(made, recorded):
    assert not changed(made, recorded, {})


def test_exchanged_halves_are_named(made, recorded):
    tensors, _ = recorded
    uncond, cond = (tensors[f"guidance.001//input.{name}"] for name in ("uncond", "cond"))
    guided = cond + SCALE * (uncond - cond)
    arrays = {"guidance.001//input.uncond": cond, "guidance.001//input.cond": uncond}
    arrays |= {"guidance.001//output": guided, "sampler.001//input.model_output": guided}
    found = changed(made, recorded, arrays)
    for half in ("unconditional prediction", "conditional prediction"):
        assert found.pop(("guidance.001", half)) == "the halves of the batch are exchanged"
    assert set(found) <= {("sampler.001", "x0")}  # which was not computed again


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("guidance.001//input.cond", "guidance.001 input cond in its place"),
        ("guidance.000//output", "that of the call before"),
    ],
)
def test_what_a_step_was_given_is_named(made, recorded, name, words):
    found = changed(made, recorded, {"sampler.001//input.model_output": recorded[0][name]})
    assert words in found["sampler.001", "prediction"]


def test_a_prediction_without_guidance_is_judged(made, recorded):
    """Of a guidance of 1, the network's output itself is given to the step."""
    tensors, manifest = recorded
    kept = {n: x for n, x in tensors.items() if not n.startswith("guidance")}
    for i in range(STEPS):
        kept[f"unet.{i:03}//output"] = tensors[f"sampler.{i:03}//input.model_output"]
        for role in ("sample", "timestep", "encoder_hidden_states"):
            name = f"unet.{i:03}//input.{role}"
            kept[name] = tensors[name][1:]
    manifest = manifest | {"params": {}}
    kept["sampler.001//input.model_output"] = kept["unet.000//output"]
    found = faults(host_report(build_trace(kept, manifest), made[1]))
    assert found["sampler.001", "prediction"] == "that of the call before"
