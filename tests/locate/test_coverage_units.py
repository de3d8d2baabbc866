"""What of a run was compared, how evaluations are found, and when noise is normal."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, entry_of, normal, recorded_of

from ldmref.locate.pipeline.coverage import Coverage, names_given, rows_of_rest
from ldmref.locate.pipeline.evaluations import sigma_of, state_of
from ldmref.locate.pipeline.noise_tests import judge_normal
from ldmref.locate.run.calls import ArrayName
from ldmref.trace import TraceEntry

X, Y = normal(0, 1, 4, 8, 8), normal(1, 1, 4, 8, 8)
ENTRY = TraceEntry("a.000", "", {"input": "1", "x": "2", "y": "3"}, {"output": "4", "z": "5"})


def left(coverage, *entries, **more):
    return [(roles, why) for _, roles, why in coverage.rest(list(entries or (ENTRY,)), **more)]


# -- the coverage ---------------------------------------------------------------------------------


def test_arrays_are_those_of_an_entry_and_a_side():
    for declare in (Coverage.note, Coverage.give):
        coverage = Coverage()
        declare(coverage, [ArrayName(ENTRY.name, "input", "x")])
        assert coverage.has(ENTRY, "x")
        assert not coverage.has(ENTRY, "x", "output")
        assert not coverage.has(ENTRY, "y")
        assert not coverage.has(replace(ENTRY, layer="b"), "x")
        assert left(coverage) == [(["input", "input.y", "output", "output.z"], "")]
        whole = Coverage()
        whole.add(coverage)
        assert whole == coverage


def test_a_row_or_an_equal_array_judges_an_array_and_all_that_it_is_made_of():
    context = context_of({"a.000": {"input.x": X, "input.y": Y, "output": X, "output.z": Y}})
    x, y = (recorded_of(context, "a.000", f"input.{role}") for role in "xy")
    assert not context.coverage.judged
    assert not context.agrees(y, X) and not context.coverage.judged
    assert context.agrees(x, X) and context.coverage.judged == {*x.names}
    row = context.judge(y.made(X, recorded_of(context, "a.000")), "kind", X)
    assert (row.call, row.verdict) == ("a.000", "equal")
    left = [roles for _, roles, _ in context.coverage.rest([entry_of(context, "a.000")])]
    assert left == [["output.z"]]
    context.row(recorded_of(context, "a.000", "output.z"), "kind", "part", error=1.0)
    assert not [*context.coverage.rest([entry_of(context, "a.000")])]


@pytest.mark.parametrize(
    ("call", "given"),
    [
        ("schedule.000", ["timesteps", "sigmas"]),
        ("cond_stage.000", ["timesteps", "sigmas", "x0"]),
        ("controlnet.hint.000", ["timesteps", "sigmas", "x0"]),
        ("train.000", ["timesteps", "x0"]),
        ("sampler.000", []),
    ],
)
def test_what_the_caller_chose_is_declared_by_kinds_of_calls(call, given):
    entry = TraceEntry(call, "", dict.fromkeys(("timesteps", "sigmas", "x0"), "1"), {"x0": "2"})
    assert names_given(entry) == [ArrayName(entry.name, "input", role) for role in given]


def test_arrays_with_one_reason_are_together_and_the_first_reason_stays():
    coverage = Coverage()
    y, x = (ArrayName(ENTRY.name, "input", role) for role in "yx")
    coverage.explain([y, ArrayName(ENTRY.name, "input", "input")], "one")
    coverage.explain([y, x], "two")
    coverage.explain([ArrayName(ENTRY.name, "output", "z")], "one")
    assert left(coverage) == [
        (["input", "input.y", "output.z"], "one"),
        (["input.x"], "two"),
        (["output"], ""),
    ]
    coverage.note([x])
    assert left(coverage) == [(["input", "input.y", "output.z"], "one"), (["output"], "")]


def test_rows_of_what_is_left_are_in_the_order_of_the_run():
    calls = {name: {"input.x": X, "output": Y} for name in ("s.000", "unet.000", "s.001")}
    context = context_of({**calls, "unet.000/a": {"output": X}})
    host = [entry_of(context, "s.001"), entry_of(context, "s.000")]
    networks = [entry_of(context, "unet.000")]
    stray = TraceEntry("other.000", "", {"q": "1"})
    coverage = Coverage()
    coverage.explain([ArrayName(networks[0].name, "input", "x")], "why")
    rows = [*rows_of_rest(context.port, coverage, [stray, *host], networks)]
    assert [row.call for row in rows] == ["s.000", "unet.000", "s.001", "other.000"]
    assert {(row.kind, row.layer, row.verdict) for row in rows} == {("recorded", "", "not judged")}
    assert rows[0].note.startswith("input.x, output not compared: ")
    assert rows[1].note == "input.x not compared: why"
    assert rows[0].note.partition(": ")[2]


# -- evaluations ----------------------------------------------------------------------------------


def found_evaluations(*calls):
    context = context_of({call: {"output": X} for call in calls})
    return [
        (*(e.call for e in found.networks), found.step.call, found.number, found.suffix)
        for found in context.evaluations
    ]


def test_calls_in_another_order_are_paired_if_they_are_as_many():
    u, s = "unet.{:03}".format, "sampler.{:03}".format
    paired = [(u(0), s(0), 0, ""), (u(1), s(1), 0, "")]
    assert found_evaluations(s(0), u(0), u(1), s(1)) == paired
    assert found_evaluations(u(0), s(0), s(1), u(1)) == paired
    assert found_evaluations(s(0), u(0), u(1), u(2), s(1)) == [(u(0), u(1), u(2), s(1), 0, "")]
    assert found_evaluations(u(0), u(1), s(0)) == [(u(0), u(1), s(0), 0, "")]


def test_layers_of_calls_are_no_evaluations():
    calls = {
        "unet.000/a": {"output": X},
        "unet.000": {"output": X},
        "sampler.000/constrain": {"output": X},
        "sampler.000": {"output": X},
    }
    (found,) = context_of(calls).evaluations
    assert [entry.layer for entry in (*found.networks, found.step)] == ["", ""]


@pytest.mark.parametrize(
    ("number", "arrays", "state", "sigma"),
    [
        (0, {"sample": X}, X, None),
        (0, {"x": X, "sigma": 2.0}, X, 2.0),
        (0, {"x": Y, "x_at": X, "sigma": 2.0, "sigma_at": 3.0}, X, 3.0),
        (1, {"x": X, "sample": X, "sigma": 2.0}, None, None),
        (1, {"x": Y, "x_at.1": X, "x_at": Y, "sigma_at.1": 4.0, "sigma_at": 3.0}, X, 4.0),
        (0, {"x_at.1": X, "sigma_at.1": 4.0}, None, None),
    ],
)
def test_the_state_and_the_level_of_an_evaluation(number, arrays, state, sigma):
    step = {f"input.{name}": x for name, x in arrays.items()}
    context = context_of({"sampler.000": step})
    evaluation = SimpleNamespace(step=entry_of(context, "sampler.000"), number=number)
    evaluation.suffix = f".{number}" if number else ""
    found = state_of(context, evaluation)
    assert found is None if state is None else np.array_equal(found, state)
    assert sigma_of(context, evaluation) == sigma


# -- normal noise ---------------------------------------------------------------------------------


def noise_row(z, **more):
    context = context_of({"initial.000": {"output": z}})
    return judge_normal(context, recorded_of(context, "initial.000"), "noise", **more)


def noise(mean, deviation, n=200):
    """Return numbers with this mean and this root of the mean square."""
    z = normal(0, n)
    z = (z - z.mean()) / z.std()
    return mean + z * math.sqrt(deviation**2 - mean**2)


def test_a_row_of_noise_says_what_was_judged():
    row = noise_row(noise(0.0, 1.0), segment="there")
    assert (row.call, row.layer, row.kind, row.segment) == ("initial.000", "", "noise", "there")
    assert row.verdict == "equal"
    assert row.error == pytest.approx(0.0, abs=1e-12)
    assert row.allowed == 6.0 / math.sqrt(400.0)
    bad = noise_row(np.array([1.0, np.inf]), segment="there")
    assert (bad.call, bad.layer, bad.kind, bad.segment) == ("initial.000", "", "noise", "there")
    assert bad.error == math.inf
    assert bad.note


def test_the_larger_of_two_errors_counts():
    allowed = 6.0 / math.sqrt(400.0)
    for mean, deviation, word in (
        (0.0, 1.0 + 1.1 * allowed, "deviation"),
        (0.0, 1.0 - 1.1 * allowed, "deviation"),
        (0.6, 1.0, "mean"),
        (-0.6, 1.0, "mean"),
        (0.6, 1.0 + 1.1 * allowed, "deviation"),
        (0.6, 1.0 + 0.9 * allowed, "mean"),
    ):
        row = noise_row(noise(mean, deviation))
        assert row.verdict == "differs"
        assert word in row.cause
        right = max(abs(deviation - 1.0), abs(mean) / math.sqrt(2.0))
        assert row.error == pytest.approx(right)
    assert noise_row(noise(0.3, 1.0 - 0.9 * allowed)).verdict == "equal"


def test_a_single_number_may_be_anything_usual():
    assert noise_row(np.array([3.0])).allowed == 6.0 / math.sqrt(2.0)
    assert noise_row(np.array([3.0])).verdict == "equal"
