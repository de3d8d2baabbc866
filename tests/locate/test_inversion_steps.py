"""Steps of an inversion: which rows they have, what each may differ by, and x0 of predictions."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, entry_of, model_of, normal

from ldmref.locate.pipeline import inversion_steps
from ldmref.locate.pipeline.inversion_steps import is_inversion, judge_inversion, judge_start
from ldmref.locate.pipeline.recorded_step import (
    NotRecorded,
    RecordedEvaluation,
    ReplayedStep,
    evaluated_x0,
)
from ldmref.locate.pipeline.step_faults import StepSettings
from ldmref.locate.precision import round_to
from ldmref.samplers import SAMPLERS
from ldmref.samplers.path import FLOW, VE

SHAPE = (1, 4, 8, 8)
X, Y, Z, W = (normal(i, *SHAPE) for i in range(4))
EPSILON = 2.0**-23
CONFIG = replace(model_of("tiny").config.scheduler, prediction_type="eps")


def size(x):
    return np.abs(x).max()


def step_of(output=None, sigma=0.5, sigma_next=1.5, x=X, prediction=Y, **more):
    """Return the arrays of a step from one level to another, whose prediction is noise."""
    arrays = {
        "input.x": x,
        "input.prediction": prediction,
        "input.sigma": sigma,
        "input.sigma_next": sigma_next,
        "output": output,
    }
    arrays |= {f"input.{name}": value for name, value in more.items()}
    return {name: value for name, value in arrays.items() if value is not None}


def judged(*steps, iterations=0):
    """Return the context of steps and their rows."""
    calls = {f"sampler.{i:03}": arrays for i, arrays in enumerate(steps)}
    attributes = {} if iterations is None else {"iterations": iterations}
    of = dict.fromkeys(calls, attributes)
    context = context_of(calls, params={"steps": 3}, attributes=of)
    settings = StepSettings(CONFIG, SAMPLERS["ddim"], True)
    seen = []
    for call in calls:
        entry = entry_of(context, call)
        state, prediction = context.read(entry, "x"), context.read(entry, "prediction")
        seen.append(RecordedEvaluation(entry, state, prediction, []))
    return context, [*judge_inversion(context, seen, settings)]


def summary(*steps, iterations=0):
    return [(row.kind, row.verdict) for row in judged(*steps, iterations=iterations)[1]]


# -- one evaluation -------------------------------------------------------------------------------


def allowed_of(scale, *sizes):
    """Return what is allowed of an array of a size, with 4 units of each of the sizes."""
    return EPSILON * max(16.0, 4.0 * sum(sizes) / (scale or 1.0))


@pytest.mark.parametrize("factor", [0.01, 1.0, 50.0])
def test_what_a_step_may_differ_by_grows_with_its_arrays(factor):
    x = factor * X
    right = x + Y
    x0 = x - 0.5 * Y
    _, (row,) = judged(step_of(right, x=x))
    ratio = (1.5 - 0.5) / 0.5
    sizes = size(x), size(right), ratio * (size(x) + size(x0))
    assert row.allowed == pytest.approx(allowed_of(size(right), *sizes), rel=1e-6)
    assert (row.kind, row.verdict) == ("step", "equal")
    for apart, verdict in ((0.98, "equal"), (1.02, "differs")):
        moved = right.copy()
        moved.flat[3] += apart * row.allowed * size(right)
        assert summary(step_of(moved, x=x)) == [("step", verdict)]


def test_small_steps_are_allowed_sixteen_units():
    x = np.ones(SHAPE)
    _, (row,) = judged(step_of(x, 1e6, 1e6 + 1.0, x=x, prediction=0.0 * x))
    assert row.allowed == 16.0 * EPSILON


def with_x0(monkeypatch, value):
    monkeypatch.setattr(inversion_steps, "evaluated_x0", lambda *values: np.full(SHAPE, value))


def test_results_without_a_size_are_compared_in_units_of_one(monkeypatch):
    with_x0(monkeypatch, -6.0)
    x = np.full(SHAPE, -4.0)
    _, (row,) = judged(step_of(0.0 * X, x=x))  # -4 + 2 (-4 + 6)
    assert row.allowed == allowed_of(0.0, 4.0, 2.0 * (4.0 + 6.0))
    assert (row.error, row.verdict) == (0.0, "equal")


@pytest.mark.parametrize("scale", [0.2, 20.0])
def test_x0_is_judged_by_the_first_evaluation(scale):
    x = scale * X
    x0 = x - 0.5 * Y
    context, rows = judged(step_of(x + Y, x=x, x0=x0))
    assert [(row.kind, row.verdict) for row in rows] == [("step", "equal"), ("x0", "equal")]
    allowed = EPSILON * max(16.0, 4.0 * (1.0 + size(x) / size(x0)))
    assert rows[1].allowed == pytest.approx(allowed, rel=1e-6)
    assert context.ledger.has(entry_of(context, "sampler.000"), "x0")
    assert summary(step_of(x + Y, x=x, x0=2.0 * x0))[1] == ("x0", "differs")


def test_an_x0_of_zeros_has_units_of_one(monkeypatch):
    with_x0(monkeypatch, 0.0)
    x = np.full(SHAPE, 8.0)
    _, rows = judged(step_of(3.0 * x, x=x, x0=0.0 * X))
    assert rows[1].allowed == EPSILON * 4.0 * (1.0 + 8.0)
    assert [row.verdict for row in rows] == ["equal", "equal"]


# -- where a step looks ---------------------------------------------------------------------------


def test_the_point_and_the_level_of_an_evaluation_are_judged():
    right = step_of(X + Y, x_at=X, sigma_at=0.5)
    context, rows = judged(right)
    assert [row.kind for row in rows] == ["step", "x_at", "sigma_at"]
    assert {row.verdict for row in rows} == {"equal"}
    assert rows[1].allowed == rows[0].allowed
    entry = entry_of(context, "sampler.000")
    assert context.ledger.has(entry, "x_at")
    assert context.ledger.has(entry, "sigma_at")
    moved = dict(summary(step_of(X + Y, x_at=X + 0.01, sigma_at=0.5)))
    assert moved["x_at"] == "differs"
    moved = dict(summary(step_of(X + Y, x_at=X, sigma_at=0.6)))
    assert moved["sigma_at"] == "differs"


def later(level=1.5, at=X + Y, prediction=Z, number=1):
    found = {f"x_at.{number}": at, f"prediction.{number}": prediction}
    return found | ({} if level is None else {f"sigma_at.{number}": level})


def test_an_iteration_takes_the_slope_at_the_upper_level():
    """x' = x + (sigma' - sigma) e with the noise e that is predicted there."""
    right = step_of(X + Z, **later())
    context, rows = judged(right, iterations=1)
    assert [(row.kind, row.verdict) for row in rows] == [
        ("step", "equal"),
        ("x_at.1", "equal"),
        ("sigma_at.1", "equal"),
    ]
    entry = entry_of(context, "sampler.000")
    assert context.ledger.has(entry, "x_at.1")
    assert context.ledger.has(entry, "sigma_at.1")
    x_e, x0 = X + Y, X + Y - 1.5 * Z
    sizes = [size(X), size(X + Z), (1.0 / 0.5) * (size(X) + size(X - 0.5 * Y))]
    sizes.append((1.0 / 1.5) * (size(x_e) + size(x0)))
    assert rows[0].allowed == pytest.approx(allowed_of(size(X + Z), *sizes), rel=1e-6)
    assert summary(step_of(X + Y, **later()), iterations=1)[0] == ("step", "differs")
    two = later() | later(at=X + Z, prediction=W, number=2)
    kinds = summary(step_of(X + W, **two), iterations=2)
    assert [kind for kind, _ in kinds] == ["step", "x_at.1", "sigma_at.1", "x_at.2", "sigma_at.2"]
    assert {verdict for _, verdict in kinds} == {"equal"}


def test_a_step_from_level_zero_has_no_evaluation_there():
    at_once = step_of(X + 1.5 * Y, 0.0, x_at=X, sigma_at=1.5)
    assert summary(at_once, iterations=1)[0] == ("step", "equal")
    assert summary(step_of(X + 1.5 * Y, 0.0), iterations=1) == [("step", "not judged")]
    assert summary(step_of(X + 1.5 * Y, 0.0), iterations=0) == [("step", "not judged")]


@pytest.mark.parametrize(
    ("changes", "iterations"),
    [
        ({"output": None}, 0),
        ({"sigma": None}, 0),
        ({"sigma_next": None}, 0),
        ({"sigma_next": 0.5}, 0),
        ({"sigma": -0.1}, 0),
        ({"sigma": math.nan}, 0),
        ({"sigma_next": math.inf}, 0),
        ({}, -1),
        ({}, 1.0),
        ({}, None),
        ({}, 1),
        (later(level=None), 1),
        ({"prediction.1": Z, "sigma_at.1": 1.5}, 1),
        (later(), 0),
        (later(level=0.0), 1),
    ],
)
def test_steps_that_cannot_be_recomputed_leave_the_others(changes, iterations):
    bad = step_of(**({"output": X + Y} | changes))
    calls = {"sampler.000": bad, "sampler.001": step_of(X + Y)}
    of = {"sampler.000": {} if iterations is None else {"iterations": iterations}}
    of["sampler.001"] = {"iterations": 0}
    context = context_of(calls, params={"steps": 3}, attributes=of)
    settings = StepSettings(CONFIG, SAMPLERS["ddim"], True)
    seen = [RecordedEvaluation(entry_of(context, call), X, Y, []) for call in calls]
    rows = [*judge_inversion(context, seen, settings)]
    assert [(row.call, row.kind, row.verdict) for row in rows] == [
        ("sampler.000", "step", "not judged"),
        ("sampler.001", "step", "equal"),
    ]
    assert rows[0].note


def test_steps_of_an_inversion_say_their_iterations():
    for attributes in ({"iterations": 0}, {"iterations": None}):
        assert is_inversion(SimpleNamespace(attributes=attributes))
    assert not is_inversion(SimpleNamespace(attributes={"n": 3}))


# -- the first state ------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.0, 0.6])
def test_an_inversion_begins_with_latents_of_the_variance_of_its_level(level, monkeypatch):
    calls = {"vae.encode.000": {"output.mean": Y}, "sampler.000": {"input.sample": X}}
    context = context_of(calls, params={"steps": 4})
    step = entry_of(context, "sampler.000")
    schedule = SimpleNamespace(path=FLOW, sigmas=np.array([1.0, level]))
    monkeypatch.setattr(type(context), "make_schedule", lambda self: schedule)
    right = context.normalize(Y) * math.hypot(1.0 - level, level)
    (row,) = judge_start(context, step, right)
    assert (row.kind, row.verdict) == ("initial latents", "equal")
    for role in ("sample", "x"):
        assert context.ledger.has(step, role)
    monkeypatch.setattr(type(context), "make_schedule", lambda self: None)
    other = context_of(calls)
    step = entry_of(other, "sampler.000")
    assert not [*judge_start(other, step, right)]
    assert not other.ledger.has(step, "sample")
    reasons = {role for _, _, role in other.ledger.reasons}
    assert reasons == {"sample", "x"}


def test_the_first_level_is_not_above_half_of_the_second(monkeypatch):
    step = SimpleNamespace(attributes={"iterations": 0})
    context = SimpleNamespace(make_schedule=lambda: None)
    levels = np.array([4.0, 1.0, 0.0])
    assert inversion_steps.rising_levels(context, step, levels) == [0.0, 1.0, 4.0]
    schedule = SimpleNamespace(path=FLOW, training_sigmas=np.array([1.0, 3.0]))
    context = SimpleNamespace(make_schedule=lambda: schedule)
    assert inversion_steps.rising_levels(context, step, levels) == [0.5, 1.0, 4.0]
    schedule.training_sigmas = np.array([0.25, 3.0])
    assert inversion_steps.rising_levels(context, step, levels) == [0.2, 1.0, 4.0]


# -- x0 of a prediction ---------------------------------------------------------------------------


def x0_of(path, sigma=0.5, **settings):
    config = replace(CONFIG, prediction_type="v")
    given = StepSettings(config, SAMPLERS["ddim"], True, **settings)
    asked = []
    schedule = None if path is None else SimpleNamespace(path=path)
    context = SimpleNamespace(make_schedule=lambda x: asked.append(x) or schedule)
    evaluation = RecordedEvaluation(None, X, Y, ())
    found = evaluated_x0(context, evaluation, sigma, given)
    assert asked == [config]
    return found


@pytest.mark.parametrize("path", [None, VE])
def test_x0_of_a_state_with_noise_added(path):
    r = 1.25  # 1 + sigma^2
    right = X / r - 0.5 / math.sqrt(r) * Y
    np.testing.assert_allclose(x0_of(path), right)
    np.testing.assert_allclose(x0_of(path, sign=-1.0), X / r + 0.5 / math.sqrt(r) * Y)
    np.testing.assert_allclose(x0_of(path, prediction_type="eps"), X - 0.5 * Y)
    np.testing.assert_allclose(x0_of(path, prediction_type="x0", sign=-1.0), -Y)
    assert np.array_equal(x0_of(path, rounding="bfloat16"), round_to(x0_of(path), "bfloat16"))


def test_x0_of_a_state_of_a_flow():
    np.testing.assert_allclose(x0_of(FLOW, prediction_type="flow"), X - 0.5 * Y)
    np.testing.assert_allclose(x0_of(FLOW, prediction_type="eps"), (X - 0.5 * Y) / 0.5)


def test_a_step_that_one_call_holds_reads_its_later_x0():
    context = context_of({"sampler.000": {"input.x": X, "input.x0.1": W}})
    entry = entry_of(context, "sampler.000")
    settings = StepSettings(CONFIG, SAMPLERS["heun"], True)
    evaluation = RecordedEvaluation(entry, X, Y, ())
    step = ReplayedStep(context, [evaluation], settings, on_path=True, own=True)
    np.testing.assert_allclose(step.denoise(Z, 0.5), X - 0.5 * Y)
    assert np.array_equal(step.denoise(Z, 0.25), W)
    assert len(step.predicted) == 2
    with pytest.raises(NotRecorded):
        step.denoise(Z, 0.25)
    assert [sigma for _, sigma in step.seen] == [0.5, 0.25, 0.25]
    with pytest.raises(NotRecorded):
        step.draw_noise()


def test_evaluations_after_the_last_are_not_recorded():
    settings = StepSettings(CONFIG, SAMPLERS["heun"], True)
    step = ReplayedStep(None, [RecordedEvaluation(None, X, Y, ())], settings, True, own=False)
    step.denoise(X, 0.5)
    with pytest.raises(NotRecorded):
        step.denoise(X, 0.5)
