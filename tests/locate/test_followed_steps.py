"""Steps that are followed through whole runs: those of diffusers' schedulers, and formulas.

Predictions are random numbers, so that no step is right by chance.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from host_units import context_of, entry_of, model_of, normal

from ldmref.locate.pipeline import steps
from ldmref.locate.pipeline.recorded_step import RecordedEvaluation

SHAPE = (1, 4, 8, 8)
X, Y, Z = (normal(i, *SHAPE) for i in range(3))
EPSILON = 2.0**-23
NOISE = 16.0  # units that are rounding
EULER = {"steps": 4, "sampler": "euler"}


def step_rows(context):
    """Return call and verdict of the rows of steps."""
    rows = [row for row in steps.judge_steps(context) if row.kind == "step"]
    return [(row.call, row.verdict) for row in rows]


# -- schedulers of diffusers ----------------------------------------------------------------------


def recorded_run(name, first, count, eta, **more):
    """Return the recorded calls and the manifest of steps that a scheduler of diffusers takes."""
    diffusers = pytest.importorskip("diffusers")
    torch = pytest.importorskip("torch")
    own = model_of("tiny").config.scheduler
    config = {"beta_schedule": own.beta_schedule, "beta_start": own.beta_start,
              "beta_end": own.beta_end, **more}  # fmt: skip
    scheduler = getattr(diffusers, name)(**config)
    scheduler.set_timesteps(count)
    calls = {"schedule.000": {"output.timesteps": scheduler.timesteps.numpy()}}
    state = scheduler.init_noise_sigma * torch.from_numpy(normal(7, *SHAPE)).float()
    if first and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    options = {} if eta is None else {"eta": eta}
    for i, t in enumerate(scheduler.timesteps[first:]):
        predicted = torch.from_numpy(normal(10 + i, *SHAPE)).float()
        noise = torch.from_numpy(normal(50 + i, *SHAPE)).float()
        arrays = {"input.model_output": predicted.numpy(), "input.sample": state.numpy(),
                  "input.timestep": t.numpy()}  # fmt: skip
        if eta:
            options["variance_noise"] = noise
            arrays["input.noise"] = noise.numpy()
        state = scheduler.step(predicted, t, state, **options).prev_sample
        calls[f"sampler.{i:03}"] = {**arrays, "output": state.numpy()}
    return calls, {"class": name, "config": dict(scheduler.config)}


RUNS = [
    ("DDIMScheduler", 0, 4, 0.0, {}),
    ("DDIMScheduler", 2, 4, 0.5, {"clip_sample": False}),
    ("EulerDiscreteScheduler", 0, 4, None, {}),
    ("EulerDiscreteScheduler", 2, 4, None, {}),
    ("PNDMScheduler", 0, 5, None, {"skip_prk_steps": True}),
    ("PNDMScheduler", 2, 5, None, {"skip_prk_steps": True}),
    ("HeunDiscreteScheduler", 0, 4, None, {}),
    ("DPMSolverMultistepScheduler", 0, 4, None, {}),
    ("DPMSolverMultistepScheduler", 1, 4, None, {}),
    ("LMSDiscreteScheduler", 0, 5, None, {}),
]


@pytest.mark.parametrize(
    ("name", "first", "count", "eta", "more"), RUNS, ids=[f"{x[0]}-{x[1]}" for x in RUNS]
)
def test_steps_of_diffusers_are_right_and_each_is_judged(name, first, count, eta, more):
    calls, said = recorded_run(name, first, count, eta, **more)
    given = {"num_inference_steps": count} | ({} if eta is None else {"eta": eta})
    names = [call for call in calls if call.startswith("sampler")]
    context = context_of(calls, scheduler=said, params=given)
    assert step_rows(context) == [(call, "equal") for call in names]
    for wrong in names:
        changed = {**calls, wrong: {**calls[wrong], "output": calls[wrong]["output"] + 0.1}}
        context = context_of(changed, scheduler=said, params=given)
        expected = [(call, "differs" if call == wrong else "equal") for call in names]
        assert step_rows(context) == expected


def test_which_schedulers_of_diffusers_end_without_signal():
    """Where the table is rescaled, some keep an alpha-bar of exactly 0."""
    diffusers = pytest.importorskip("diffusers")
    names = (
        "DDIMScheduler", "DDPMScheduler", "LCMScheduler", "TCDScheduler", "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler",
    )  # fmt: skip
    zero = set()
    for name in names:
        scheduler = getattr(diffusers, name)(rescale_betas_zero_snr=True)
        if float(scheduler.alphas_cumprod[-1]) == 0.0:
            zero.add(name)
    assert zero == {*steps.EXACTLY_ZERO}


def test_without_signal_nothing_of_the_image_is_left_in_float64():
    assert 1.0 / (1.0 + steps.NO_SIGNAL**2) < np.finfo(np.float64).eps
    assert math.isfinite(steps.NO_SIGNAL**2)


# -- runs of other programs -----------------------------------------------------------------------


def euler_calls(count=4, **more):
    """Return the recorded calls of Euler's method: x' = x + (sigma' - sigma) eps."""
    made = context_of({}, params=EULER).make_schedule()
    assert made is not None
    calls = {}
    state = made.sigmas[0] * X
    for i in range(count):
        sigma, following = made.sigmas[i : i + 2]
        predicted = normal(20 + i, *SHAPE)
        after = state + (following - sigma) * predicted
        calls[f"sampler.00{i}"] = {
            "input.x": state, "input.prediction": predicted, "input.sigma": np.array(sigma),
            "input.sigma_next": np.array(following), "input.x0": state - sigma * predicted,
            "output.x0": state - sigma * predicted, "output": after,
        }  # fmt: skip
        state = after
    return calls


@pytest.mark.parametrize("lacking", [None, 0, 1, 2, 3])
def test_a_step_without_its_result_leaves_the_others(lacking):
    calls = euler_calls()
    names = [*calls]
    if lacking is not None:
        del calls[names[lacking]]["output"]
    expected = [(name, "equal") for i, name in enumerate(names) if i != lacking]
    assert step_rows(context_of(calls, params=EULER)) == expected


def test_steps_beyond_the_schedule_are_not_judged():
    calls = euler_calls()
    names = [*calls]
    more = {f"sampler.00{4 + i}": calls[names[3]] for i in range(2)}
    rows = [row for row in steps.judge_steps(context_of(calls | more, params=EULER))]
    notes = {row.call: row.note for row in rows if row.kind == "step" and row.note}
    words = "it is not one of the steps that follow from the schedule"
    assert notes == dict.fromkeys(more, words)


def test_heun_of_one_call_a_step():
    """x1 = x + h d, then x + h (d + d1) / 2, where d1 is that of the second evaluation."""
    wanted = {"steps": 3, "sampler": "heun"}
    made = context_of({}, params=wanted).make_schedule()
    assert made is not None
    calls, state = {}, made.sigmas[0] * X
    for i in range(3):
        sigma, following = made.sigmas[i : i + 2]
        d, second = normal(30 + i, *SHAPE), normal(40 + i, *SHAPE)
        there = state + (following - sigma) * d
        x0 = there - following * second
        after = state + (following - sigma) * (d + second) / 2.0
        calls[f"sampler.00{i}"] = {
            "input.x": state, "input.prediction": d, "input.sigma": np.array(sigma),
            "input.sigma_next": np.array(following), "output": after, "input.x_at": state,
            "input.sigma_at": np.array(sigma), "input.x_at.1": there, "input.x0.1": x0,
            "input.sigma_at.1": np.array(following), "input.prediction.1": second,
        }  # fmt: skip
        state = after

    def found(changed):
        rows = [*steps.judge_steps(context_of(changed, params=wanted))]
        return {(row.call, row.kind): row.verdict for row in rows}

    kinds = ["step", "x_at", "sigma_at", "x_at.1", "sigma_at.1", "x0.1"]
    right = {(f"sampler.00{i}", kind): "equal" for i in range(3) for kind in kinds}
    assert found(calls) == right
    second = calls["sampler.001"]
    for role in ("x_at", "sigma_at", "x_at.1", "sigma_at.1"):
        wrong = {**second, f"input.{role}": 1.1 * second[f"input.{role}"]}
        assert found({**calls, "sampler.001": wrong})["sampler.001", role] == "differs"


def test_the_first_step_that_cannot_be_followed_says_why():
    calls = {"sampler.000": euler_calls(1)["sampler.000"]}
    context = context_of(calls, params={"steps": 4, "sampler": "euler_a"})  # needs noise
    rows = [row for row in steps.judge_steps(context) if row.kind == "step"]
    note = "the noise of the steps was not recorded"
    assert [(row.verdict, row.note) for row in rows] == [("not judged", note)]
    unknown = {"class": "UnheardOf", "config": {}}
    rows = [*steps.judge_steps(context_of(calls, scheduler=unknown))]
    assert [(row.kind, row.verdict) for row in rows] == [("step", "not judged")]


def test_x0_is_judged_as_it_was_predicted_and_returned_as_it_was_used():
    """A step that clips x0 returns the clipped one; what it was given is the network's."""
    model = model_of("tiny")
    assert not model.config.scheduler.clip_sample_range
    rows = [*steps.judge_steps(context_of(euler_calls(), params=EULER))]
    assert [row.verdict for row in rows if row.kind == "x0"] == ["equal"] * 8
    for side in ("input", "output"):
        calls = euler_calls()
        calls["sampler.001"][f"{side}.x0"] = calls["sampler.001"][f"{side}.x0"] + 1.0
        rows = [*steps.judge_steps(context_of(calls, params=EULER))]
        found = [(row.call, row.verdict) for row in rows if row.kind == "x0"]
        assert found.count(("sampler.001", "differs")) == 1
        assert len([x for x in found if x[1] == "differs"]) == 1


# -- what is allowed ------------------------------------------------------------------------------


def within(error, dtype="float32", rough=0.0, scale=1.0, role="output.x0"):
    """Return the row of an array within a step, whose state is `scale` times as large."""
    right = np.array([[0.5, -1.0]])
    got = right + error * np.array([[1.0, 0.0]])
    state = scale * right
    calls = {"sampler.000": {role: got, "input.x": state, "input.prediction": state}}
    context = context_of(calls, dtype=dtype, params=EULER)
    evaluation = RecordedEvaluation(entry_of(context, "sampler.000"), state, state, ())
    followed = steps.Followed(right, state, right, [(right, 2.0)])
    low = followed._replace(x0=right * (1.0 + rough), seen=[(right * (1.0 + rough), 2.0)])
    (row,) = steps._judge_within(context, evaluation, followed, low)
    side, _, name = role.partition(".")
    assert context.ledger.has(entry_of(context, "sampler.000"), name, side)
    return row


@pytest.mark.parametrize("role", ["output.x0", "input.x0", "input.x_at"])
@pytest.mark.parametrize(
    ("dtype", "rough", "scale", "allowed"),
    [
        ("float32", 0.0, 1.0, (NOISE + 8.0) * EPSILON),
        ("float32", 0.0, 100.0, (NOISE + 800.0) * EPSILON),
        ("float16", 0.0, 10.0, (NOISE + 80.0) * 2.0**-10),
        ("float32", 1e-4, 1.0, NOISE * 1e-4),
        ("float64", 0.0, 1.0, 2e-6),
    ],
)
def test_rounding_within_a_step_is_that_of_its_state(role, dtype, rough, scale, allowed):
    """A product, a difference and a division each round both: 2 units of 4 states."""
    for factor, verdict in ((0.99, "equal"), (1.01, "differs")):
        row = within(factor * allowed, dtype, rough, scale, role)
        assert (row.verdict, row.allowed) == (verdict, pytest.approx(allowed))


def test_what_a_step_was_given_is_the_prediction_and_not_what_it_clipped():
    state, predicted = 2.0 * X, Y
    used = np.clip(state - 2.0 * predicted, -1.0, 1.0)
    arrays = {"input.x": state, "input.prediction": predicted, "input.sigma": np.array(2.0),
              "input.x0": state - 2.0 * predicted, "output.x0": used}  # fmt: skip
    context = context_of({"sampler.000": arrays}, params=EULER)
    evaluation = RecordedEvaluation(entry_of(context, "sampler.000"), state, predicted, ())
    rows = [*steps._judge_within(context, evaluation, steps.Followed(X, state, used), None)]
    assert [(row.kind, row.verdict) for row in rows] == [("x0", "equal")] * 2


def later(error, dtype, scale):
    """Return the rows of x0.2 beside x0.1, whose prediction is not recorded."""
    state, sigma = scale * np.array([[0.5, -1.0]]), 2.0
    predicted = (state - np.array([[0.5, -1.0]])) / sigma
    got = np.array([[0.5, -1.0]]) + error * np.array([[1.0, 0.0]])
    arrays = {"input.x": state, "input.prediction": state, "input.x0.1": got, "input.x0.2": got,
              "input.prediction.2": predicted, "input.x_at.2": state,
              "input.sigma_at.2": np.array(sigma)}  # fmt: skip
    context = context_of({"sampler.000": arrays}, dtype=dtype, params=EULER)
    evaluation = RecordedEvaluation(entry_of(context, "sampler.000"), state, state, ())
    return [*steps._judge_later(context, evaluation)]


@pytest.mark.parametrize(
    ("dtype", "scale", "allowed"),
    [
        ("float32", 1.0, (NOISE + 8.0) * EPSILON),
        ("float32", 100.0, (NOISE + 800.0) * EPSILON),
        ("float16", 10.0, (NOISE + 80.0) * 2.0**-10),
        ("float64", 1.0, 2e-6),
    ],
)
def test_rounding_of_later_evaluations_is_that_of_their_states(dtype, scale, allowed):
    for factor, verdict in ((0.99, "equal"), (1.01, "differs")):
        (row,) = later(factor * allowed, dtype, scale)
        assert (row.kind, row.verdict, row.allowed) == ("x0.2", verdict, pytest.approx(allowed))


def test_a_step_is_allowed_what_its_state_and_its_predictions_round():
    """LMS extrapolates from 10 and 9.9 to 0.1, so a rounded prediction counts many times."""
    wanted = {"steps": 3, "sampler": "lms_euler", "sigmas": [10.0, 9.9, 0.1, 0.0]}
    state, levels = 10.0 * X, [10.0, 9.9, 0.1]
    calls = {}
    for i, sigma in enumerate(levels[:2]):
        predicted = (state - Y) / sigma + 0.1 * Z
        calls[f"sampler.00{i}"] = {
            "input.x": state, "input.prediction": predicted, "input.sigma": np.array(sigma),
            "output": state,
        }  # fmt: skip
    context = context_of(calls, dtype="float16", params=wanted)
    rows = [row for row in steps.judge_steps(context) if row.kind == "step"]
    right = steps._settings(context)
    read = [steps._read(context, entry) for entry in context.calls("sampler")]
    known = [x for x in read if x is not None]
    exact = steps._follow_all(context, known, right)
    rounded = steps._follow_all(context, known, replace(right, rounding="float16"))
    for i, row in enumerate(rows):
        least = steps._least(2.0**-10, known[i].state, exact[i].state, rounded[i].state)
        assert row.allowed == pytest.approx(least)
    assert rows[1].allowed > steps._least(2.0**-10, known[1].state, exact[1].state)


# -- times and levels -----------------------------------------------------------------------------


def time_notes(times, listed):
    calls = {"schedule.000": {"output.timesteps": np.array(listed, float)}}
    calls |= {f"sampler.{i:03}": {"input.timestep": np.array(t)} for i, t in enumerate(times)}
    context = context_of(calls)
    return [row.note for row in steps.judge_times(context)]


@pytest.mark.parametrize(
    ("times", "listed", "notes"),
    [
        ((0.0,), (1e-5,), []),
        ((0.0,), (1.1e-5,), ["timestep 0 instead of 1.1e-05"]),
        ((0.5 + 1.5e-5,), (0.5,), ["timestep 0.500015 instead of 0.5"]),
        ((600.0, 200.0), (600, 600, 300), ["timestep 200 instead of 300"]),
        ((600.0, 600.0, 200.0), (600, 600, 300), ["timestep 200 instead of 300"]),
    ],
)
def test_times_that_are_in_the_list(times, listed, notes):
    assert time_notes(times, listed) == notes


@pytest.mark.parametrize("diffusers", [True, False])
@pytest.mark.parametrize("recorded", [True, False])
def test_levels_of_steps_are_those_that_were_recorded_or_follow(diffusers, recorded):
    """Without recorded levels, those of diffusers are not known; its schedulers have options."""
    made = context_of({}, params=EULER).make_schedule()
    assert made is not None
    names = ("model_output", "sample") if diffusers else ("prediction", "x")
    own = {f"input.{name}": X for name in names}
    levels = made.sigmas * (0.5 if recorded else 1.0)

    def kinds(sigma):
        calls = {"schedule.000": {"output.sigmas": levels} if recorded else {}}
        calls["sampler.000"] = {**own, "input.sigma": np.array(sigma)}
        context = context_of(calls, params=EULER)
        rows = [row.kind for row in steps.judge_times(context)]
        return rows, context.ledger.has(entry_of(context, "sampler.000"), "sigma")

    known = recorded or not diffusers
    assert kinds(levels[1]) == ([], known)
    assert kinds(1.5 * levels[1]) == (["step level"] if known else [], known)


@pytest.mark.parametrize(("dtype", "unit"), [("float32", 0.5e-5), ("bfloat16", 2.0**-7)])
def test_levels_are_allowed_two_units_of_their_format(dtype, unit):
    """Of one and of the level, so that a level of 0 may be a small one."""

    def kinds(pair, attributes=None):
        arrays = {"input.sigma": np.array(pair[0]), "input.sigma_next": np.array(pair[1])}
        named = {"sampler.000": attributes or {}}
        context = context_of({"sampler.000": arrays}, dtype=dtype, attributes=named)
        entry = entry_of(context, "sampler.000")
        rows = steps._judge_levels(context, entry, np.array([90.0, 40.0, 10.0, 0.0]))
        return [row.kind for row in rows]

    for factor, expected in ((1.9, []), (2.1, ["step level"])):
        assert kinds((90.0 + 91.0 * factor * unit, 40.0)) == expected
        assert kinds((10.0, factor * unit)) == expected
    for alone in ({"i": 2}, {"i_next": 2}):
        assert kinds((90.0, 40.0), alone) == []


# -- settings and first steps ---------------------------------------------------------------------


@pytest.mark.parametrize("diffusers", [True, False])
@pytest.mark.parametrize("rng", [None, "torch", "numpy"])
def test_who_takes_steps_as_diffusers_does(diffusers, rng):
    names = ("model_output", "sample") if diffusers else ("prediction", "x")
    calls = {"sampler.000": {f"input.{name}": X for name in names}}
    found = steps._settings(context_of(calls, params={} if rng is None else {"rng": rng}))
    assert found.compatible == (diffusers or rng == "torch")


@pytest.mark.parametrize("first", range(3))
@pytest.mark.parametrize("named", [True, False])
def test_the_first_step_of_diffusers_is_that_of_its_time(first, named):
    times = np.array([900.0, 600.0, 300.0])
    arrays = {"input.model_output": X} | ({"input.timestep": times[first] + 1} if named else {})
    context = context_of({"sampler.000": arrays})
    entry = entry_of(context, "sampler.000")
    found = steps._first_step(context, entry, times, np.array([9.0, 4.0, 1.0, 0.0]))
    assert found == (first if named else 0)


def test_visits_of_a_run_that_jumps_back():
    def found(calls, visits):
        attributes = {"schedule.000": {"visits": visits}}
        schedule = {"schedule.000": {"output.sigmas": np.arange(3.0)}}
        context = context_of({**schedule, **calls}, attributes=attributes)
        return steps._recorded_visits(context, range(3))

    assert found({"jump.000": {"output": X}}, [0, 1, 0, 2]) == [0, 1, 0, 2]
    assert found({}, [0, 1, 0, 2]) == found({"jump.000": {"output": X}}, "all") == range(3)
    assert steps._recorded_visits(context_of({"jump.000": {"output": X}}), range(3)) == range(3)
