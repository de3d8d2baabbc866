"""How runs begin and what is put into them: images with noise, known parts, and their sizes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from host_units import Sized, context_of, entry_of, normal

from ldmref.locate.pipeline import added_noise, sizes
from ldmref.samplers.schedule import training_alphas_cumprod

SHAPE = (1, 4, 8, 8)
X, Y, Z = (normal(i, *SHAPE) for i in range(3))
NOISE = normal(7, *SHAPE)


def verdicts(rows):
    return [(row.kind, row.verdict, row.cause) for row in rows]


# -- noise that is added --------------------------------------------------------------------------


@pytest.mark.parametrize("image", ["original_samples", "x0", "sample", "input"])
@pytest.mark.parametrize("time", ["timestep", "timesteps"])
def test_noise_is_added_at_a_time(image, time):
    alpha_bar = training_alphas_cumprod(context_of({}).config)[400]

    def rows_of(output, t=400.0):
        arrays = {f"input.{image}": X, "input.noise": NOISE, f"input.{time}": np.array(t)}
        calls = {
            "add_noise.000": {**arrays, "output": output},
            "sampler.000": {"input.model_output": X, "input.sample": X},
        }
        context = context_of(calls)
        found = verdicts(added_noise.judge_added_noise(context))
        assert context.coverage.has(entry_of(context, "add_noise.000"), "output", "output")
        return [(verdict, cause) for kind, verdict, cause in found if kind == "add_noise"]

    right = math.sqrt(alpha_bar) * X + math.sqrt(1.0 - alpha_bar) * NOISE
    sigma = math.sqrt(1.0 / alpha_bar - 1.0)
    assert rows_of(right) == [("equal", "")]
    assert rows_of(X + sigma * NOISE) == [
        ("differs", "added as x0 + sigma noise, not variance-preserving")
    ]
    assert rows_of(X)[0][1] == "the noise is not added"
    assert rows_of(right, math.nan) == [("not judged", "")]


def test_the_time_of_the_noise_is_that_of_the_next_step():
    def rows_of(t, before=900.0):
        calls = {
            "schedule.000": {"output.timesteps": np.array([900.0, 600.0, 300.0])},
            "sampler.000": {"input.timestep": np.array(before), "input.x": X},
            "add_noise.000": {"input.timestep": np.array(t), "input.noise": NOISE},
            "sampler.001": {"input.timestep": np.array(600.0), "input.x": X},
        }
        rows = verdicts(added_noise.judge_added_noise(context_of(calls)))
        return [row[1:] for row in rows if row[0] == "noise time"]

    assert rows_of(600.0) == [("equal", "")]
    words = "the noise of timestep 900 instead of 600, where the state is"
    assert rows_of(900.0) == [("differs", words)]
    assert rows_of(600.0 * (1 + 0.9e-5)) == [("equal", "")]
    assert rows_of(600.0 * (1 + 1.1e-5))[0][0] == "differs"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_tables_of_narrow_formats_round(dtype):
    context = context_of({}, dtype=dtype)
    table = training_alphas_cumprod(context.config)
    for t in (-1.0, 0.0, 500.0, 999.0, 2000.0):
        found = added_noise._table_error(context, t, X, NOISE)
        if dtype == "float32":
            assert found == 0.0
            continue
        alpha_bar = table[min(max(int(t), 0), 999)]
        digits = 8 if dtype == "bfloat16" else 11
        mantissa, exponent = math.frexp(alpha_bar)
        rounded = math.ldexp(round(mantissa * 2**digits) / 2**digits, exponent)
        if dtype == "float16" and alpha_bar < 2.0**-14:
            continue
        right, narrow = (
            math.sqrt(a) * X + math.sqrt(max(1.0 - a, 0.0)) * NOISE for a in (alpha_bar, rounded)
        )
        error = np.abs(narrow - right).max() / np.abs(right).max()
        assert found == pytest.approx(error, rel=1e-6, abs=1e-12)
    assert added_noise._table_error(context_of({}, "flux-tiny", dtype), 500.0, X, NOISE) == 0.0


# -- sizes ----------------------------------------------------------------------------------------


def test_each_call_without_known_sizes_is_passed_over():
    six = np.ones((1, 6))
    calls = {
        "unet.000": {"input.sample": X},
        "unet.001": {"input.sample": X, "input.time_ids": six[:, :5]},
        "unet.002": {"input.sample": X, "input.time_ids": six},
        "unet.003": {"input.sample": X, "input.time_ids": six},
        "unet.004": {"input.sample": X, "input.time_ids": 2 * six},
    }
    context = replace(context_of(calls), model=Sized())
    rows = [*sizes.judge_sizes(context)]
    assert [row.call for row in rows] == ["unet.002", "unet.004"]
    marked = [c for c in calls if context.coverage.has(entry_of(context, c), "time_ids")]
    assert marked == ["unet.002", "unet.003", "unet.004"]
    ours = replace(context_of(calls, params={"original_width": 3}), model=Sized())
    assert not [*sizes.judge_sizes(ours)]
    explained = {name for name, _, role in ours.coverage.reasons if role == "time_ids"}
    assert explained == {"unet.002/", "unet.003/", "unet.004/"}


def test_each_call_without_positions_is_passed_over():
    x, ids = np.zeros((1, 4, 2, 2)), np.zeros((1, 3))
    calls = {
        "unet.000": {"input.sample": x},
        "unet.001": {"input.sample": x[0], "input.img_ids": ids},
        "unet.002": {"input.sample": x, "input.img_ids": ids[:, :2], "input.txt_ids": ids},
        "unet.003": {"input.sample": x, "input.img_ids": ids + 1.0},
    }
    context = context_of(calls)
    rows = [*sizes.judge_positions(context)]
    assert [(row.call, row.verdict) for row in rows] == [
        ("unet.002", "equal"), ("unet.003", "differs"),
    ]  # fmt: skip
