"""Rows of right runs say that they are equal, by which tolerance, and which wire they judge."""

from __future__ import annotations

import math
from functools import cache

import pytest
from changed_runs import RUNS
from unfollowed import of_another_program

from ldmref.locate.pipeline import judge_host
from ldmref.locate.precision import EPSILONS

ROUNDING = 16.0 * EPSILONS["float32"]  # of what is passed on as it is
# Kinds that compare an array with what another call returned: they say between which calls.
WIRES = {
    "ControlNet's encoder_hidden_states": ROUNDING,
    "ControlNet's sample": ROUNDING,
    "ControlNet's timestep": ROUNDING,
    "guidance scale": 1e-6,
    "mask of the text": ROUNDING,
    "pooled text": ROUNDING,
    "prediction": ROUNDING,
    "reference positions": ROUNDING,
    "reference tokens": ROUNDING,
    "residuals": ROUNDING,
    "state": ROUNDING,
    "text": ROUNDING,
    "timestep": 1e-5,
}
# Kinds that compute something anew.
COMPUTED = {
    "alphas_cumprod": 1e-4,
    "control image": 1e-5,
    "sigmas": 1e-4,
    "timesteps": 1e-4,
    "tokens": 0.0,
}
# A step is judged by its floor, and allowed a few roundings at least, whatever cancels.
OF_STEPS = ("x0", "step", "x_at", "sigma_at")


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
        if row.kind in WIRES:
            assert row.segment and row.allowed == pytest.approx(WIRES[row.kind]), row.kind
        elif row.kind in COMPUTED:
            assert not row.segment and row.allowed == pytest.approx(COMPUTED[row.kind]), row.kind
        elif row.kind.partition(".")[0] in OF_STEPS:
            assert not row.segment and ROUNDING <= row.allowed * (1 + 1e-9) and row.allowed < 2e-4
        elif row.kind == "latents":  # that a denoiser reads scaled, or a decoder unscaled
            denoiser = not row.call.startswith(("vae", "taesd"))
            assert row.segment and row.allowed == pytest.approx(1e-4 if denoiser else 2e-6)


@pytest.mark.parametrize("name", ["noise", "from-an-image", "repainted", "repainted-again"])
def test_noise_is_judged_by_its_size_alone(name):
    """Six standard deviations of the root of a mean square of N numbers."""
    n = 4 * 8 * 8
    rows = [row for row in rows_of(name) if row.kind in ("noise", "initial noise")]
    assert rows
    for row in rows:
        assert row.allowed == pytest.approx(6.0 / math.sqrt(2.0 * n))


def test_known_parts_say_where_they_come_from():
    rows = [row for row in rows_of("repainted") if row.kind == "constrain"]
    found = {row.segment: row.allowed for row in rows}
    assert set(found) == {"from the step", "the noise of the known part", ""}
    assert found["from the step"] == pytest.approx(ROUNDING) and found[""] == pytest.approx(1e-5)


@pytest.mark.parametrize("name", RUNS)
def test_every_call_between_networks_has_a_row(name):
    """A call of which nothing is judged would be right whatever it does."""
    trace, _, _ = RUNS[name]()
    rows = rows_of(name)
    calls = {entry.call for entry in trace.entries}
    between = {call for call in calls if call.is_host and call.kind not in ("tokens", "inputs")}
    assert between <= {row.call for row in rows}
    encoders = {call for call in calls if call.kind.startswith("text_encoder")}
    assert encoders <= {row.call for row in rows if row.kind == "tokens"}
