"""Runs with jumps and evaluations that are rare: no judge stops at them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from host_units import context_of, normal

from ldmref.locate.pipeline import inputs
from ldmref.locate.pipeline.known_parts import judge_known_parts

SHAPE = (1, 4, 8, 8)
X, Y = (normal(i, *SHAPE) for i in range(2))


def jump_rows(start, begun, model="tiny"):
    """Return the rows of a jump from one level to another, by kind."""
    calls = {
        "sampler.000": {"input.sigma_next": np.array(start), "output": X},
        "jump.000": {"input.noise": Y, "input.sigma": np.array(begun), "output": X},
        "sampler.001": {"input.sigma": np.array(begun), "input.x": X},
    }
    rows = judge_known_parts(context_of(calls, model))
    return {row.kind: row.verdict for row in rows}


@pytest.mark.parametrize(
    ("start", "begun", "model", "verdict"),
    [
        (4.0, 4.0, "tiny", "equal"),
        (0.5, 0.5, "flux-tiny", "equal"),
        (4.0, 3.0, "tiny", "not judged"),
        (4.0, 5.0, "tiny", "differs"),
        (0.0, 5.0, "tiny", "differs"),
        (-5.0, -4.0, "tiny", "not judged"),
        (1.0, 1.0, "flux-tiny", "not judged"),
        (0.5, 0.4, "flux-tiny", "not judged"),
    ],
)
def test_a_jump_to_no_more_noise_is_not_recomputed(start, begun, model, verdict):
    found = jump_rows(start, begun, model)
    assert found["jump"] == verdict
    assert found["state"] == "equal"
    assert found["jump level"] == "equal"


def test_an_input_that_is_divided_by_the_level_of_its_evaluation():
    """A step may evaluate at other levels than its own."""

    def cause(factor, number):
        suffix = f".{number}" if number else ""
        step = {"input.x": X, "input.sigma": np.array(3.0), "output": X}
        step |= {f"input.x_at{suffix}": X, f"input.sigma_at{suffix}": np.array(2.0)}
        calls = {
            "unet.000": {"input.sample": factor * X, "output": X},
            "guidance.000": {"output": X},
            "unet.001": {"input.sample": factor * X, "output": X},
            "guidance.001": {"output": X},
            "sampler.000": step,
        }
        context = context_of(calls, params={"steps": 4, "sampler": "heun"})
        evaluation = context.evaluations[number]
        (row,) = inputs._judge_latents(context, evaluation.networks[0], evaluation)
        return row.cause

    for number in (0, 1):
        assert cause(1.0 / math.hypot(1.0, 2.0), number) == ""
        assert cause(1.0 / 2.0, number) == "the input is divided by sigma"
        assert cause(1.0 / 3.0, number) != "the input is divided by sigma"
