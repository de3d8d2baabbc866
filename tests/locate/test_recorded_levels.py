"""Runs on other noise levels than those of their request: whatever was recorded of the levels."""

from functools import cache

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.locate import diff_traces
from ldmref.samplers import SAMPLERS, make_schedule
from ldmref.trace import build_trace

STEPS = 4
LEVELS = {  # of no schedule, and of a flow with twice the shift
    "uneven": lambda preset: (9.0, 5.0, 0.8, 0.3, 0.0),
    "uneven flow": lambda preset: (1.0, 0.9, 0.4, 0.3, 0.0),
    "shifted": lambda preset: shifted(preset, 2.0),
}


@cache
def model_of(preset):
    return ldmref.random_model(preset)


def shifted(preset, factor):
    """Return the levels of a flow whose shift is another one."""
    config = model_of(preset).config.scheduler
    sigmas = make_schedule(config, SAMPLERS["euler"], None, STEPS).sigmas
    return tuple((factor * sigmas / (1.0 + (factor - 1.0) * sigmas)).tolist())


def recorded(preset, sampler, levels):
    """Return a run on levels; the recorded request says nothing of them."""
    with ldmref.recording(model_of(preset)) as run:
        modes.txt2img(model_of(preset), "a red cat", seed=1, sampler=sampler, **levels)
    params = dict(run.trace.manifest["params"])
    names = ("sigmas", "schedule")
    return run.trace, {k: x for k, x in params.items() if k not in names} | {"steps": STEPS}


FAULTS = {
    ("tiny", "ddim", "karras"): "schedule karras instead of the model's own",
    ("tiny", "dpmpp_2m", "karras"): "schedule karras instead of the model's own",
    ("tiny", "ddim", "trailing"): "schedule trailing instead of the model's own",
    ("tiny", "euler", "linspace"): "schedule linspace instead of the model's own",
    ("tiny", "ddim", "uneven"): "",
    ("sd3-tiny", "euler", "shifted"): "shift 6 instead of 3",
    ("sd3-tiny", "euler", "uneven flow"): "",
}
LEFT_OUT = {  # what was not recorded of a run: a part of the names of arrays, and who shows it
    "nothing": ((), "schedule"),
    "the schedule": (("schedule/",), "sampler"),
    "all levels": (("schedule/", "sigma"), "network"),
}


@pytest.mark.parametrize("left_out", LEFT_OUT)
@pytest.mark.parametrize("fault", FAULTS, ids="-".join)
def test_other_levels_are_one_fault(fault, left_out):
    """No state, prediction or step is blamed, and all rows have the cause that all levels have."""
    preset, sampler, levels = fault
    given = {"schedule": levels, "steps": STEPS}
    if levels in LEVELS:
        given = {"sigmas": LEVELS[levels](preset)}
    trace, params = recorded(preset, sampler, given)
    parts, shows = LEFT_OUT[left_out]
    arrays = {
        name: np.asarray(x)
        for name, x in trace.tensors.items()
        if not any(part in name for part in parts)
    }
    report = diff_traces(build_trace(arrays, {"params": params}), model_of(preset))
    named = {(row.name, row.cause) for row in report.faults}
    if parts:  # the same without a request, and without the name of the sampler
        plain = diff_traces(build_trace(arrays), model_of(preset))
        assert {(row.name, row.cause) for row in plain.faults} == named
    kinds = {"network" if row.call.network else row.call.kind for row in report.faults}
    assert kinds == {shows}, [(row.name, row.kind, row.cause) for row in report.faults]
    assert {row.verdict for row in report.rows} == {"equal", "differs"}
    causes = {row.cause for row in report.faults if row.kind != "timesteps"}
    if FAULTS[fault]:
        assert causes == {FAULTS[fault]}
    else:
        assert not any(" instead of the model's own" in cause for cause in causes)
        assert not any("spacing" in cause or "shift " in cause for cause in causes)
