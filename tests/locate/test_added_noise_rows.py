"""Rows of noise that is added: what may differ, which causes are tried, and its time."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, entry_of, model_of, normal

from ldmref.locate.pipeline import added_noise
from ldmref.samplers.schedule import training_alphas_cumprod

SHAPE = (1, 4, 8, 8)
X, NOISE, OTHER = (normal(i, *SHAPE) for i in range(3))
ALPHA = training_alphas_cumprod(model_of("tiny").config.scheduler)[400]
RIGHT = math.sqrt(ALPHA) * X + math.sqrt(1.0 - ALPHA) * NOISE


def row_of(output, model="tiny", dtype="float32", t=400.0, x0=X, noise=NOISE):
    arrays = {"input.x0": x0, "input.noise": noise, "input.timestep": t, "output": output}
    context = context_of({"add_noise.000": arrays}, model, dtype)
    rows = added_noise.judge_added_noise(context)
    (row,) = (row for row in rows if row.kind == "add_noise")
    return row


# -- what may differ ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "table", "allowed"),
    [
        ("float64", 0.0, 1e-4),
        ("float32", 0.0, 1e-4),
        ("float32", 0.25, 0.5),
        ("float16", 0.0, 16.0 * 2.0**-10),
        ("bfloat16", 0.01, 16.0 * 2.0**-7),
        ("bfloat16", 0.25, 0.5),
    ],
)
def test_the_table_and_the_format_say_what_may_differ(dtype, table, allowed, monkeypatch):
    asked = []

    def table_error(context, t, x0, noise):
        asked.append((t, np.array_equal(x0, X), np.array_equal(noise, NOISE)))
        return table

    monkeypatch.setattr(added_noise, "_table_error", table_error)
    row = row_of(RIGHT, dtype=dtype)
    assert (row.verdict, row.allowed) == ("equal", allowed)
    assert asked == [(400.0, True, True)]
    for apart, verdict in ((0.99, "equal"), (1.01, "differs")):
        moved = RIGHT.copy()
        moved.flat[3] += apart * allowed * np.abs(RIGHT).max()
        assert row_of(moved, dtype=dtype).verdict == verdict


def test_factors_of_the_image_and_the_noise_are_told_of_a_flow_alone():
    channels = model_of("flux-tiny").config.vae.latent_channels
    x0, noise = normal(3, 1, channels, 8, 8), normal(4, 1, channels, 8, 8)
    total = model_of("flux-tiny").config.scheduler.num_train_timesteps
    s = 400.0 / total

    def cause(output):
        return row_of(output, "flux-tiny", x0=x0, noise=noise).cause

    assert cause((1.0 - s) * x0 + s * noise) == ""
    assert cause((1.0 - s) * x0 + 3.0 * s * noise) == "the noise is multiplied by 3"
    assert cause(x0) == "the noise is not added"
    three = math.sqrt(ALPHA) * X + 3.0 * math.sqrt(1.0 - ALPHA) * NOISE
    assert "multiplied" not in row_of(three).cause


# -- the time -------------------------------------------------------------------------------------


def time_rows(t, steps, schedule=True):
    """Return the rows of the time of the noise, with the times of steps before and after it."""
    before, after = steps
    calls = {"schedule.000": {"output.timesteps": np.array([900.0, 600.0])}} if schedule else {}
    calls |= {f"sampler.00{i}": times_of(x) for i, x in enumerate(before)}
    calls["add_noise.000"] = {"input.timesteps": np.array([t, t]), "input.noise": NOISE}
    calls |= {f"sampler.01{i}": times_of(x) for i, x in enumerate(after)}
    context = context_of(calls)
    rows = [row for row in added_noise.judge_added_noise(context) if row.kind == "noise time"]
    return rows, context.coverage.has(entry_of(context, "add_noise.000"), "timesteps")


def times_of(t):
    return {"input.x": X} if t is None else {"input.x": X, "input.timestep": t}


@pytest.mark.parametrize(
    ("t", "steps", "verdicts"),
    [
        (600.0, ([900.0], [600.0, 300.0]), ["equal"]),
        (300.0, ([900.0], [600.0, 300.0]), ["differs"]),
        (600.0, ([900.0, 600.0], []), []),
        (600.0, ([900.0], [None, 600.0]), []),
        (600.0, ([], [600.0]), ["equal"]),
    ],
)
def test_the_time_is_that_of_the_first_step_after_the_noise(t, steps, verdicts):
    rows, compared = time_rows(t, steps)
    assert [row.verdict for row in rows] == verdicts
    assert compared == bool(verdicts)
    assert time_rows(t, steps, schedule=False) == ([], False)


def test_of_two_arrays_of_one_name_the_first_is_compared():
    times = {"input.timestep": np.array([600.0]), "input.timesteps": np.array([300.0])}
    calls = {"schedule.000": {"output.timesteps": np.array([600.0])}, "add_noise.000": times}
    context = context_of(calls | {"sampler.000": times_of(600.0)})
    assert [row.verdict for row in added_noise.judge_added_noise(context)] == ["equal"]
    (rest,) = context.coverage.rest([entry_of(context, "add_noise.000")])
    assert rest[1] == ["input.timesteps"]


@pytest.mark.parametrize(
    ("noise", "verdicts"), [(NOISE, []), (2.0 * NOISE, ["differs"]), (NOISE[:, :1], [])]
)
def test_noise_is_the_one_that_was_given(noise, verdicts):
    calls = {"inputs.000": {"input.latents": NOISE}, "add_noise.000": {"input.noise": noise}}
    context = context_of(calls)
    assert [row.verdict for row in added_noise.judge_added_noise(context)] == verdicts
    assert context.coverage.has(entry_of(context, "add_noise.000"), "noise")


def test_another_time_is_named():
    ((row,), _) = time_rows(300.0, ([], [600.0]))
    assert "timestep 300" in row.cause
    assert "600" in row.cause
    assert row.allowed == 1e-5


# -- the image ------------------------------------------------------------------------------------


def test_the_row_of_the_encoder_comes_first(monkeypatch):
    asked = []
    found = []

    def judge_encoded(context, x0, method, segment):
        right = np.array_equal(x0.array, X)
        asked.append((x0.call, right, method, "add_noise.000" in segment))
        return context.row(x0, "encoded latents") if found[0] else None

    monkeypatch.setattr(added_noise, "judge_encoded", judge_encoded)
    calls = {
        "vae.encode.000": {"output.mean": X},
        "add_noise.000": {"input.x0": X, "input.noise": NOISE},
    }
    for row in (True, False):
        found[:] = [row]
        context = context_of(calls)
        entry = entry_of(context, "add_noise.000")
        rows = [*added_noise._judge_sources(context, entry)]
        assert [x.kind for x in rows] == (["encoded latents"] if row else []) + ["noise"]
        assert context.coverage.has(entry, "x0") == row
        explained = {role for _, _, role in context.coverage.reasons}
        assert explained == (set() if row else {"x0"})
    assert asked == [("add_noise.000", True, "prepare_latents", True)] * 2


def test_noise_without_an_image_is_judged_by_itself():
    context = context_of({"add_noise.000": {"input.noise": NOISE}})
    entry = entry_of(context, "add_noise.000")
    assert [row.kind for row in added_noise._judge_sources(context, entry)] == ["noise"]
    calls = {"inputs.000": {"input.image": X}, "add_noise.000": {"input.noise": NOISE}}
    context = context_of(calls)
    entry = entry_of(context, "add_noise.000")
    assert [row.kind for row in added_noise._judge_sources(context, entry)] == ["noise"]


# -- fits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", range(4))
def test_mixtures_of_other_shapes_are_not_fitted(which):
    arrays = [RIGHT, X, NOISE, RIGHT]
    assert added_noise._fitted(*arrays)
    arrays[which] = arrays[which][:, :3]
    assert added_noise._fitted(*arrays) == {}


@pytest.mark.parametrize(
    ("ratios", "words"),
    [
        ([[1.0, 1.0, 0.0]], "image and noise are mixed"),
        ([[1.0009, 0.9991, 0.0009]], "image and noise are mixed"),
        ([[1.0, 1.0, 0.001]], "image and noise are mixed"),
        ([[1000.0, 1.0, 0.0], [999.0, 1.0, 0.0]],
         "the image is multiplied by 999 to 1000 by channel"),
        ([[0.5, 1.0, 0.0]], "the image is multiplied by 0.5"),
        ([[1.0, -2.0, 0.0]], "the noise is multiplied by -2"),
        ([[1.0, 1.0, -0.25], [1.0, 1.0, 0.5]], "-0.25 to 0.5 is added"),
        ([[1.0, 1.0, -0.25], [1.0, 1.0, 0.0]], "-0.25 to 0 is added"),
        ([[2.0, 1.0, 0.0], [1.0, 1.0, 0.0]], "the image is multiplied by 1 to 2 by channel"),
        ([[1.0, 1.0, 0.0], [1.0, 0.5, 0.0]], "the noise is multiplied by 0.5 to 1 by channel"),
        ([[-9.0, 1.0, 0.0], [-9.008, 1.0, 0.0]], "the image is multiplied by -9"),
        ([[-9.0, 1.0, 0.0], [-9.009, 1.0, 0.0]], "the image is multiplied by -9"),
        ([[4.0, 1.0, 0.0], [4.005, 1.0, 0.0]], "the image is multiplied by 4 to 4.005 by channel"),
        ([[3.0, 3.0, 1.0]], "the image is multiplied by 3; the noise is multiplied by 3; "
                            "1 to 1 is added"),
    ],
)  # fmt: skip
def test_ratios_in_words(ratios, words):
    assert added_noise._describe(np.array(ratios)) == words


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_mixtures_of_what_is_not_finite_are_not_fitted(which, value, capfd):
    """LAPACK prints on standard error that an argument is illegal."""
    arrays = [np.array(x, np.float64) for x in (2.0 * RIGHT, X, NOISE, RIGHT)]
    arrays[which][0, 0, 0, 0] = value
    assert added_noise._fitted(*arrays) == {}
    assert capfd.readouterr().err == ""


def test_a_mixture_of_one_channel_is_fitted():
    (words,) = added_noise._fitted(2.0 * RIGHT[:, :1], X[:, :1], NOISE[:, :1], RIGHT[:, :1])
    assert words == "the image is multiplied by 2; the noise is multiplied by 2"


def test_mixtures_that_are_not_finite_are_not_fitted():
    output = RIGHT.copy()
    output[0, 2, 3, 4] = np.nan
    assert added_noise._fitted(output, X, NOISE, RIGHT) == {}


# -- tables of narrow formats ---------------------------------------------------------------------


def test_a_table_of_a_narrow_format_rounds_the_factors(monkeypatch):
    monkeypatch.setattr(
        added_noise, "training_alphas_cumprod", lambda config: np.array([1.0 - 2.0**-10, 0.5])
    )
    context = SimpleNamespace(path=None, dtype="bfloat16", config=None)
    x0, noise = np.ones((1, 1, 1, 1)), np.full((1, 1, 1, 1), 2.0)
    a = 1.0 - 2.0**-10
    right = math.sqrt(a) + 2.0 * math.sqrt(1.0 - a)
    for t in (0.0, 0.9, -5.0):
        found = added_noise._table_error(context, t, x0, noise)
        assert found == pytest.approx((right - 1.0) / right)
    for t in (1.0, 1.9, 2.0, 99.0):
        assert added_noise._table_error(context, t, x0, noise) == 0.0
    for dtype in ("float32", "float64"):
        context.dtype = dtype
        assert added_noise._table_error(context, 0.0, x0, noise) == 0.0


@pytest.mark.parametrize(("t", "index"), [(-1.0, 0), (0.0, 0), (1.0, 1), (2.0, 2), (9.0, 2)])
def test_times_beyond_the_table_are_those_of_its_ends(t, index, monkeypatch):
    table = np.array([0.9, 0.5, 0.1])
    monkeypatch.setattr(added_noise, "training_alphas_cumprod", lambda config: table)
    context = SimpleNamespace(
        config=None,
        sigma_at=lambda t: None,
        choose_sampler=lambda config: (SimpleNamespace(family="ddim"), ""),
    )
    right, changes = added_noise._mix_of_diffusion(context, t, X, NOISE)
    near = {"next": min(index + 1, 2), "previous": max(index - 1, 0)}
    found = [right, *(changes[f"noise of the {name} training timestep"] for name in near)]
    for x, i in zip(found, (index, *near.values()), strict=True):
        np.testing.assert_allclose(x, math.sqrt(table[i]) * X + math.sqrt(1 - table[i]) * NOISE)


def test_calls_that_cannot_be_judged_do_not_hide_others():
    good = {"input.x0": X, "input.noise": NOISE, "input.timestep": 400.0, "output": RIGHT}
    for bad in ({"output": None}, {"input.timestep": math.nan}):
        first = {name: x for name, x in (good | bad).items() if x is not None}
        context = context_of({"add_noise.000": first, "add_noise.001": good})
        rows = [row for row in added_noise.judge_added_noise(context) if row.kind == "add_noise"]
        assert (rows[-1].call, rows[-1].verdict) == ("add_noise.001", "equal")


def test_each_call_says_that_the_scheduler_is_not_known():
    good = {"input.x0": X, "input.noise": NOISE, "input.timestep": 400.0, "output": RIGHT}
    calls = {"add_noise.000": good, "add_noise.001": good}
    context = context_of(calls, scheduler={"class": "UnheardOfScheduler", "config": {}})
    rows = [row for row in added_noise.judge_added_noise(context) if row.kind == "add_noise"]
    assert [(row.call, row.verdict) for row in rows] == [(call, "not judged") for call in calls]
