"""States of a run: the first ones, what steps are given, and schedules that are made again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from changed_runs import record
from host_units import context_of, entry_of, normal
from unfollowed import of_another_program

from ldmref.locate.pipeline import added_noise, judge_host, schedule
from ldmref.samplers.path import PATHS

SHAPE = (1, 4, 8, 8)
X, Y, Z = (normal(i, *SHAPE) for i in range(3))


# -- schedules that are made again ----------------------------------------------------------------


def again(second, **manifest):
    first = {"output.timesteps": np.array([9.0, 1.0]), "output.sigmas": np.array([3.0, 1.0, 0.0])}
    changed = {f"output.{name}": x for name, x in second.items()}
    context = context_of({"schedule": first, "schedule~1": changed}, **manifest)
    entries = context.calls("schedule")
    rows = [*schedule._judge_again(context, *entries)]
    marked = {name for name in second if context.coverage.has(entries[1], name, "output")}
    reasons = {role: why for (_, _, role), why in context.coverage.reasons.items()}
    return [(row.kind, row.verdict) for row in rows], marked, reasons


def test_a_schedule_that_is_made_again_is_the_first():
    same = {"timesteps": np.array([9.0, 1.0]), "sigmas": np.array([3.0, 1.0, 0.0])}
    equal = [("timesteps", "equal"), ("sigmas", "equal")]
    assert again(same) == (equal, set(same), {})
    wrong = again({**same, "sigmas": np.array([3.0, 2.0, 0.0])})
    assert wrong == ([("timesteps", "equal"), ("sigmas", "differs")], set(same), {})
    why = "another schedule than the first"
    longer = again({**same, "timesteps": np.array([9.0, 5.0, 1.0])})
    assert longer == ([("sigmas", "equal")], {"sigmas"}, {"timesteps": why})
    more = again({**same, "alphas_cumprod": np.ones(3)})
    assert more == (equal, set(same), {"alphas_cumprod": why})
    # That of a branch is compared with its steps.
    assert again({"sigmas": np.zeros(1)}, branch={"step": 1}) == ([], set(), {})


# -- steps without noise --------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", ["trailing", "karras"])
def test_a_port_that_draws_no_noise_takes_another_eta(spacing):
    """The last step of Karras' levels leads to 0, where eta has no effect."""
    trace, model, _ = record(sampler="ddim", eta=0.0, steps=3, schedule=spacing)

    def step_rows(eta, changed=None):
        entries = [
            replace(e, attributes={**e.attributes, "eta": eta})
            if e.call.kind == "sampler" and not e.layer
            else e
            for e in trace.entries
        ]
        params = {**trace.manifest["params"], "eta": eta}
        manifest = {**trace.manifest, "params": params}
        port = replace(trace, entries=tuple(entries), manifest=manifest)
        if changed is not None:
            name = port.find("sampler.001").outputs["output"]
            port = replace(port, tensors={**port.tensors, name: changed(port.tensors[name])})
        rows = judge_host(of_another_program(port), model, "float32", [])
        return [(row.verdict, row.cause) for row in rows if row.kind == "step"]

    assert step_rows(0.0) == [("equal", "")] * 3
    wrong = ("differs", "eta 0 instead of 0.8")
    ends = ("equal", "") if spacing == "karras" else wrong
    assert step_rows(0.8) == [wrong, wrong, ends]
    changed = [verdict for verdict, _ in step_rows(0.8, lambda x: x + 1.0)]
    last = "equal" if spacing == "karras" else "differs"
    assert changed == ["differs", "differs", last]  # a mean of 1 is no noise


# -- added noise ----------------------------------------------------------------------------------


def added(noises, asked=None, numbers=(0, 1), **manifest):
    """Return the rows of the noises of calls, by call, and whether all were compared."""
    calls = {} if asked is None else {"inputs": {"input.latents": asked}}
    for number, noise in zip(numbers, noises, strict=True):
        arrays = {} if noise is None else {"input.noise": noise}
        calls[f"add_noise.{number:03}"] = {"input.original_samples": X, "output": X, **arrays}
    context = context_of(calls, **manifest)
    rows = []
    for entry in context.calls("add_noise"):
        rows += added_noise._judge_noise(context, entry)
        assert context.coverage.has(entry, "noise") == ("noise" in entry.inputs)
    return [(row.call, row.verdict) for row in rows]


def test_a_noise_that_is_added_again_is_judged_once():
    first, second = ("add_noise.000", "equal"), ("add_noise.001", "equal")
    assert added([X, X]) == [first]
    assert added([X, Y]) == [first, second]
    assert added([None, Y]) == [second] and added([X, None]) == [first]
    assert added([3.0 * X, 3.0 * X]) == [("add_noise.000", "differs")]
    assert added([X, X], asked=X) == []  # that of the request
    assert added([3.0 * X, X], asked=X) == [("add_noise.000", "differs")]


def test_images_of_added_noise_may_be_given():
    def rows_of(x0, image=None, encoded=False):
        calls = {} if image is None else {"inputs": {"input.image": image}}
        calls |= {"vae.encode": {"input.image": X}} if encoded else {}
        calls["add_noise.000"] = {"input.original_samples": x0, "output": X}
        context = context_of(calls)
        entry = entry_of(context, "add_noise.000")
        rows = [*added_noise._judge_sources(context, entry)]
        why = context.coverage.reasons.get((entry.name, "input", "original_samples"), "")
        marked = context.coverage.has(entry, "original_samples")
        return [(row.kind, row.verdict) for row in rows], marked, why

    assert rows_of(X) == ([], True, "")
    assert rows_of(X, X) == ([("encoded latents", "equal")], True, "")
    assert rows_of(np.concatenate([X, X]), X) == ([("encoded latents", "equal")], True, "")
    assert rows_of(X, Y) == ([("encoded latents", "differs")], True, "")
    assert rows_of(X, Y[:, :3]) == ([], True, "")
    why = "what was drawn from the encoder's distribution was not recorded"
    assert rows_of(X, X, encoded=True) == ([], False, why)


@pytest.mark.parametrize(
    ("schedule", "step", "path"),
    [
        ("ve", "flow", "ve"), ("flow", "ve", "flow"), (None, "ve", "ve"), (None, "flow", "flow"),
        ("other", "ve", "ve"), ("other", "flow", "flow"), (None, None, ""), (3, "other", ""),
    ],
)  # fmt: skip
def test_the_path_is_the_recorded_one(schedule, step, path):
    """That of the schedule, else of the first step; without a known one, the model's."""
    names = {"schedule.000": schedule, "sampler.000": step, "sampler.001": "flow"}
    context = context_of(
        {call: {"output": np.zeros(1)} for call in names},
        attributes={call: {} if name is None else {"path": name} for call, name in names.items()},
    )
    assert context.path is (PATHS[path] if path else context.config.path)
