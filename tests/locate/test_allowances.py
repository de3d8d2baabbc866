"""Errors on both sides of what each wire allows, in each number format."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from changed_runs import RUNS
from unfollowed import of_another_program

from ldmref.locate.pipeline import judge_host
from ldmref.locate.precision import EPSILONS

EXACT = (0.0, 16.0)  # of arrays that are passed on
TABLE = (1e-4, 8.0)  # of numbers that follow from a table in float32
ALLOWED = {  # kind of a row: the least that is allowed, and units of the format: 16 halves or more
    "alphas_cumprod": TABLE,
    "timesteps": TABLE,
    "sigmas": TABLE,
    "text": EXACT,
    "pooled text": EXACT,
    "mask of the text": EXACT,
    "prediction": EXACT,
    "state": EXACT,
    "initial latents": EXACT,
    "residuals": EXACT,
    "ControlNet's sample": EXACT,
    "ControlNet's timestep": EXACT,
    "ControlNet's encoder_hidden_states": EXACT,
    "timestep": (1e-5, 8.0),
    "control image": (1e-5, 8.0),
    "guidance scale": (1e-6, 8.0),
    "reference tokens": (1e-6, 16.0),
    "reference positions": (1e-6, 16.0),
    "image cond hidden states": (1e-6, 16.0),
    "image cond ids": (1e-6, 16.0),
}
WIRES = {  # kind of a row: the side and the role of its array
    "text": ("inputs", "encoder_hidden_states"),
    "pooled text": ("inputs", "pooled_projections"),
    "timestep": ("inputs", "timestep"),
    "guidance scale": ("inputs", "guidance"),
    "reference tokens": ("inputs", "reference_tokens"),
    "image cond hidden states": ("inputs", "image_cond_hidden_states"),
    "ControlNet's sample": ("inputs", "sample"),
    "ControlNet's timestep": ("inputs", "timestep"),
    "ControlNet's encoder_hidden_states": ("inputs", "encoder_hidden_states"),
    "sigmas": ("outputs", "sigmas"),
    "timesteps": ("outputs", "timesteps"),
}


def judged(trace, model, nets, dtype):
    return judge_host(of_another_program(trace), model, dtype, [], controlnets=nets)


@pytest.mark.parametrize("name", RUNS)
def test_each_wire_allows_a_rounding_of_its_format(name):
    run = RUNS[name]()
    for dtype, epsilon in EPSILONS.items():
        rows = [row for row in judged(*run, dtype) if row.kind in ALLOWED]
        assert len(rows) > 3
        for row in rows:
            least, units = ALLOWED[row.kind]
            allowed = max(least, units * epsilon)
            assert row.allowed == pytest.approx(allowed, rel=1e-9), (row.call, row.kind, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["noise", "controlled", "flux", "flux3, a reference", "z-image"])
def test_an_error_is_a_fault_only_beyond_the_border(name, dtype):
    """Each array of a wire times 1 + e has the error e."""
    trace, model, nets = RUNS[name]()
    found = {
        (row.call, row.kind): row
        for row in judged(trace, model, nets, dtype)
        if row.kind in WIRES and not row.layer
    }
    assert len(found) > 3
    for (call, kind), row in found.items():
        side, role = WIRES[kind]
        array = getattr(trace.find(call), side)[role]
        for factor, verdict in ((0.7, "equal"), (1.3, "differs")):
            x = np.asarray(trace.tensors[array], np.float64)
            wrong = {**trace.tensors, array: x * (1.0 + factor * row.allowed)}
            rows = judged(replace(trace, tensors=wrong), model, nets, dtype)
            own = [r.verdict for r in rows if (r.call, r.kind) == (call, kind) and not r.layer]
            assert own == [verdict], (call, kind, factor)
