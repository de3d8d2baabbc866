"""Noise that a program drew and did not record: what was recorded says what it was."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.locate import diff_traces
from ldmref.locate.normal import depends_on, deviation_from_normal
from ldmref.samplers import SAMPLERS
from ldmref.trace import build_trace

PRESETS = ("tiny", "sd3-tiny")
# Evaluates the network until a step is exact, hundreds of times; has scales of guidance of its own.
LEFT_OUT = ("rk45", "rectified_cfgpp")
NOT_RECORDED = "the sampler was not recorded"


@cache
def model_of(preset):
    return ldmref.random_model(preset)


RUNS = [(preset, name) for preset in PRESETS for name in SAMPLERS if name not in LEFT_OUT]


@cache
def recorded(preset, sampler, **options):
    """Return the trace of a run."""
    model = model_of(preset)
    with ldmref.recording(model) as run:
        modes.txt2img(
            model, "a red cat", seed=1, steps=3, cfg_scale=4.5, sampler=sampler, **options
        )
    return run.trace


def is_recorded(model, name):
    """Return whether a port records an array that records its networks and states alone."""
    call, layer, role = name.split("/")
    kind = call.partition(".")[0]
    state = role == "output" or role.startswith("input.x")
    return not layer and (kind == model.denoiser.name or (kind == "sampler" and state))


def without_noise(trace, **changed):
    """Return the trace of a port that was asked for the same, and records no noise.

    Args:
        trace: The trace.
        **changed: By call, a function of its state, the state after it, its noise and its levels,
            which returns another state after it.
    """
    arrays = {name: np.asarray(x) for name, x in trace.tensors.items() if "noise" not in name}
    for call, change in changed.items():
        roles = ("input.x", "output", "input.noise", "input.sigma", "input.sigma_next")
        after = change(*(np.asarray(trace.tensors[f"{call}//{role}"]) for role in roles))
        arrays[f"{call}//output"] = after
        arrays[f"sampler.{int(call[-3:]) + 1:03}//input.x"] = after
    entries = [
        replace(entry, inputs={k: x for k, x in entry.inputs.items() if "noise" not in k})
        for entry in trace.entries
    ]
    return replace(
        trace.with_entries(entries),
        tensors=arrays,
        manifest={**trace.manifest, "program": {"name": "another"}},
    )


@pytest.mark.parametrize(("preset", "sampler"), RUNS)
def test_plain_arrays_of_any_sampler_have_no_fault(preset, sampler):
    """Neither the sampler nor its noise was recorded."""
    model = model_of(preset)
    tensors = recorded(preset, sampler).tensors
    arrays = {name: np.asarray(x) for name, x in tensors.items() if is_recorded(model, name)}
    report = diff_traces(build_trace(arrays), model)
    assert not report.faults, [(row.name, row.kind, row.cause) for row in report.faults]
    assert any(NOT_RECORDED in note for note in report.notes)
    unknown = {row.call for row in report.rows if row.verdict == "not judged"}
    assert not {call for call in unknown if call.startswith("sampler.")} - {"sampler.000"}


@pytest.mark.parametrize("sampler", ["euler_a", "dpmpp_sde", "euler_churn", "dpmpp_2m_sde"])
def test_a_step_whose_noise_was_not_recorded_is_judged_by_what_it_implies(sampler):
    report = diff_traces(without_noise(recorded("tiny", sampler)), model_of("tiny"))
    assert not report.faults, [(row.name, row.kind, row.cause) for row in report.faults]
    assert [row for row in report.rows if "it implies" in row.note and row.verdict == "equal"]


def more_noise(x, x_next, noise, sigma, sigma_next):
    return x_next + noise


def of_the_state(x, x_next, noise, sigma, sigma_next):
    """Draw the state itself, of variance 1, in the place of noise."""
    spread = np.sqrt(sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2)
    drawn = (x - x.mean()) / x.std()
    return (x_next + spread * (drawn - noise)).astype(np.float32)


@pytest.mark.parametrize(
    ("change", "words"),
    [(more_noise, "standard deviation"), (of_the_state, "noise that depends on the state")],
)
def test_noise_that_is_none_has_a_cause(change, words):
    port = without_noise(recorded("tiny", "euler_a"), **{"sampler.001": change})
    report = diff_traces(port, model_of("tiny"))
    (row,) = [row for row in report.faults if row.call == "sampler.001"]
    assert words in row.cause


def test_a_step_that_draws_no_noise_has_the_cause_that_explains_it():
    trace = without_noise(recorded("tiny", "euler_a", eta=0.0))
    manifest = {**trace.manifest, "params": {**trace.manifest["params"], "eta": 1.0}}
    report = diff_traces(replace(trace, manifest=manifest), model_of("tiny"))
    steps = [row for row in report.faults if row.kind == "step"]
    assert steps and all("eta" in row.cause for row in steps), [row.cause for row in steps]


def test_statistics_of_normal_noise():
    z = np.random.default_rng(0).standard_normal((2, 4, 8, 8))
    x = np.random.default_rng(1).standard_normal((2, 4, 8, 8))
    assert not deviation_from_normal(z).cause
    assert "standard deviation 2" in deviation_from_normal(2.0 * z).cause.replace("1.9", "2")
    assert "mean" in deviation_from_normal(z / np.std(z) * 0.9 + 0.45).cause
    assert not depends_on(z, x) and depends_on(z + x, x)
