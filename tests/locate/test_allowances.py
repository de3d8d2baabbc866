"""Errors on both sides of what each array of a run allows, in two number formats."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from changed_runs import RUNS
from unfollowed import of_another_program

from ldmref.locate.pipeline import judge_host

WIRES = {  # kind of a row: the side and the role of its array
    "text": ("inputs", "encoder_hidden_states"),
    "pooled text": ("inputs", "pooled_projections"),
    "reference tokens": ("inputs", "reference_tokens"),
    "image cond hidden states": ("inputs", "image_cond_hidden_states"),
    "prediction": ("inputs", "prediction"),
    "sigmas": ("outputs", "sigmas"),
    "timesteps": ("outputs", "timesteps"),
}


def judged(trace, model, nets, dtype):
    return judge_host(of_another_program(trace), model, dtype, [], controlnets=nets)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["noise", "controlled", "flux", "flux3, a reference", "z-image"])
def test_an_error_is_a_fault_only_beyond_the_border(name, dtype):
    """Each array of a wire times 1 + e has the error e; beyond the least, its noise is measured."""
    trace, model, nets = RUNS[name]()
    found = {
        (row.call, row.kind): row
        for row in judged(trace, model, nets, dtype)
        if row.kind in WIRES and not row.layer and row.verdict == "equal"
    }
    assert len(found) > 3
    for (call, kind), row in found.items():
        side, role = WIRES[kind]
        array = getattr(trace.find(call), side)[role]
        for factor, verdict in ((0.7, "equal"), (12.0, "differs")):
            x = np.asarray(trace.tensors[array], np.float64)
            wrong = {**trace.tensors, array: x * (1.0 + factor * row.allowed)}
            rows = judged(replace(trace, tensors=wrong), model, nets, dtype)
            own = [r.verdict for r in rows if (r.call, r.kind) == (call, kind) and not r.layer]
            assert own == [verdict], (call, kind, factor)
