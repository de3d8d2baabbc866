"""States of a run: the first ones, what steps are given, and schedules that are made again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from changed_runs import record
from host_units import context_of, entry_of, normal
from unfollowed import of_another_program

from ldmref.locate.pipeline import added_noise, judge_host, latents, schedule, steps, wires
from ldmref.samplers.path import PATHS

SHAPE = (1, 4, 8, 8)
X, Y, Z = (normal(i, *SHAPE) for i in range(3))


# -- the first state ------------------------------------------------------------------------------


def first_rows(calls, attributes=None, **params):
    """Return the rows of the initial latents of a run of four steps, by kind and place."""
    context = context_of(calls, attributes=attributes, params={"steps": 4} | params)
    rows = [*wires._judge_initial(context)]
    return [(row.call, row.kind, row.cause or row.verdict) for row in rows], context


def test_the_first_step_begins_with_the_initial_latents():
    def run(first, name="sampler.000"):
        calls = {"initial": {"output": X}, name: {"input.x": first, "output": Y}}
        rows, context = first_rows(calls)
        return rows, context.ledger.has(entry_of(context, name), "x")

    kind = ("sampler.000", "initial latents")
    assert run(X) == ([(*kind, "equal")], True)
    assert run(Y)[0][0][2] == "differs"
    low, high = -0.5, 0.75
    clamped = [(*kind, "the state is clamped to [-0.5, 0.75]")]
    assert run(np.clip(X, low, high)) == (clamped, True)
    assert run(Y, "sampler.003") == ([], False)  # not the first one
    assert first_rows({"initial": {"output": X}})[0] == []
    assert first_rows({"sampler.000": {"input.x": X, "output": Y}})[0] == []


def test_initial_latents_may_be_an_image_with_noise():
    def run(noised, before=True, shape=None):
        images = {"add_noise.000": {"output": noised}}
        calls = {**(images if before else {}), "initial": {"output": X}}
        calls |= {} if before else images
        rows, context = first_rows(calls)
        return rows, context.ledger.has(entry_of(context, "initial"), "output", "output")

    kind = ("initial", "initial latents")
    assert run(X) == ([(*kind, "equal")], True)
    assert run(Y) == ([(*kind, "differs")], True)
    assert run(X[:, :3]) == ([], False)
    assert run(X, before=False) == ([], False)  # noise of a later step
    calls = {
        "add_noise.000": {"output": Y}, "add_noise.001": {"output": X}, "initial": {"output": X},
    }  # fmt: skip
    assert first_rows(calls)[0] == [(*kind, "equal")]  # the last one before it


def test_initial_latents_may_be_given():
    """They are multiplied by the standard deviation of the first level."""
    sampled = {"sampler.007": {"input.model_output": X, "input.sample": X, "output": X}}
    known = context_of(sampled, params={"steps": 4}, scheduler={"class": "EulerDiscreteScheduler"})
    scale = float(known.make_schedule().init_noise_sigma)
    assert scale > 1.5 and known.states_on_path

    def run(got, given=X, asked=None):
        calls = {"inputs": {"input.latents": asked}} if asked is not None else {}
        calls["initial"] = {"input.latents": given, "output": got}
        context = context_of(
            calls | sampled,
            params={"steps": 4},
            scheduler={"class": "EulerDiscreteScheduler"},
        )
        rows = [*wires._judge_initial(context)]
        entry = entry_of(context, "initial")
        marked = context.ledger.has(entry, "latents"), context.ledger.has(entry, "output", "output")
        return [(row.kind, row.cause or row.verdict) for row in rows], marked

    both = (True, True)
    assert run(scale * X) == ([("initial latents", "equal")], both)
    missing = "the scale of the initial noise is missing (init_noise_sigma)"
    assert run(X) == ([("initial latents", missing)], both)
    assert run(scale * scale * X) == ([("initial latents", "the noise is scaled twice")], both)
    for apart, verdict in ((0.9e-5, "equal"), (1.2e-5, "differs")):
        moved = scale * X
        moved.flat[0] += apart * scale * np.abs(X).max()
        assert run(moved)[0] == [("initial latents", verdict)]
    equal = [("given latents", "equal"), ("initial latents", "equal")]
    assert run(scale * X, asked=X) == (equal, both)
    other = [("given latents", "differs"), ("initial latents", "equal")]
    assert run(scale * X, asked=Y) == (other, both)
    assert run(scale * X, asked=Y[:, :3])[0] == [("initial latents", "equal")]
    assert run(scale * X, given=X[:, :3]) == ([], (False, False))


# -- what steps are given -------------------------------------------------------------------------


def predictions(network, step, guidance=None, state=X):
    """Return the row of what a step was given, and why it was not compared."""
    calls = {"unet.000": {"input.sample": state, "output": network}}
    calls |= {} if guidance is None else {"guidance.000": guidance}
    calls["sampler.000"] = {"input.prediction": step, "input.x": state, "output": X}
    context = context_of(calls)
    rows = [*wires._judge_predictions(context)]
    entry = entry_of(context, "sampler.000")
    assert bool(rows) == context.ledger.has(entry, "prediction")
    why = context.ledger.reasons.get((entry.name, "input", "prediction"), "")
    return [(row.cause or row.verdict, row.segment) for row in rows], why


def test_steps_are_given_the_prediction():
    segment = "from unet.000 to sampler.000"
    assert predictions(Y, Y) == ([("equal", segment)], "")
    assert predictions(Y, Z) == ([("differs", segment)], "")
    learned = np.concatenate([Y, Z], axis=1)  # a variance follows it
    assert predictions(learned, Y) == ([("equal", segment)], "")
    halves = np.concatenate([Y, Z])
    assert predictions(halves, Y) == ([], "no guidance was recorded")
    combined = {"input.uncond": X, "input.cond": Z, "output": Y}
    segment = "from guidance.000 to sampler.000"
    assert predictions(halves, Y, combined) == ([("equal", segment)], "")
    twice = np.concatenate([Y, Y])
    assert predictions(halves, twice, combined) == ([("equal", segment)], "")
    assert predictions(halves, halves, combined)[0] != [("equal", segment)]
    for part, words in (("cond", "conditional"), ("uncond", "unconditional")):
        cause = f"guidance is computed but not used: the {words} prediction"
        assert predictions(halves, combined[f"input.{part}"], combined)[0] == [(cause, segment)]


# -- schedules that are made again ----------------------------------------------------------------


def again(second, **manifest):
    first = {"output.timesteps": np.array([9.0, 1.0]), "output.sigmas": np.array([3.0, 1.0, 0.0])}
    changed = {f"output.{name}": x for name, x in second.items()}
    context = context_of({"schedule": first, "schedule~1": changed}, **manifest)
    entries = context.calls("schedule")
    rows = [*schedule._judge_again(context, *entries)]
    marked = {name for name in second if context.ledger.has(entries[1], name, "output")}
    reasons = {role: why for (_, _, role), why in context.ledger.reasons.items()}
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
    assert again({"sigmas": np.zeros(1)}, branch={"step": 1}) == ([], {"sigmas"}, {})


# -- steps without noise --------------------------------------------------------------------------


@pytest.mark.parametrize("unknown", [True, False])
def test_steps_of_a_scheduler_that_is_not_known_are_not_judged(unknown):
    described = {"class": "UnheardOfScheduler" if unknown else "DDIMScheduler", "config": {}}
    calls = {
        f"sampler.00{i}": {"input.model_output": X, "input.sample": Y, "output": Z}
        for i in range(2)
    }
    context = context_of(calls, params={"steps": 4}, scheduler=described)
    rows = [*steps.judge_steps(context)]
    if unknown:
        assert [(row.call, row.verdict) for row in rows] == [
            ("sampler.000", "not judged"), ("sampler.001", "not judged"),
        ]  # fmt: skip
        assert all("UnheardOfScheduler" in row.note for row in rows)
    else:
        assert rows and not any("UnheardOf" in row.note for row in rows)


def test_a_decoder_alone_is_given_its_latents():
    alone = context_of({"vae.decode": {"input.latents": X, "output": Y}})
    assert [*latents._judge_decoder(alone)] == []
    assert alone.ledger.has(entry_of(alone, "vae.decode"), "latents")


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
    assert [verdict for verdict, _ in step_rows(0.8, lambda x: x + 1.0)] == ["not judged"]


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
        assert context.ledger.has(entry, "noise") == ("noise" in entry.inputs)
    return [(row.call, row.verdict) for row in rows]


def test_a_noise_that_is_added_again_is_judged_once():
    first, second = ("add_noise.000", "equal"), ("add_noise.001", "equal")
    assert added([X, X]) == [first]
    assert added([X, Y]) == [first, second]
    assert added([None, Y]) == [second] and added([X, None]) == [first]
    assert added([3.0 * X, 3.0 * X]) == [("add_noise.000", "differs")]
    assert added([3.0 * X, X], asked=X) == []  # that of the request


def test_images_of_added_noise_may_be_given():
    def rows_of(x0, image=None, encoded=False):
        calls = {} if image is None else {"inputs": {"input.image": image}}
        calls |= {"vae.encode": {"input.image": X}} if encoded else {}
        calls["add_noise.000"] = {"input.original_samples": x0, "output": X}
        context = context_of(calls)
        entry = entry_of(context, "add_noise.000")
        rows = [*added_noise._judge_sources(context, entry)]
        why = context.ledger.reasons.get((entry.name, "input", "original_samples"), "")
        marked = context.ledger.has(entry, "original_samples")
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
        ("ve", "flow", "ve"), (None, "ve", "ve"), ("other", "ve", "ve"), (None, None, ""),
        (3, "other", ""),
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
