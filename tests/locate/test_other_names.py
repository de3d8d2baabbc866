"""A right run is judged the same under each name under which programs record an array."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from changed_runs import RUNS

from ldmref.locate.pipeline import judge_host
from ldmref.trace import Trace

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
DENOISERS = ("unet", "transformer")
NAMES = [  # kinds of calls, the role in runs of ldmref, its names in other programs
    (ENCODERS, "input_ids", ("input", "ids")),
    (DENOISERS, "sample", ("input", "x")),
    (DENOISERS, "timestep", ("t",)),
    (DENOISERS, "encoder_hidden_states", ("context",)),
    (DENOISERS, "pooled_projections", ("pooled", "y")),
    (("controlnet",), "controlnet_cond", ("hint",)),
    (("vae.decode",), "latents", ("input", "z", "sample")),
    (("guidance",), "cond", ("text",)),
    (("sampler",), "x", ("sample",)),
]


def renamed(trace: Trace, kinds, role, other) -> Trace:
    """Return a run in which an input has another name; the same run if no call has it."""

    def change(entry):
        if entry.layer or entry.call.kind not in kinds or role not in entry.inputs:
            return entry
        return replace(
            entry, inputs={other if k == role else k: x for k, x in entry.inputs.items()}
        )

    return replace(trace, entries=tuple(map(change, trace.entries)))


def judged(trace, model, nets) -> Counter:
    rows = judge_host(trace, model, "float32", [], controlnets=nets)
    return Counter((row.call, row.layer, row.kind, row.verdict) for row in rows)


def other_names(trace: Trace) -> Iterator[tuple[str, Trace]]:
    for kinds, role, names in NAMES:
        for name in names:
            run = renamed(trace, kinds, role, name)
            if run.entries != trace.entries:
                yield f"{role} as {name}", run


@pytest.mark.parametrize("name", RUNS)
def test_a_right_run_has_the_same_rows_under_other_names(name):
    trace, model, nets = RUNS[name]()
    right = judged(trace, model, nets)
    assert {verdict for *_, verdict in right} == {"equal"}
    for what, run in other_names(trace):
        assert judged(run, model, nets) == right, what


@pytest.mark.parametrize("name", ["two-evaluations", "sd3", "flux2, two references"])
def test_a_wrong_array_has_the_same_rows_under_other_names(name):
    """So none of them is only marked as compared."""
    trace, model, nets = RUNS[name]()
    for kinds, role, names in NAMES:
        arrays = {
            e.inputs[role]
            for e in trace.entries
            if not e.layer and e.call.kind in kinds and role in e.inputs
        }
        if not arrays:
            continue
        changed = {k: trace.tensors[k] + np.ones((), trace.tensors[k].dtype) for k in arrays}
        wrong = replace(trace, tensors={**trace.tensors, **changed})
        found = judged(wrong, model, nets)
        assert "differs" in {verdict for *_, verdict in found}, role
        for other in names:
            assert judged(renamed(wrong, kinds, role, other), model, nets) == found, other


@pytest.mark.parametrize("name", ["noise", "multistep"])
def test_what_a_step_also_returns_is_compared(name):
    """Some programs return the prediction of x0 beside the next state."""
    trace, model, nets = RUNS[name]()
    steps = [e for e in trace.entries if e.call.kind == "sampler" and "x0" in e.inputs]
    assert steps

    def returning(factor: float) -> Counter:
        more = {f"{e.call}//output.x0": factor * trace.tensors[e.inputs["x0"]] for e in steps}
        entries = tuple(
            replace(e, outputs={**e.outputs, "x0": f"{e.call}//output.x0"}) if e in steps else e
            for e in trace.entries
        )
        run = replace(trace, tensors={**trace.tensors, **more}, entries=entries)
        return judged(run, model, nets)

    own = judged(trace, model, nets)
    also = {(e.call, "", "x0", "equal"): 1 for e in steps}
    assert returning(1.0) == own + Counter(also)
    wrong = {(e.call, "", "x0", "differs"): 1 for e in steps}
    assert returning(1.1) == own + Counter(wrong)
