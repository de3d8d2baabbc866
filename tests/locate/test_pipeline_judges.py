"""Which judges look at which part of a run, and what is left to no judge."""

from __future__ import annotations

import numpy as np
import pytest
from host_units import context_of, entry_of

from ldmref.locate import pipeline
from ldmref.locate.findings import UNKNOWN, Row

X = np.zeros((1, 4, 8, 8))
ONE = {"output": np.zeros(1)}


def judged(calls, model="tiny", controlnets=(), **manifest):
    context = context_of(calls, model, **manifest)
    return pipeline.judge_host(context.port, context.model, "float32", [], controlnets)


def watch(monkeypatch):
    """Return what judges are given: those of guidance, of steps, and all others as one."""
    seen = []

    def judge(name):
        def run(context):
            seen.append((name, context))
            return [Row(name, "", note=str(len(context.port.entries)))]

        run.__name__ = f"judge_{name}"
        return run

    named = {name: judge(name) for name in ("tokens", "guidance", "steps", "others")}
    for name, run in named.items():
        if name != "others":
            monkeypatch.setattr(pipeline, f"judge_{name}", run)
    order = (named["others"], named["guidance"], named["steps"])
    monkeypatch.setattr(pipeline, "JUDGES", order)
    return seen


# -- passes and branches --------------------------------------------------------------------------


def test_a_run_of_one_pass_is_judged_as_it_is(monkeypatch):
    seen = watch(monkeypatch)
    nets = (object(),)
    rows = judged({"schedule.000": ONE, "sampler.000": ONE}, controlnets=nets)
    assert [row.call for row in rows[:4]] == ["tokens", "others", "guidance", "steps"]
    assert len({id(context) for _, context in seen}) == 1
    _, context = seen[0]
    assert context.whole is None
    assert context.controlnets is nets
    assert (context.dtype, context.notes) == ("float32", [])


def test_each_pass_of_a_run_is_judged_by_itself(monkeypatch):
    seen = watch(monkeypatch)
    calls = {f"{kind}.00{i}": ONE for i in (0, 1) for kind in ("schedule", "sampler")}
    calls["sampler.002"] = ONE
    rows = judged(calls)
    assert [(name, len(context.port.entries)) for name, context in seen] == [
        ("tokens", 5),
        *[(name, 2) for name in ("others", "guidance", "steps")],
        *[(name, 3) for name in ("others", "guidance", "steps")],
    ]
    assert [row.note for row in rows[:7]] == ["5", "2", "2", "2", "3", "3", "3"]
    whole = seen[0][1]
    assert whole.whole is None
    assert all(context.whole is whole.port for _, context in seen[1:])
    assert all(context.ledger is whole.ledger for _, context in seen)


def test_parts_of_a_branch_are_those_of_guidance_and_of_steps(monkeypatch):
    seen = watch(monkeypatch)
    calls = {f"{kind}.00{i}": ONE for i in (0, 1, 2) for kind in ("schedule", "sampler")}
    attributes = {f"schedule.00{i}": {"sampler": "a" if i < 2 else "b"} for i in range(3)}
    recipe = {"trunk": {"trunk": {"n": 0}, "changes": {"n": 1}}, "changes": {"n": 2}}
    judged(calls, branch=recipe, attributes=attributes)
    found = [(name, len(context.port.entries), context.params.get("n")) for name, context in seen]
    assert found == [
        ("tokens", 6, None),
        ("others", 6, 0),
        ("guidance", 2, 0),
        ("guidance", 2, 1),
        ("guidance", 2, 2),
        ("steps", 4, 0),
        ("steps", 2, 2),
    ]


def test_arrays_that_do_not_fit_stop_one_judge_alone(monkeypatch):
    seen = watch(monkeypatch)

    def judge_tokens(context):
        raise ValueError("no")

    monkeypatch.setattr(pipeline, "judge_tokens", judge_tokens)
    rows = judged({"schedule.000": ONE, "sampler.000": ONE})
    assert (rows[0].call, rows[0].verdict) == ("tokens", UNKNOWN)
    assert len(seen) == 3


# -- what no judge looked at ----------------------------------------------------------------------


def left_of(monkeypatch, calls, **manifest):
    """Return the calls with arrays that no judge compared."""
    watch(monkeypatch)
    return [row.call for row in judged(calls, **manifest) if row.kind == "recorded"]


@pytest.mark.parametrize("kind", ["words", "image", "inputs", "truth", "low_resolution"])
def test_what_was_given_is_not_compared(monkeypatch, kind):
    calls = {f"{kind}.000": {"input.a": X, "output": X}, "posterior.000": ONE}
    assert left_of(monkeypatch, calls) == ["posterior.000"]


def test_arrays_of_calls_that_no_judge_compared_have_rows(monkeypatch):
    calls = {
        "sampler.000": {"input.x": X},
        "sampler.000/constrain": {"input": X, "output": X},
        "sampler.000/other": {"input": X, "output": X},
        "unet.000": {"input.sample": X, "output": X},
        "unet.000/conv_in": {"input": X},
        "unet.001": {"output": X},
        "unheard.000": {"input.x": X},
    }
    watch(monkeypatch)
    rows = [row for row in judged(calls) if row.kind == "recorded"]
    assert [row.call for row in rows] == [
        "sampler.000", "sampler.000", "unet.000", "unet.000", "unet.001",
    ]  # fmt: skip
    assert [row.note.partition(" not ")[0] for row in rows] == [
        "input.x",
        "input, output",
        "input.sample",
        "timestep, encoder_hidden_states were",
        "sample, timestep, encoder_hidden_states were",
    ]


def test_inputs_without_recorded_sources_are_given(monkeypatch):
    calls = {"sampler.000": {"input.x": X}, "unet.000": {"input.context": X, "input.a": X}}
    missing = "unet.000"  # its other inputs were not recorded
    assert left_of(monkeypatch, calls) == ["sampler.000", "unet.000", missing]
    assert left_of(monkeypatch, calls, selection={"calls": ["a"]}) == ["unet.000", missing]


# -- pipelines whose latents are tokens -----------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "kind", "call", "known"),
    [
        ("flux-tiny", "FluxPipeline", "sampler.003", True),
        ("flux-tiny", "OtherPipeline", "sampler.003", False),
        ("flux-tiny", "OtherPipeline", "samplers", False),
        ("flux-tiny", "OtherPipeline", "unet.000", True),
        ("flux-tiny", None, "sampler.003", True),
        ("flux-tiny", 3, "sampler.003", True),
        ("tiny", "OtherPipeline", "sampler.003", True),
    ],
)
def test_pipelines_of_tokens_that_are_not_known_are_not_judged(model, kind, call, known):
    context = context_of({"tokens.000": ONE, call: ONE, "sampler.009": {}}, model, pipeline=kind)
    rows = pipeline._unknown_pipeline(context.port, context.model)
    found = [(row.call, row.layer, row.kind, row.verdict) for row in rows]
    assert found == ([] if known else [(call, "", "pipeline", UNKNOWN)])


def test_a_pipeline_that_is_not_known_has_no_other_rows():
    calls = {"sampler.000": {"input.x": X}, "guidance.000": ONE}
    rows = judged(calls, "flux-tiny", pipeline="OtherPipeline")
    assert [row.kind for row in rows] == ["pipeline"]
    assert "OtherPipeline" in rows[0].note
    known = context_of(calls, "flux-tiny")
    assert entry_of(known, "sampler.000").call in {row.call for row in judged(calls, "flux-tiny")}
