"""Right runs of ldmref itself: every guidance and sampler that is declared is judged "equal".

A member enters the tables by being declared. The runs have a U-Net that predicts the noise, and a
transformer that predicts a velocity; their traces hold the states and what guidance combined, once
whole and once without what follows from the rest (`Selection.states`).
"""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.errors import LdmrefError
from ldmref.locate import diff_traces
from ldmref.samplers import SAMPLERS
from ldmref.samplers.guidance_registry import GUIDANCES
from ldmref.trace import Selection, read_trace, record_trace

PRESETS = ("tiny", "sd3-tiny")
SELECTIONS = {
    "states": Selection.states(),
    "whole": Selection(layers=("constrain",), optional=True),
}
ALWAYS = {  # parameters with which a guidance acts at every level of a run of three steps
    "slg": {"layers": [1], "low": 0.0, "high": 1e9},
    "interval": {"low": 0.0, "high": 10.0},
}
NEEDS_GUIDE = ("autoguidance",)


@cache
def model_of(preset, dtype="float32", seed=0):
    """Return a random model."""
    return ldmref.random_model(preset, seed=seed, backend="numpy", dtype=dtype)


def judge(folder, preset, dtype="float32", selection=None, **request):
    """Return the verdict on a right run and what was not equal, after recording it."""
    model = model_of(preset, dtype)
    values = {"prompt": "a cat", "negative_prompt": "dog", "seed": 1, "steps": 3, "cfg_scale": 4.0}
    guide = model_of(preset, dtype, 2) if request.get("guidance") in NEEDS_GUIDE else None
    values |= request if guide is None else request | {"guide": guide}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan = modes.plan("txt2img", model, **values)
        record_trace(plan, model, folder, selection=selection or SELECTIONS["whole"])
        report = diff_traces(read_trace(folder), model, guide=guide)
    other = [
        (x.name, x.kind, x.verdict, x.cause, x.note)
        for x in report.rows
        if x.verdict not in ("equal", "noisy")
    ]
    return report.verdict, other, report.gaps


def with_parameters(name):
    """Return a guidance with parameters that act in a short run."""
    return {"name": name, **ALWAYS[name]} if name in ALWAYS else name


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", GUIDANCES)
def test_every_guidance_is_equal(name, preset, tmp_path):
    try:
        found = judge(tmp_path / "trace", preset, guidance=with_parameters(name))
    except LdmrefError as error:
        assert name in str(error) or error.code == "E-GUIDANCE", error
        pytest.skip(f"{preset} refuses {name}: {error}")
    assert found == ("equal", [], ())


LONG = pytest.mark.not_sampled  # a minute, of hundreds of evaluations


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=LONG) if x == "rk45" else x for x in SAMPLERS]
)
def test_every_sampler_is_equal(name, preset, selection, tmp_path):
    try:
        kept = SELECTIONS[selection]
        found = judge(tmp_path / "trace", preset, selection=kept, sampler=name)
    except LdmrefError as error:
        pytest.skip(f"{preset} refuses {name}: {error}")
    assert found == ("equal", [], ())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("steps", [2, 3, 5])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ["perp_neg", "apg", "cfg_zero"])
def test_numbers_of_steps_and_formats_are_equal(name, preset, steps, dtype, tmp_path):
    found = judge(tmp_path / "trace", preset, dtype, steps=steps, guidance=name)
    assert found == ("equal", [], ())


@pytest.mark.parametrize("sampler", ["euler_churn", "dpmpp_2m", "ddim_cfgpp"])
@pytest.mark.parametrize("name", GUIDANCES)
def test_guidances_are_equal_with_samplers_that_remember_and_raise_noise(name, sampler, tmp_path):
    try:
        found = judge(tmp_path / "trace", "tiny", guidance=with_parameters(name), sampler=sampler)
    except LdmrefError as error:
        pytest.skip(f"refused: {error}")
    assert found == ("equal", [], ())


@pytest.mark.parametrize("steps", [(2,), (0, 2), (0, 3), (1, 3)])
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "heun", "euler_churn"])
def test_runs_of_which_some_steps_were_recorded_are_not_accused(sampler, steps, tmp_path):
    selection = Selection(layers=("",), steps=steps)
    verdict, other, _ = judge(
        tmp_path / "trace", "tiny", selection=selection, steps=5, sampler=sampler
    )
    assert not [row for row in other if row[2] == "differs"] and verdict in ("equal", "incomplete")


# -- wrong runs: the same tables, with one change of what was recorded ---------------------------


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", GUIDANCES)
def test_a_guidance_that_returned_something_else_is_seen(name, preset, tmp_path):
    model = model_of(preset)
    folder = tmp_path / "trace"
    try:
        judge(folder, preset, guidance=with_parameters(name))
    except LdmrefError as error:
        pytest.skip(f"{preset} refuses {name}: {error}")
    trace = read_trace(folder)
    tensors = {key: np.array(x) for key, x in trace.tensors.items()}
    [entry] = [entry for entry in trace.entries if entry.call == "guidance.001"]
    [output] = entry.outputs.values()
    tensors[output] = 1.3 * tensors[output]
    guide = model_of(preset, seed=2) if name in NEEDS_GUIDE else None
    report = diff_traces(
        ldmref.trace.Trace(tensors, trace.entries, trace.manifest), model, guide=guide
    )
    assert "guidance.001" in {str(row.call) for row in report.faults}
