"""How a recorded run is read and its wires are judged, on runs that are built by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import Sized, context_of, entry_of, model_of, normal

from ldmref.locate.pipeline import hints, inputs, latents, text_inputs, wires
from ldmref.locate.pipeline.branches import split_branches
from ldmref.locate.pipeline.port_run import PortRun
from ldmref.locate.pipeline.prompt_arrays import PromptArrays
from ldmref.locate.pipeline.text_inputs import ExpectedText
from ldmref.ports.port import port_of

SHAPE = (1, 4, 8, 8)
X, Y, Z = (normal(i, *SHAPE) for i in range(3))


def verdicts(rows):
    return [(row.kind, row.verdict, row.cause) for row in rows]


# -- evaluations ----------------------------------------------------------------------------------


def evaluations_of(*calls, **arrays):
    context = context_of({call: arrays.get(call.split(".")[0], {"output": X}) for call in calls})
    return [
        (
            tuple(e.call for e in found.networks),
            found.guidance and found.guidance.call,
            found.step.call,
            found.number,
        )
        for found in context.evaluations
    ]


def test_evaluations_end_with_their_guidance_and_step():
    u, g, s = "unet.{:03}".format, "guidance.{:03}".format, "sampler.{:03}".format
    assert evaluations_of(u(0), g(0), s(0), u(1), g(1), s(1)) == [
        ((u(0),), g(0), s(0), 0), ((u(1),), g(1), s(1), 0),
    ]  # fmt: skip
    assert evaluations_of(u(0), s(0), u(1), u(2), s(1)) == [
        ((u(0),), None, s(0), 0), ((u(1), u(2)), None, s(1), 0),
    ]  # fmt: skip
    assert evaluations_of(u(0), g(0), u(1), g(1), s(0)) == [
        ((u(0),), g(0), s(0), 0), ((u(1),), g(1), s(0), 1),
    ]  # fmt: skip
    assert evaluations_of(g(0), s(0)) == [((), g(0), s(0), 0)]
    assert evaluations_of(s(0), s(1), u(0), u(1), g(0), g(1)) == [
        ((u(0),), g(0), s(0), 0), ((u(1),), g(1), s(1), 0),
    ]  # fmt: skip
    assert evaluations_of(s(0), s(1), u(0), u(1), g(0)) == [
        ((u(0),), None, s(0), 0), ((u(1),), None, s(1), 0),
    ]  # fmt: skip
    assert evaluations_of(s(0), u(0), s(1)) == [((u(0),), None, s(1), 0)]


# -- branches -------------------------------------------------------------------------------------


def branch_of(changes, second=(4.0, 0.0), eta=None, sampler="ddim"):
    calls = {
        "schedule.000": {"output.sigmas": np.array([9.0, 4.0, 0.0])},
        "sampler.000": {"output": X},
        "schedule.001": {"output.sigmas": np.array(second)},
        "sampler.001": {"output": X},
    }
    named = {
        "schedule.000": {"sampler": "ddim"},
        "schedule.001": {"sampler": sampler},
        "sampler.001": {} if eta is None else {"eta": eta},
    }
    branch = {"trunk": {"prompt": "a", "seed": 1}, "changes": changes}
    return split_branches(context_of(calls, attributes=named, branch=branch).port)


def test_branches_have_their_own_requests():
    parts = branch_of({"prompt": "b"}, (9.0, 4.0, 0.0))
    assert [p.manifest["params"] for p in parts.requests] == [
        {"prompt": "a", "seed": 1}, {"prompt": "b", "seed": 1},
    ]  # fmt: skip
    assert [[e.call for e in p.entries] for p in parts.requests] == [
        ["schedule.000", "sampler.000"], ["schedule.001", "sampler.001"],
    ]  # fmt: skip
    assert parts.trunk.manifest["params"] == {"prompt": "a", "seed": 1}
    (together,) = parts.samplings
    entries = [entry.call for entry in together.entries]
    assert entries == ["schedule.000", "sampler.000", "schedule.001", "sampler.001"]
    for other in (
        branch_of({}), branch_of({}, (9.0, 4.0, 0.0), eta=0.5),
        branch_of({}, (9.0, 4.0, 0.0), sampler="heun"),
    ):  # fmt: skip
        calls = [[entry.call for entry in p.entries] for p in other.samplings]
        assert calls == [["schedule.000", "sampler.000"], ["schedule.001", "sampler.001"]]
    assert branch_of({}).samplings[1].manifest["params"]["sigmas"] == [4.0, 0.0]
    assert len(branch_of(None).requests) == 1


# -- the recorded run -----------------------------------------------------------------------------


def test_times_have_levels_if_the_schedule_has_them():
    context = context_of({"sampler.000": {"output": X}}, params={"steps": 4})
    made = context.make_schedule()
    assert made is not None
    for t, sigma in zip(made.timesteps, made.sigmas, strict=False):
        assert context.sigma_at(t) == sigma
        for factor, near in ((0.9, True), (1.1, False)):
            found = context.sigma_at(t + factor * 1e-3 * max(t, 1.0))
            assert (found == sigma) == near
    assert context_of({}).sigma_at(3.0) is None


def test_which_half_of_a_batch_is_which():
    own = context_of({"sampler.000": {"input.x": X}})
    assert own.halves() == ("uncond", "cond")
    theirs = context_of({"sampler.000": {"input.model_output": X}})
    assert theirs.is_diffusers and not own.is_diffusers
    assert theirs.halves() == port_of(theirs.model.family).halves
    later = {"sampler.000": {"input.sample": X}, "sampler.001": {"input.model_output": X}}
    assert context_of(later).is_diffusers  # the first step was not recorded in full
    family = SimpleNamespace(name="z-image")
    for diffusers, right in ((True, ("cond", "uncond")), (False, ("uncond", "cond"))):
        run = SimpleNamespace(model=SimpleNamespace(family=family), is_diffusers=diffusers)
        assert PortRun.halves(run) == right
    for named, right in (
        (["cond", "uncond"], ("cond", "uncond")), (["cond"], ("uncond", "cond")),
    ):  # fmt: skip
        context = context_of(
            {"guidance.000": {"output": X}}, attributes={"guidance.000": {"halves": named}}
        )
        assert context.halves(entry_of(context, "guidance.000")) == right


@pytest.mark.parametrize(
    ("params", "attributes", "steps"),
    [
        ({"steps": 4}, {}, 4),
        ({"num_inference_steps": 5, "steps": 4}, {}, 5),
        ({"steps": 4}, {"steps": 6}, 6),
        ({"steps": 0}, {}, 2),
        ({}, {}, 2),
    ],
)
def test_the_number_of_steps(params, attributes, steps):
    calls = {
        "schedule.000": {"input.x": X},
        "sampler.000": {"output": X},
        "sampler.001": {"output": X},
    }
    context = context_of(calls, attributes={"schedule.000": attributes}, params=params)
    assert context.steps == steps


def test_scales_that_were_asked_for():
    assert context_of({}, params={"cfg_scale": 3}).asked_scale == 3.0
    assert context_of({}, params={"cfg_scale": 3}, request={"guidance_scale": 2}).asked_scale == 2.0
    assert context_of({}).asked_scale is None


def test_numbers_and_arrays_are_read_by_role():
    context = context_of({"sampler.000": {"input.a": np.array([3.0, 3.0]), "input.b": np.zeros(0)}})
    entry = entry_of(context, "sampler.000")
    assert context.number(entry, "x", "a") == 3.0
    assert context.number(entry, "b") is None and context.number(entry, "x") is None
    assert context.read(None, "a") is None and context.read_output(entry) is None


# -- wires ----------------------------------------------------------------------------------------


def halves_of(uncond, cond, output=None, **more):
    """Return the rows of guidance after a network whose batch holds the negative half first."""
    output = np.concatenate([X, Y]) if output is None else output
    calls = {
        "unet.000": {"output": output},
        "guidance.000": {"input.uncond": uncond, "input.cond": cond},
        "sampler.000": {"input.x": Z},
    }
    context = context_of(calls, **more)
    return verdicts(wires._judge_halves(context))


def test_halves_of_a_prediction():
    assert halves_of(X, Y) == [("prediction", "equal", "")]
    for (uncond, cond), cause in {
        (0, 1): "the halves are exchanged",
        (1, 1): "both are the unconditional half",
        (0, 0): "both are the conditional half",
    }.items():
        pair = (Y, X)
        found = halves_of(pair[uncond], pair[cond])
        assert found == [("prediction", "differs", cause)]
    assert halves_of(X, Y, np.concatenate([X, Y, Z])) == []
    assert halves_of(X, Y, np.concatenate([X, Y])[:, :3]) == []
    wide = np.concatenate([np.concatenate([X, Y]), 9 + np.concatenate([X, Y])], axis=1)
    assert halves_of(X, Y, wide) == [("prediction", "equal", "")]  # with the variance


def test_predictions_of_other_steps():
    def rows_of(second, cond=None):
        calls = {
            "unet.000": {"output": X}, "sampler.000": {"input.prediction": X, "input.x": Z},
            "unet.001": {"output": Y}, "sampler.001": {"input.prediction": second, "input.x": Z},
        }  # fmt: skip
        return verdicts(wires._judge_predictions(context_of(calls)))[1]

    assert rows_of(Y) == ("prediction", "equal", "")
    assert rows_of(X) == ("prediction", "differs", "the prediction of the step before")
    calls = {
        "guidance.000": {"input.uncond": X, "input.cond": Y, "output": Z},
        "sampler.000": {"input.prediction": Z, "input.x": X},
    }
    for got, cause in {
        0: "guidance is computed but not used: the unconditional prediction",
        1: "guidance is computed but not used: the conditional prediction",
    }.items():
        calls["sampler.000"]["input.prediction"] = (X, Y)[got]
        assert verdicts(wires._judge_predictions(context_of(calls)))[0][2] == cause
    twice = {"unet.000": {"output": X}, **calls}
    twice["sampler.000"] = {"input.model_output": np.concatenate([Z, Z]), "input.sample": X}
    assert verdicts(wires._judge_predictions(context_of(twice)))[0][1] == "equal"
    twice["sampler.000"] = {"input.model_output": np.concatenate([Z, Y]), "input.sample": X}
    assert verdicts(wires._judge_predictions(context_of(twice)))[0][1] == "differs"


def states_of(got, calls=None, after=None, **more):
    run = {
        "sampler.000": {"input.x": X, "output": Y} | (after or {}),
        **(calls or {}),
        "sampler.001": {"input.x": got} | more.pop("following", {}),
    }
    return verdicts(wires._judge_states(context_of(run, **more)))


def test_states_between_steps():
    assert states_of(Y) == [("state", "equal", "")]
    unused = "the state before the step: its result is not used"
    assert states_of(X) == [("state", "differs", unused)]
    clamped = states_of(np.clip(Y, -0.5, 0.75))[0][2]
    assert clamped == "the state is clamped to [-0.5, 0.75]"
    ends = {"sampler.000": {"i": 0, "i_next": 1}, "sampler.001": {"i": 1, "i_next": 2}}
    assert states_of(X, attributes=ends)[0][1] == "differs"
    ends["sampler.001"]["i"] = 2
    assert states_of(X, attributes=ends) == []
    jump = {"jump.000": {"output": Z}}
    ends["sampler.001"]["i"] = 1
    assert states_of(Z, jump, attributes=ends) == [] and states_of(X, jump, attributes=ends)
    for before, after, judged in ((4.0, 4.0, True), (4.0, 4.003, True), (4.0, 4.005, False)):
        levels = {"after": {"input.sigma_next": np.array(before)}}
        following = {"input.sigma": np.array(after)}
        assert bool(states_of(X, following=following, **levels)) == judged
    for before, after, judged in ((600, 400, True), (600, 600, True), (400, 600, False)):
        times = {"after": {"input.timestep": np.array(before)}}
        assert bool(states_of(X, following={"input.timestep": np.array(after)}, **times)) == judged


def test_known_parts_are_put_into_states():
    mask = np.zeros((1, 1, 8, 8))
    mask[..., :4] = 1.0
    right = np.where(mask > 0, Y, Z)
    noised = {"add_noise.000": {"output": Z}}
    masked = {"mask.000": {"output.mask": mask}, **noised}

    def rows_of(got, calls):
        run = {
            **{k: x for k, x in calls.items() if k.startswith("mask")},
            "sampler.000": {"input.sample": X, "output": Y},
            **{k: x for k, x in calls.items() if k.startswith("add")},
            "sampler.001": {"input.sample": got},
        }
        return verdicts(wires._judge_states(context_of(run)))

    assert rows_of(right, masked) == [("state", "equal", "")]
    assert rows_of(np.where(mask > 0, Z, Y), masked)[0][2] == "the mask is inverted"
    assert rows_of(Z, masked)[0][2] == "only the known part is kept"
    assert rows_of(Y, masked)[0][2] == "the known part is not put back"
    assert rows_of(right, noised) == [("state", "equal", "")]  # the nearer one, without a mask
    assert rows_of(right + 1.0, noised)[0][1] == "differs"


def test_clamps_that_change_something():
    assert wires.clamp_of(np.array([-1.0, 2.0]), np.array([-1.0, 2.0])) is None
    text, array = wires.clamp_of(np.array([-1.0, 2.0]), np.array([-3.0, 2.5]))
    assert text == "the state is clamped to [-1, 2]" and array.tolist() == [-1.0, 2.0]
    assert wires.clamp_of(np.array([-1.0, np.inf]), np.array([-3.0, 2.5])) is None


# -- initial latents ------------------------------------------------------------------------------


def initial_row(x, model="tiny", roles=("input.model_output", "input.sample"), **manifest):
    """Return the row of the first state of a run from pure noise, of 4 steps."""
    calls = {"sampler.000": {roles[0]: X, roles[1]: x, "output": X}}
    context = context_of(calls, model, params={"steps": 4} | manifest.pop("params", {}), **manifest)
    return next(latents.judge_initial(context)), context


def exact_noise(deviation, size=(4, 4, 8, 8)):
    x = normal(0, *size)
    return deviation * x / np.sqrt(np.mean(np.square(x)))


def test_the_scale_of_the_initial_noise():
    row, context = initial_row(exact_noise(1.0))
    expected = float(context.make_schedule().init_noise_sigma) if context.states_on_path else 1.0
    limit = 6.0 / math.sqrt(2.0 * 4 * 4 * 8 * 8)
    for sign in (-1, 1):
        for factor, verdict in ((0.99, "equal"), (1.01, "differs")):
            x = exact_noise(expected * (1.0 + sign * factor * limit))
            row, _ = initial_row(x)
            assert row.verdict == verdict and row.allowed == pytest.approx(limit)
    nan, _ = initial_row(exact_noise(1.0) * np.nan)
    assert nan.verdict == "differs" and nan.error == math.inf


def test_causes_of_initial_noise_on_the_path():
    roles = ("input.prediction", "input.x")
    _, context = initial_row(X, roles=roles, params={"sampler": "euler"})
    schedule = context.make_schedule()
    sigma, right = float(schedule.sigmas[0]), float(schedule.init_noise_sigma)

    def row_of(deviation):
        return initial_row(exact_noise(deviation), roles=roles, params={"sampler": "euler"})[0]

    assert row_of(right).verdict == row_of(sigma).verdict == "equal"
    missing = "the scale of the initial noise is missing (init_noise_sigma)"
    assert row_of(1.0).cause == missing and row_of(1.0).explained == pytest.approx(0.0, abs=1e-9)
    assert row_of(right * right).cause == "the noise is scaled twice"
    assert row_of(0.01).cause == ""
    assert row_of(1.0).note == f"standard deviation 1 instead of {right:.5g}"


# -- texts ----------------------------------------------------------------------------------------


def parts_of(sizes, roles=None, diffusers=True, **attributes):
    model_output = {"input.model_output" if diffusers else "input.prediction": X, "input.x": X}
    calls = {
        f"unet.{i:03}": {"input.sample": np.zeros((round(2 * n), 4, 8, 8))}
        for i, n in enumerate(sizes)
    }
    if roles is not None:
        calls["guidance.000"] = {f"input.{role}": X for role in roles}
    context = context_of({**calls, "sampler.000": model_output})
    (evaluation,) = context.evaluations
    return text_inputs.parts_of_batch(context, evaluation, 2)


def test_which_texts_a_batch_holds():
    both = ("uncond", "cond")
    assert parts_of([1]) == [("cond",)]
    assert parts_of([2]) == parts_of([2], both) == [both]
    assert parts_of([1, 1]) == [("cond",), ("uncond",)]
    assert parts_of([1, 1], both, False) == [("uncond",), ("cond",)]
    assert parts_of([2, 1]) == [both, ("cond",)]
    for roles in ((*both, "perturbed"), ("cond", "uncond", "perturbed"), ("cond", "perturbed")):
        assert parts_of([3], roles) == [(*both, "cond")]
    assert parts_of([2], ("cond", "perturbed")) == [("cond", "cond")]
    assert parts_of([1], ("cond",)) == parts_of([1], both) == [("cond",)]
    assert parts_of([1], ("uncond",)) == [("uncond",)]
    assert parts_of([4], both) == []
    assert parts_of([0.5], both) == []


ROWS = [PromptArrays(normal(i, 3, 4), normal(9 + i, 6)) for i in range(4)]
BATCH = ExpectedText(("uncond", "cond"), {"cond": ROWS[:2], "uncond": ROWS[2:]})


def test_texts_of_a_batch():
    right = BATCH.array("text")
    assert np.array_equal(right, np.stack([ROWS[i].states for i in (2, 3, 0, 1)]))
    pooled = BATCH.array("pooled text", ("cond",))
    assert np.array_equal(pooled, np.stack([x.pooled for x in ROWS[:2]]))
    assert BATCH.array("mask of the text") is None
    odd = ExpectedText(("cond",), {"cond": [ROWS[0], PromptArrays(normal(0, 2, 4), None)]})
    assert odd.array("text") is None and odd.array("pooled text") is None


TEXTS = {
    (0, 1, 2, 3): "prompt and negative prompt are exchanged",
    (0, 1, 0, 1): "both halves are those of the prompt",
    (2, 3, 2, 3): "both halves are those of the negative prompt",
    (3, 2, 0, 1): "rows of prompts are exchanged",
    (2, 3, 0, 1): "",
}


def text_row(got, kind="text", expected=BATCH):
    context = context_of({"unet.000": {"input.x": X}})
    row = text_inputs._judge_rows(context, entry_of(context, "unet.000"), kind, got, expected)
    return row.verdict, row.cause


@pytest.mark.parametrize(("order", "cause"), TEXTS.items())
def test_texts_that_are_arranged_otherwise(order, cause):
    verdict = "differs" if cause else "equal"
    assert text_row(np.stack([ROWS[i].states for i in order])) == (verdict, cause)
    assert text_row(np.stack([ROWS[i].pooled for i in order]), "pooled text") == (verdict, cause)


def test_texts_that_are_changed():
    right = BATCH.array("text")
    assert text_row(0 * right)[1] == "the text is zero"
    assert text_row(np.roll(right, 1, axis=1))[1] == "the tokens are one place later"
    assert text_row(np.roll(right, -1, axis=1))[1] == "the tokens are one place earlier"
    assert text_row(right[:, :2]) == ("differs", "")
    x = np.arange(7.0)[None]
    assert text_inputs._exchanged(x, (2, 3)).tolist() == [[2, 3, 4, 0, 1, 5, 6]]


@pytest.mark.parametrize("given", [False, True])
def test_a_text_is_judged_once_for_all_calls(given, monkeypatch):
    """Calls that were given the same need one row; states that a request gave need none."""
    alone = ExpectedText(("cond",), {"cond": ROWS[:1], "uncond": ROWS[1:2]})
    monkeypatch.setattr(text_inputs, "_expected", lambda *values: alone)
    right = ROWS[0].states[None]
    calls = {}
    for i, text in enumerate((right, right, -right)):
        calls[f"unet.00{i}"] = {"input.sample": X, "input.encoder_hidden_states": text}
        calls[f"sampler.00{i}"] = {"input.x": X}
    context = context_of(calls, params={"prompt_embeds": "file"} if given else {"prompt": "a"})
    rows = [(row.call, row.verdict) for row in text_inputs.judge_text(context)]
    assert rows == ([] if given else [("unet.000", "equal"), ("unet.002", "differs")])
    for call in context.calls("unet"):
        assert context.ledger.has(call, "encoder_hidden_states")


def test_text_encoders_side_by_side_are_exchanged_by_their_widths():
    clip = model_of("sd3-tiny").config.text_encoders[:2]
    wide = [replace(text, projection_dim=text.hidden_size + 3) for text in clip]

    def widths_of(*encoders):
        context = SimpleNamespace(
            model=SimpleNamespace(config=SimpleNamespace(text_encoders=encoders))
        )
        kinds = ("text", "pooled text", "mask of the text")
        return [[*text_inputs._widths(context, kind)] for kind in kinds]

    first, second = (text.hidden_size for text in clip)
    assert widths_of(*wide) == [[(first, second)], [(first + 3, second + 3)], []]
    assert widths_of(wide[0]) == [[], [], []]


def test_padding_is_not_compared():
    mask = np.array([1, 1, 0])
    rows = [x._replace(mask=mask) for x in ROWS]
    batch = ExpectedText(("uncond", "cond"), {"cond": rows[:2], "uncond": rows[2:]})
    got = batch.array("text")
    got[:, 2] += 1.0
    assert text_row(got, expected=batch) == ("equal", "")
    got[:, 1] += 1.0
    assert text_row(got, expected=batch)[0] == "differs"
    masks = batch.array("mask of the text")
    assert text_row(1 - masks, "mask of the text", batch)[1] == "the mask is inverted"
    assert text_row(0 * masks + 1, "mask of the text", batch)[1] == "padding is not masked"


# -- hints ----------------------------------------------------------------------------------------


def hint_row(got, *images):
    calls = {f"control.{i:03}": {"output": x} for i, x in enumerate(images)}
    calls |= {"controlnet.000": {"input.hint": got}, "unet.000": {"input.x": X}}
    context = context_of(calls)
    net = entry_of(context, "controlnet.000")
    found = verdicts(hints.judge_hint(context, net))
    assert context.ledger.has(net, "hint") == bool(found)
    return found[0][1:] if found else tuple({*context.ledger.reasons.values()})


def test_hints_of_controlnets():
    a, b = np.abs(normal(0, 1, 3, 4, 4)), np.abs(normal(1, 1, 3, 4, 4))
    assert hint_row(a, a) == ("equal", "")
    assert (
        hint_row(np.concatenate([a, a]), a) == hint_row(a, np.concatenate([a, b])) == ("equal", "")
    )
    causes = {
        "the control image is inverted": 1.0 - a,
        "pixels in [-1, 1] instead of [0, 1]": 2.0 * a - 1.0,
        "the control image is zero": 0.0 * a,
        "the control image of another ControlNet": b,
    }
    for cause, got in causes.items():
        assert hint_row(got, a, b) == ("differs", cause)
    assert hint_row(a, a[..., :2]) == (
        "what the pipeline prepared of the control image was not recorded",
    )


def test_kinds_of_control_images():
    def row_of(mode, diffusers=True, **manifest):
        role = "input.model_output" if diffusers else "input.x"
        calls = {"controlnet.000": {"input.mode": np.array(mode)}, "sampler.000": {role: X}}
        context = context_of(calls, **manifest)
        return [
            x[1] for x in verdicts(hints.judge_mode(context, entry_of(context, "controlnet.000")))
        ]

    assert row_of(3, request={"control_mode": 3}) == ["equal"]
    assert row_of(3, request={"control_mode": [2, 3]}) == ["differs"]
    assert row_of(-1, request={"seed": 3}) == ["equal"]
    assert row_of(3) == []
    own = {"diffusers": False, "params": {"control": [{"mode": 3}]}}
    assert row_of(3, **own) == ["equal"] and row_of(2, **own) == ["differs"]
    assert row_of(3, diffusers=False) == []
    context = context_of({}, params={"control": [{"mode": 3}]})
    assert hints._asked_mode(context, 0) == 3 and hints._asked_mode(context, 1) is None


# -- inputs of the denoiser -----------------------------------------------------------------------


def test_scales_that_a_network_reads():
    def causes(*read, asked=3.5):
        calls = {f"unet.{i:03}": {"input.guidance": np.array([x])} for i, x in enumerate(read)}
        context = context_of(calls, params={"cfg_scale": asked} if asked else {})
        rows = [*inputs._judge_scales(context, context.calls("unet"))]
        return [(row.call, row.cause) for row in rows]

    assert causes(3.5, 3.5, 4.0) == [
        ("unet.000", ""), ("unet.002", "guidance scale 4 instead of 3.5"),
    ]  # fmt: skip
    assert causes(3500.0) == [("unet.000", "the guidance scale is multiplied by 1000")]
    assert causes(0.0035) == [("unet.000", "the guidance scale is divided by 1000")]
    assert causes(3.5, asked=None) == []


def test_positions_that_a_network_reads():
    rows, columns = 2, 3
    right = np.array([[0, r, c] for r in range(rows) for c in range(columns)], float)
    down = np.array([[0, c, r] for c in range(columns) for r in range(rows)], float)

    def cause(got, role="img_ids"):
        sample = np.zeros((1, 4, 2 * rows, 2 * columns))
        calls = {"unet.000": {"input.sample": sample, f"input.{role}": got}}
        context = context_of(calls)
        found = verdicts(inputs.judge_positions(context))
        return found[0][1:] if found else None

    assert cause(right) == ("equal", "") and cause(np.zeros((7, 3)), "txt_ids") == ("equal", "")
    assert cause(np.ones((7, 3)), "txt_ids")[0] == "differs"
    for words, got in {
        "rows and columns are exchanged": right[:, [0, 2, 1]],
        "rows and columns count from 1": right + (right * 0 + 1) * np.array([0, 1, 1]),
        "the positions are twice as large": 2 * right,
        "all positions are zero": 0 * right,
    }.items():
        assert cause(got) == ("differs", words)
    assert cause(down)[0] == "differs"
    assert cause(right[:, :2]) is None


def test_sizes_that_a_network_reads():
    factor = model_of("tiny").config.vae.factor
    h, w = 8.0 * factor, 4.0 * factor

    def cause(got, **params):
        calls = {
            "unet.000": {"input.sample": np.zeros((2, 4, 8, 4)), "input.time_ids": np.array(got)}
        }
        context = replace(context_of(calls, params=params), model=Sized())
        found = verdicts(inputs.judge_sizes(context))
        return found[0][1:] if found else None

    usual = [[h, w, 0.0, 0.0, h, w]] * 2
    assert cause(usual) == ("equal", "")
    assert cause([[0.0] * 6] * 2)[1] == "the micro-conditioning is forgotten: all sizes are zero"
    assert cause([[w, h, 0.0, 0.0, w, h]] * 2)[1] == "width and height are exchanged"
    place = "original and target size without the crop's place"
    assert cause([[h, w, h, w, 0.0, 0.0]] * 2)[1] == place
    if factor != 1:
        small = [[8.0, 4.0, 0.0, 0.0, 8.0, 4.0]] * 2
        assert cause(small)[1] == "sizes of the latents instead of the image"
    asked = {"original_size": [7, 9], "crops_coords_top_left": [1, 2], "target_size": [5, 6]}
    right = [[7.0, 9.0, 1.0, 2.0, 5.0, 6.0]]
    assert cause(right * 2, **asked) == ("equal", "")
    negative = [[7.0, 9.0, 3.0, 4.0, 5.0, 6.0]]
    assert cause(negative + right, **asked, negative_crops_coords_top_left=[3, 4]) == ("equal", "")
    assert cause(usual, sizes=[1, 2]) is None


@pytest.mark.parametrize("diffusers", [True, False])
def test_two_calls_are_of_the_prompt_and_of_the_negative_one(diffusers):
    """Pipelines with a true guidance scale call the denoiser for the prompt first."""
    role = "input.model_output" if diffusers else "input.prediction"
    cond, uncond = (X, Y) if diffusers else (Y, X)

    def rows_of(cond, uncond):
        calls = {
            "unet.000": {"output": X},
            "unet.001": {"output": Y},
            "guidance.000": {"input.uncond": uncond, "input.cond": cond},
            "sampler.000": {role: Z, "input.x": Z},
        }
        return [x[1] for x in verdicts(wires._judge_halves(context_of(calls)))]

    assert rows_of(cond, uncond) == ["equal"] and rows_of(uncond, cond) == ["differs"]


@pytest.mark.parametrize("name", ["prompt_embeds", "pooled_prompt_embeds"])
def test_texts_that_a_callback_may_change(name):
    kinds = {"text": "prompt_embeds", "pooled text": "pooled_prompt_embeds"}
    request = {"callback_on_step_end": "f", "callback_on_step_end_tensor_inputs": [name]}
    context = context_of({"unet.000": {"output": np.ones(2)}}, request=request)
    wrong = context.judge(entry_of(context, "unet.000"), "k", np.array([1.0, 3.0]), np.ones(2))
    for kind, array in kinds.items():
        row = context.unless_changed(wrong, text_inputs.KINDS[kind].parameter)
        assert row.verdict == ("not judged" if array == name else "differs")
