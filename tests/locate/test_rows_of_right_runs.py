"""Rows of right runs: every call between networks has one, with what it allows and no cause."""

from __future__ import annotations

from functools import cache

import pytest
from changed_runs import RUNS
from unfollowed import of_another_program

from ldmref.locate.pipeline import judge_host
from ldmref.locate.recorded.precision import EPSILONS

# The relative errors that are allowed at least, of numbers that follow from a table in float32.
LEAST = {"alphas_cumprod": 1e-4, "sigmas": 1e-4, "timesteps": 1e-4, "timestep": 1e-5}


@cache
def rows_of(name):
    trace, model, nets = RUNS[name]()
    return judge_host(of_another_program(trace), model, "float32", [], controlnets=nets)


@pytest.mark.parametrize("name", RUNS)
def test_rows_of_right_runs_have_the_tolerance_of_their_kind(name):
    for row in rows_of(name):
        assert row.verdict in ("equal", "not judged") and not row.cause
        if row.verdict == "not judged":
            assert row.note
            continue
        assert row.error <= row.allowed
        if row.floor is None:  # whole numbers
            assert row.allowed == 0.0
        else:
            least = max(LEAST.get(row.kind, 0.0), 8.0 * EPSILONS["float32"])
            assert least <= row.allowed * (1 + 1e-9) and row.allowed < 2e-4, row.kind


@pytest.mark.parametrize("name", RUNS)
def test_every_call_between_networks_has_a_row(name):
    """A call of which nothing is judged would be right whatever it does."""
    trace, _, _ = RUNS[name]()
    rows = rows_of(name)
    calls = {entry.call for entry in trace.entries}
    between = {call for call in calls if call.is_host and call.kind not in ("words", "inputs")}
    assert between <= {row.call for row in rows}
    encoders = {call for call in calls if call.kind.startswith("text_encoder")}
    assert encoders <= {row.call for row in rows if row.kind == "tokens"}
