"""Causes of runs of ldmref that were made otherwise than their request says: one declared value.

A run is recorded with one request, and judged as that of another one, or of another model.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from changed_runs import MASK, PHOTO, controlled, model_of

from ldmref import modes
from ldmref.locate import diff_traces
from ldmref.trace import Selection, read_trace, record_trace

IMAGE = {"mode": "img2img", "image": PHOTO}
MASKED = {"mode": "inpaint", "image": PHOTO, "mask": MASK}
INVERTED = {"mode": "invert", "image": PHOTO}


def record(folder, model, mode="txt2img", **request):
    """Return the trace of a run of three steps without its layers."""
    values = {"prompt": "a red cat", "negative_prompt": "dog", "steps": 3, "cfg_scale": 4.0}
    values |= {} if mode == "invert" else {"seed": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan = modes.plan(mode, model, **values | request)
        selection = Selection(layers=("constrain",), optional=True)
        record_trace(plan, model, folder, selection=selection)
    return read_trace(folder)


def changed_model(model, vae=None, **scheduler):
    """Return a model with other numbers in its configuration."""
    other = model.with_params(model.params, model.backend)
    config = replace(model.config, scheduler=replace(model.config.scheduler, **scheduler))
    other.config = replace(config, vae=replace(config.vae, **vae or {}))
    return other


def causes_of(trace, model, nets=()):
    """Return the arrays between the networks that differ, with their causes."""
    rows = diff_traces(trace, model, controlnets=nets).rows
    return {(row.name, row.kind): row.cause for row in rows if row.verdict == "differs"}


REQUESTS = {  # what was done, what was asked for, an array, and its cause
    "eta": (
        {"sampler": "ddim", "eta": 0.5}, {"sampler": "ddim", "eta": 1.0},
        ("sampler.001", "step"), "eta 0.5 instead of 1"),
    "scale": (
        {"cfg_scale": 3.0}, {}, ("guidance.001", "guidance"), "guidance scale 3 instead of 4"),
    "a parameter of guidance": (
        {"guidance": {"name": "apg", "eta": 0.5}}, {"guidance": "apg"},
        ("guidance.002", "guidance"), "apg eta 0.5 instead of 0"),
    "spacing": (
        {"schedule": "trailing"}, {}, ("schedule", "sigmas"),
        "schedule trailing instead of leading"),
    "sampler": (
        {"sampler": "heun"}, {"sampler": "dpmpp_2s"}, ("sampler.000", "step"),
        "a step of heun instead of dpmpp_2s"),
    "strength": (
        {**IMAGE, "strength": 0.7}, {**IMAGE, "strength": 1.0}, ("sampler.000", "state"),
        "strength 0.75 instead of 1"),
    "the other part": (
        {**MASKED, "mask_invert": True}, MASKED, ("sampler.001/constrain", "constrain"),
        "mask invert True instead of False"),
    "prompts": (
        {"prompt": "dog", "negative_prompt": "a red cat"}, {}, ("tokens", "ids"),
        "prompt and negative prompt are exchanged"),
    "noise": ({"rng": "torch"}, {}, ("sampler.000", "state"), "rng torch instead of philox"),
    "iterations": (
        {**INVERTED, "iterations": 0}, {**INVERTED, "iterations": 1}, ("sampler.000", "step"),
        "iterations 0 instead of 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
def test_another_request_is_named(name, tmp_path):
    done, asked, place, cause = REQUESTS[name]
    model = model_of("tiny")
    trace, right = (
        record(tmp_path / folder, model, **request)
        for folder, request in (("done", done), ("asked", asked))
    )
    params = right.manifest["params"]
    trace = replace(trace, manifest={**trace.manifest, "params": params})
    assert causes_of(trace, model)[place] == cause


CONFIGURATIONS = {  # other numbers of a model, an array of its run, and its cause
    "prediction": (
        "tiny", {"prediction_type": "v"}, {}, ("sampler.001", "x0"),
        "the prediction is read as v instead of eps"),
    "clipping": (
        "tiny", {"clip_sample_range": 1.0}, {}, ("sampler.000", "step"), "x0 is clipped to +-1"),
    "shift": (
        "sd3-tiny", {"shift": 1.0}, {}, ("schedule", "sigmas"),
        "shift 1 instead of shift 3"),
    "betas": (
        "tiny", {"beta_schedule": "linear"}, {}, ("schedule", "alphas_cumprod"),
        "betas linear instead of scaled_linear"),
    "the shift of the decoder": (
        "sd3-tiny", {}, {"shift_factor": 0.0}, ("vae.decode", "latents"),
        "the shift factor is missing"),
    "a factor of the decoder": (
        "sd3-tiny", {}, {"scaling_factor": 0.25}, ("vae.decode", "latents"),
        "scaling factor 0.25 instead of "),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_another_configuration_is_named(name, tmp_path):
    kind, scheduler, vae, place, cause = CONFIGURATIONS[name]
    model = model_of(kind)
    trace = record(tmp_path / "t", changed_model(model, vae, **scheduler), sampler=None)
    found = causes_of(trace, model)
    assert found[place].startswith(cause)
    # levels alone are one fault: those of other betas also belong to other times
    assert name != "shift" or {call for call, _ in found} == {"schedule"}


def test_the_weight_of_a_controlnet_is_fitted():
    trace, model, nets = controlled()
    params = dict(trace.manifest["params"])
    first, second = params["control"]
    params["control"] = [first, {**second, "weight": 0.8}]
    wrong = replace(trace, manifest={**trace.manifest, "params": params})
    found = causes_of(wrong, model, nets)
    assert {cause for (_, kind), cause in found.items() if kind == "residuals"} == {
        "weight of ControlNet 1 0.5 instead of 0.8"
    }


def test_the_images_of_a_request_are_those_of_the_reference(tmp_path):
    """A port records what it computes, and not what it was asked for."""
    model = model_of("tiny")
    reference = record(tmp_path / "t", model, **MASKED)
    entries = tuple(entry for entry in reference.entries if entry.call.kind != "inputs")
    manifest = {name: x for name, x in reference.manifest.items() if name != "params"}
    port = replace(reference, entries=entries, manifest=manifest)
    assert diff_traces(port, model, reference).equal
    entry = reference.find("sampler.001", "constrain")
    assert entry is not None
    name = entry.outputs["output"]
    wrong = {**port.tensors, name: 2 * np.asarray(port.tensors[name])}
    rows = diff_traces(replace(port, tensors=wrong), model, reference).rows
    assert ("sampler.001", "constrain") in {(r.call, r.layer) for r in rows if r.cause}
