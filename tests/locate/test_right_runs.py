"""The locator finds no fault in right runs: those with unusual requests, schedulers and modes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import torch
from recorded_pipelines import build, names_of
from right_runs import RUNS, Run, prepare, with_image

from ldmref.locate import DiffReport, diff_traces, pipeline
from ldmref.locate.pipeline import follow_diffusers, judge_host
from ldmref.trace import Selection, read_trace, record_pipeline

STEPS = 3


def judge(run, folder, fault=None):
    trace, model, arguments = record(run, folder, fault)
    if run.family == "sd1" and not arguments.get("clip_skip") and not run.kind:  # plain networks
        return DiffReport(tuple(judge_host(trace, model, run.dtype, [])))
    return diff_traces(trace, model)


def record(run, folder, fault=None):
    """Return the trace of a run, its model, and the arguments of its call."""
    pipe, model = build(run.family, folder / "model", lambda pipe: prepare(pipe, run))
    if fault is not None:
        prepare(pipe, fault)
    pipe, arguments = with_image(pipe.to(getattr(torch, run.dtype)), run)
    size = {} if run.kind else {"height": 16, "width": 16}
    if not {"sigmas", "timesteps"} & set(arguments):
        arguments |= {"num_inference_steps": STEPS}
    with record_pipeline(pipe, folder / "t", selection=Selection(layers=("",))):
        pipe(
            "a red cat",
            negative_prompt="dog",
            generator=torch.Generator().manual_seed(1),
            output_type="np",
            **size,
            **arguments,
        )
    return read_trace(folder / "t"), model, arguments


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name.replace(" ", "-"))
def test_a_right_run_raises_no_alarm(run, tmp_path, monkeypatch):
    """A run is decided as a whole, by following it from its request to its images."""
    found = []

    def follow(context):
        found.append(follow_diffusers(context))
        return found[-1]

    monkeypatch.setattr(pipeline, "follow_diffusers", follow)
    report = judge(run, tmp_path)
    assert found[0] is not None
    assert not report.faults, (names_of(report), [row for row in report.faults][:3])
    unjudged = [
        (row.call, row.kind, row.note) for row in report.rows if row.verdict == "not judged"
    ]
    assert report.equal, (unjudged, report.gaps)


@pytest.mark.parametrize("fault", [False, True], ids=["right", "second-image-wrong"])
def test_images_that_are_decoded_one_by_one(fault, tmp_path):
    """`enable_vae_slicing`: a call of the decoder for each image of the batch."""
    pipe, model = build("sd1", tmp_path / "model")
    pipe.set_progress_bar_config(disable=True)
    arguments = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "np"}
    arguments |= {"num_images_per_prompt": 2}
    whole = pipe("a red cat", generator=torch.Generator().manual_seed(1), **arguments)
    pipe.vae.enable_slicing()
    with record_pipeline(pipe, tmp_path / "t", selection=Selection(calls=("vae.*", "sampler.*"))):
        sliced = pipe("a red cat", generator=torch.Generator().manual_seed(1), **arguments)
    assert np.abs(whole.images - sliced.images).max() < 1e-5
    trace = read_trace(tmp_path / "t")
    name = trace.find("vae.decode~1").inputs["latents"]
    if fault:
        wrong = {**trace.tensors, name: 1.01 * np.asarray(trace.tensors[name])}
        trace = replace(trace, tensors=wrong)
    report = diff_traces(trace, model)
    found = {(row.call, row.kind) for row in report.faults}
    assert ("vae.decode~1", "latents") in found if fault else report.equal and not report.gaps
    assert len([row for row in report.rows if row.kind == "latents"]) == 2


def test_the_runs_cover_what_users_have():
    assert len(RUNS) >= 45
    assert len({run.scheduler for run in RUNS}) >= 15
    assert {run.dtype for run in RUNS} == {"float32", "float16", "bfloat16"}
    assert {run.kind for run in RUNS} == {"", "img2img", "inpaint"}


def test_other_betas_explain_every_row(tmp_path):
    """A wrong forward process also scales the initial noise and the network's inputs wrongly."""
    run = Run("Euler", "sd1", "EulerDiscreteScheduler")
    report = judge(run, tmp_path, run._replace(fields={"beta_schedule": "linear"}))
    assert {"latents", "initial noise", "step", "sigmas"} <= {row.kind for row in report.faults}
    assert {row.cause for row in report.faults} == {"betas linear instead of scaled_linear"}


@pytest.mark.parametrize("scheduler", ["KDPM2DiscreteScheduler", "HeunDiscreteScheduler"])
def test_a_wrong_stage_is_named_alone(scheduler, tmp_path):
    """A second stage is judged by the derivative that the port's own first stage leads to."""
    run = Run("two stages", "sd1", scheduler)
    assert judge(run, tmp_path / "right").equal
    _, model = build("sd1", tmp_path / "model", lambda pipe: prepare(pipe, run))
    trace = read_trace(tmp_path / "right" / "t")
    for number in (2, 3):  # the stages of the second step, whose outputs nothing else reads
        name = trace.find(f"sampler.{number:03}").outputs["output"]
        wrong = {**trace.tensors, name: 1.01 * np.asarray(trace.tensors[name])}
        rows = judge_host(replace(trace, tensors=wrong), model, "float32", [])
        found = {(row.call, row.kind) for row in rows if row.verdict == "differs"}
        assert found - {(f"sampler.{number + 1:03}", "state")} == {(f"sampler.{number:03}", "step")}
