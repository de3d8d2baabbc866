"""Runs with jumps and evaluations that are rare: no judge stops at them."""

from __future__ import annotations

import math

import numpy as np
from host_units import context_of, normal

from ldmref.locate.pipeline import inputs

SHAPE = (1, 4, 8, 8)
X, Y = (normal(i, *SHAPE) for i in range(2))


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
