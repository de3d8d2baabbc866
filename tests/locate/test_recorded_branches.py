"""`ldmref diff` of run records: right ones are right, branches included, and faults are found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ldmref import explore
from ldmref.locate import diff_traces
from ldmref.trace import load_trace

BRANCHES = {
    "no branch": [],
    "another guidance scale": [(2, {"cfg_scale": 5.0})],
    "another prompt": [(1, {"prompt": "a dog"})],
    "another sampler": [(2, {"sampler": "euler"})],
    "two evaluations": [(2, {"sampler": "heun"})],
    "more steps": [(2, {"steps": 12})],
    "own noise levels": [(2, {"sigmas": [1.0, 0.5, 0.0]})],
    "from noise": [(0, {"cfg_scale": 3.0})],
    "of a branch": [(2, {"schedule": "karras", "prompt": "a dog"}), (4, {"cfg_scale": 4.0})],
}


def record(model, branches, **request):
    run = explore.record_run(model, prompt="a red cat", seed=7, steps=6, **request)
    for step, changes in branches:
        run = explore.branch_run(model, run, step, **changes)
    return run


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_a"])
@pytest.mark.parametrize("name", BRANCHES)
def test_a_right_record_is_right(tiny, name, sampler):
    run = record(tiny, BRANCHES[name], sampler=sampler)
    report = diff_traces(run.trace, tiny)
    assert {row.verdict for row in report.rows} == {"equal"} and not report.gaps
    steps = [row for row in report.rows if row.kind == "step"]
    assert len(steps) == run.steps


@pytest.mark.parametrize("name", ["no branch", "another guidance scale", "more steps"])
def test_a_wrong_step_and_a_wrong_guidance_are_found(tiny, name):
    trace = record(tiny, BRANCHES[name], sampler="euler").trace
    for call in ("sampler.001", "sampler.004", "guidance.001", "guidance.004"):
        old = trace.find(call).outputs["output"]
        changed = {f"{call}//output": trace.tensors[old] * np.float32(1.01)}
        entries = [
            replace(e, outputs={"output": f"{call}//output"}) if e.call == call else e
            for e in trace.entries
        ]
        wrong = replace(trace, tensors={**trace.tensors, **changed}, entries=tuple(entries))
        found = {row.call for row in diff_traces(wrong, tiny).rows if row.verdict == "differs"}
        assert call in found, (call, found)


def test_a_record_on_disk_and_a_complete_trace_are_judged_alike(tiny, tmp_path):
    path = record(tiny, BRANCHES["more steps"]).save(tmp_path / "run.safetensors")
    report = diff_traces(load_trace(path), tiny)
    assert not report.faults and {row.verdict for row in report.rows} == {"equal"}
