"""Right runs of which arrays alone were recorded: no request, no scale, no name of a sampler."""

from functools import cache

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.locate import diff_traces
from ldmref.trace import build_trace

RECORDED = {  # what was recorded
    "networks and states": ("network", "x"),
    "guided predictions": ("network", "x", "guided"),
    "both predictions": ("network", "x", "guided", "halves"),
    "predictions of steps": ("network", "x", "prediction"),
    "states and guidance": ("x", "guided"),
    "states and both predictions": ("x", "guided", "halves"),
    "networks alone": ("network",),
    "states alone": ("x",),
}
RUNS = {
    "tiny": ("ddim", "dpmpp_2m", "heun"),
    "sd3-tiny": ("euler", "heun"),
    "flux-tiny": ("euler",),
}
CASES = [(preset, sampler) for preset, samplers in RUNS.items() for sampler in samplers]


@cache
def model_of(preset):
    return ldmref.random_model(preset)


@cache
def recorded(preset, sampler):
    """Return the arrays of a run by what they are."""
    model = model_of(preset)
    with ldmref.recording(model) as run:
        modes.txt2img(model, "a red cat", seed=1, steps=3, cfg_scale=4.5, sampler=sampler)
    groups = {}
    for name, x in run.trace.tensors.items():
        call, layer, role = name.split("/")
        kind = call.partition(".")[0]
        if kind == model.denoiser.name and not layer:
            groups.setdefault("network", {})[name] = x
        elif kind == "sampler" and (role.startswith("input.x") or role == "output"):
            groups.setdefault("x", {})[name] = x
        elif kind == "sampler" and role.startswith("input.prediction"):
            groups.setdefault("prediction", {})[name] = x
        elif kind == "guidance" and role == "output":
            groups.setdefault("guided", {})[name] = x
        elif kind == "guidance" and role in ("input.cond", "input.uncond"):
            groups.setdefault("halves", {})[name] = x
    return groups


def judge(preset, sampler, groups, change=None):
    arrays = {
        k: np.asarray(x) for name in groups for k, x in recorded(preset, sampler)[name].items()
    }
    arrays |= {name: change(arrays[name]) for name in change.names} if change else {}
    return diff_traces(build_trace(arrays), model_of(preset))


@pytest.mark.parametrize("groups", RECORDED)
@pytest.mark.parametrize(("preset", "sampler"), CASES)
def test_a_right_run_has_no_fault(preset, sampler, groups):
    report = judge(preset, sampler, RECORDED[groups])
    assert not report.faults, [(row.name, row.kind, row.cause) for row in report.faults]
    assert any(row.verdict == "equal" for row in report.rows)
    unknown = {row.note for row in report.rows if row.verdict == "not judged"}
    assert not any("cannot be" in note for note in unknown), unknown


@pytest.mark.parametrize("groups", ["guided predictions", "both predictions"])
@pytest.mark.parametrize("preset", ["tiny", "sd3-tiny"])
def test_another_scale_in_one_step_is_found(preset, groups):
    """The scale that the first guided prediction says is that of all."""
    sampler = RUNS[preset][0]
    name = "guidance.001//output"
    network = f"{model_of(preset).denoiser.name}.001//output"
    uncond, cond = np.split(np.asarray(recorded(preset, sampler)["network"][network]), 2)

    def change(x):
        return uncond + 6.0 * (cond - uncond)

    change.names = [name]
    report = judge(preset, sampler, RECORDED[groups], change)
    guided = [row for row in report.faults if row.call == "guidance.001"]
    assert [row.kind for row in guided] == ["guidance"] and "6" in guided[0].cause
    others = [row for row in report.faults if row.call != "guidance.001"]
    assert {row.call for row in others} <= {"sampler.001"}  # whose step took the right one
