"""Judges between the networks conclude the right thing from runs that differ in one place."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, entry_of, model_of, normal

from ldmref.locate.pairs import Hypothesis, Tried, likely_pairs
from ldmref.locate.parts.step_faults import StepSettings, step_faults
from ldmref.locate.pipeline import (
    added_noise,
    controls,
    known_parts,
    residuals,
    schedule,
    steps,
    text_inputs,
    wires,
)
from ldmref.locate.pipeline.asked import judge_asked
from ldmref.locate.pipeline.prompt_arrays import NotKnown, PromptArrays
from ldmref.locate.pipeline.recorded_step import NotRecorded, RecordedEvaluation, ReplayedStep
from ldmref.locate.rotations import TABLES, read_positions
from ldmref.models.transformer_layers import find_angles
from ldmref.samplers import SAMPLERS
from ldmref.samplers.schedule import NEARLY_ZERO
from ldmref.trace import build_trace

SHAPE = (1, 4, 8, 8)
X, Y, Z = (normal(i, *SHAPE) for i in range(3))


# -- steps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["eps", "v", "x0"])
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "euler"])
def test_each_known_fault_of_steps_has_settings_of_its_own(kind, sampler):
    """A fault with the right settings would explain what is right; two equal ones have one name."""
    config = replace(model_of("tiny").config.scheduler, prediction_type=kind)
    right = StepSettings(config, SAMPLERS[sampler], True, eta=0.0 if sampler == "ddim" else None)
    found = list(step_faults(right))
    settings = [right, *(x for _, x in found)]
    assert all(a != b for a, b in combinations(settings, 2))
    assert len({text for text, _ in found}) == len(found) > 20


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler"])
@pytest.mark.parametrize("rescaled", [True, False])
def test_schedulers_that_keep_no_signal_at_the_start(name, rescaled):
    """Schedules of diffusers with alphas of exactly 0 have no last level; others have one."""
    calls = {"sampler.000": {"input.model_output": X, "input.sample": X}}
    config = replace(model_of("tiny").config.scheduler, rescale_betas_zero_snr=rescaled)
    largest = NEARLY_ZERO**-0.5
    made = SimpleNamespace(sigmas=np.array([largest, 2.0, 1.0, 0.0]))
    made._replace = lambda sigmas: SimpleNamespace(sigmas=sigmas)
    settings = SimpleNamespace(config=config)
    context = context_of(calls, scheduler={"class": name})
    found = steps._without_signal(context, made, settings).sigmas
    exact = rescaled and not name.startswith("Euler")
    assert found[0] == (steps.NO_SIGNAL if exact else largest)
    assert found[1:].tolist() == [2.0, 1.0, 0.0]
    ours = context_of({"sampler.000": {"input.x": X}}, scheduler={"class": name})
    assert steps._without_signal(ours, made, settings) is made


@pytest.mark.parametrize("on_path", [True, False])
@pytest.mark.parametrize("name", ["heun", "dpm_solver_2", "dpm_solver_2_a", "pndm", "dpmpp_2m"])
def test_a_later_evaluation_has_the_derivative_that_was_recorded(name, on_path):
    """These samplers step by derivatives, the others by x0."""
    sigma, x = 2.0, normal(3, *SHAPE)
    config = replace(model_of("tiny").config.scheduler, prediction_type="eps")
    settings = StepSettings(config, SAMPLERS[name], True)
    evaluations = [RecordedEvaluation(None, state, noise, ()) for state, noise in ((X, Y), (Y, Z))]
    step = ReplayedStep(None, evaluations, settings, on_path, own=False)
    ratio = 1.0 if on_path else np.sqrt(1.0 + sigma**2)  # of a state on the path to the port's
    first = step.denoise(5.0 * X, sigma)
    np.testing.assert_allclose(first, ratio * X - sigma * Y)
    second = step.denoise(x, sigma)
    if name == "dpmpp_2m":
        np.testing.assert_allclose(second, ratio * Y - sigma * Z)
    else:
        np.testing.assert_allclose((x - second) / sigma, Z)  # the derivative is the noise
    with pytest.raises(NotRecorded):
        step.denoise(x, sigma)
    assert len(step.predicted) == 2 and [level for _, level in step.seen] == [sigma] * 3


@pytest.mark.parametrize(
    ("name", "own", "calls"),
    [("ddim", False, 1), ("dpm_solver_2_a", False, 2), ("dpm_solver_2_a", True, 1)],
)
def test_noise_of_a_step_is_that_of_its_calls(name, own, calls):
    """A step without its noise does not take that of the next one."""
    settings = StepSettings(model_of("tiny").config.scheduler, SAMPLERS[name], True)
    evaluations = [RecordedEvaluation(None, X, Y, [i * Z, 10 * i * Z]) for i in (1, 2, 3)]
    step = ReplayedStep(None, evaluations, settings, True, own=own)
    for factor in (1, 10, 2, 20)[: 2 * calls]:
        assert np.array_equal(step.draw_noise(), factor * Z)
    with pytest.raises(NotRecorded):
        step.draw_noise()


def test_what_the_network_predicted_is_compared_before_it_is_clipped():
    """ldmref records x0 = x - sigma eps as it is; of other programs it is what a step used."""
    sigma, right = 2.0, X - 2.0 * Y
    arrays = {"input.x": X, "input.sigma": np.array(sigma), "input.x0": right}
    arrays["input.prediction"] = Y
    context = context_of({"sampler.000": arrays}, params={"steps": 2, "sampler": "euler"})
    entry = entry_of(context, "sampler.000")
    evaluation = RecordedEvaluation(entry, X, Y, ())
    clipped = np.clip(right, -1.0, 1.0)
    found = steps._predicted_x0(context, evaluation, clipped)
    np.testing.assert_allclose(found, right)
    lacking = context_of({"sampler.000": {"input.x": X}}, params={"steps": 2})
    evaluation = replace(evaluation, entry=entry_of(lacking, "sampler.000"))
    assert steps._predicted_x0(lacking, evaluation, clipped) is clipped
    theirs = {"sampler.000": {**arrays, "input.model_output": Y}}
    other = context_of(theirs, params={"steps": 2})
    assert steps._predicted_x0(other, evaluation, clipped) is clipped
    named = {"input.x_at": Y, "input.sigma_at": np.array(3.0), **arrays}
    there = context_of({"sampler.000": named}, params={"steps": 2, "sampler": "euler"})
    evaluation = replace(evaluation, entry=entry_of(there, "sampler.000"))
    np.testing.assert_allclose(steps._predicted_x0(there, evaluation, clipped), Y - 3.0 * Y)


def later_rows(x0, dtype="float32", **more):
    arrays = {"input.x0.1": x0, "input.prediction.1": Y, "input.x_at.1": X} | more
    arrays["input.prediction"] = Z
    arrays.setdefault("input.sigma_at.1", np.array(2.0))
    kept = {name: x for name, x in arrays.items() if x is not None}
    context = context_of({"sampler.000": kept}, dtype=dtype, params={"steps": 2, "sampler": "heun"})
    entry = entry_of(context, "sampler.000")
    rows = [*steps._judge_later(context, RecordedEvaluation(entry, X, Y, ()))]
    assert context.ledger.has(entry, "x0.1") == bool(rows)
    return [(row.kind, row.verdict) for row in rows]


def test_later_evaluations_of_a_step_are_judged_by_what_was_predicted():
    right = X - 2.0 * Y
    assert later_rows(right) == [("x0.1", "equal")]
    assert later_rows(right + 0.01) == [("x0.1", "differs")]
    for missing in ("input.prediction.1", "input.x_at.1", "input.sigma_at.1"):
        assert later_rows(right, **{missing: None}) == []
    assert later_rows(right, **{"input.x_at.1": None, "input.x": X}) == []
    assert later_rows(right, **{"input.sigma_at.1": None, "input.sigma": np.array(2.0)}) == []


# -- schedules ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("apart", "verdict"), [(0.9e-5, "equal"), (1.1e-4, "differs")])
def test_tables_of_alphas_are_judged_by_their_tolerance(apart, verdict):
    config = model_of("tiny").config.scheduler
    exact = schedule.training_alphas_cumprod(config)
    moved = exact.copy()
    moved[0] += apart * exact.max()
    calls = {
        "schedule.000": {"output.alphas_cumprod": moved},
        "sampler.000": {"input.x": X},
    }
    context = context_of(calls, dtype="float64", params={"steps": 4})
    row = next(schedule.judge_schedule(context))
    assert (row.verdict, row.allowed) == (verdict, schedule.TABLE) or row.verdict == "equal"
    assert row.verdict == verdict


@pytest.mark.parametrize("sampler", ["heun", "euler"])
def test_levels_of_second_evaluations_are_left_out(sampler):
    params = {"steps": 4, "sampler": sampler}
    made = context_of({"sampler.000": {"input.x": X}}, params=params).make_schedule()
    twice = np.concatenate([made.sigmas[:1], np.repeat(made.sigmas[1:-1], 2), made.sigmas[-1:]])

    def verdict(sigmas):
        calls = {"schedule.000": {"output.sigmas": sigmas}, "sampler.000": {"input.x": X}}
        rows = [*schedule.judge_schedule(context_of(calls, params=params))]
        return [row.verdict for row in rows if row.kind == "sigmas"]

    assert verdict(made.sigmas) == ["equal"]
    assert verdict(twice) == (["equal"] if sampler == "heun" else [])


def test_the_tokens_of_a_flow_are_those_of_its_states():
    for role in ("sample", "x"):
        state = normal(0, 1, 4, 8, 12)
        context = context_of({"sampler.000": {f"input.{role}": state}}, "flux-tiny")
        assert context.tokens == 4 * 6
    assert context_of({"sampler.000": {"input.x": X[0]}}, "flux-tiny").tokens == 0
    assert context_of({}, "flux-tiny").tokens == 0


def test_levels_that_were_given_end_at_zero():
    """diffusers' schedulers add the last level; ldmref's requests name it."""

    def levels(sigmas, timesteps):
        calls = {
            "schedule.000": {
                "input.sigmas": np.array(sigmas),
                "output.timesteps": np.array(timesteps),
            },
            "sampler.000": {"input.model_output": X, "input.sample": X},
        }
        context = context_of(calls)
        return context._own_sigmas(context.config)

    assert levels([3.0, 2.0], [900.0, 500.0]) == [3.0, 2.0, 0.0]
    assert levels([3.0, 2.0, 0.5], [900.0, 500.0]) == [3.0, 2.0, 0.5]


def test_the_last_step_leads_to_the_last_level():
    """Requests may name levels that do not end at 0."""
    params = {"steps": 2, "sampler": "euler", "sigmas": [3.0, 2.0, 0.5]}

    def is_last(sigma, attributes=None, **more):
        calls = {"sampler.000": {"input.x": X, "input.sigma_next": np.array(sigma)}}
        named = {"sampler.000": attributes or {}}
        context = context_of(calls, attributes=named, params=params | more)
        return known_parts._is_last(context, entry_of(context, "sampler.000"), sigma)

    assert is_last(0.5) and is_last(0.5 * (1 + 0.9e-3)) and is_last(0.0)
    assert not is_last(2.0) and not is_last(3.0) and not is_last(0.5 * (1 + 1.2e-3))
    assert is_last(2.0, {"i_next": 4, "n": 4}) and not is_last(0.5, {"i_next": 3, "n": 4})
    assert is_last(0.0, {"i_next": 3, "n": 4}) and not is_last(0.5, {"i_next": 3})


@pytest.mark.parametrize("name", ["prompt_embeds", "negative_prompt_embeds"])
def test_hidden_states_of_a_request_are_not_in_its_record(name):
    ours = {"sampler.000": {"input.x": X}}
    theirs = {"sampler.000": {"input.model_output": X}}
    assert text_inputs._gave_states(context_of(ours, params={name: [1]}))
    assert not text_inputs._gave_states(context_of(ours, params={name: None}))
    assert not text_inputs._gave_states(context_of(ours))
    assert not text_inputs._gave_states(context_of(theirs, params={name: [1]}))


# -- noise ----------------------------------------------------------------------------------------


def test_what_was_mixed_otherwise_is_said_of_the_channels_that_differ():
    right = np.tile([1.0, 1.0, 0.0], (4, 1))

    def words(channels, part, number):
        ratios = right.copy()
        ratios[channels, part] = number
        return added_noise._describe(ratios)

    every = slice(None)
    assert words(every, 0, 1.5) == "the image is multiplied by 1.5"
    assert words(every, 1, 0.5) == "the noise is multiplied by 0.5"
    assert words(2, 0, 1.5) == "the image is multiplied by 1 to 1.5 by channel"
    assert words(1, 1, 0.5) == "the noise is multiplied by 0.5 to 1 by channel"
    assert words(3, 2, 0.25) == "0 to 0.25 is added"
    assert words(3, 2, -0.25) == "-0.25 to 0 is added"
    assert words(every, 0, 1.0) == "image and noise are mixed"
    close = added_noise.EQUAL_FACTORS
    for apart, said in ((0.9 * close, False), (1.1 * close, True)):
        assert ("multiplied" in words(0, 1, 1.0 + apart)) == said
        assert ("added" in words(0, 2, apart)) == said


# -- guidance -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "missing"), [(1.0, False), (1.001, True), (2.0, True)])
def test_any_guidance_that_was_asked_for_is_missed(asked, missing):
    calls = {"unet.000": {"output": X}, "sampler.000": {"input.model_output": X, "input.sample": Y}}
    context = context_of(
        calls, attributes={"sampler.000": {"guided": True}}, request={"guidance_scale": asked}
    )
    rows = [*judge_asked(context)]
    assert [row.verdict for row in rows] == ["differs"] * missing


def test_predictions_that_are_converted_before_they_are_combined():
    """x0 = x - sigma eps, of states that are not scaled."""
    sigma = 2.0

    def verdict(cond, uncond, kind="x0", known=True):
        step = {"input.x": X, "input.prediction": Z}
        if known:
            step["input.sigma"] = np.array(sigma)
        calls = {
            "unet.000": {"output": np.concatenate([Y, Z])},
            "guidance.000": {"input.uncond": uncond, "input.cond": cond},
            "sampler.000": step,
        }
        context = context_of(calls, attributes={"guidance.000": {"prediction_type": kind}})
        return [row.verdict for row in wires._judge_halves(context)]

    assert verdict(X - sigma * Z, X - sigma * Y) == ["equal"]
    assert verdict(Z, Y) == ["differs"]
    assert verdict(Z, Y, "eps") == verdict(Z, Y, known=False) == ["equal"]


@pytest.mark.parametrize("role", ["sample", "x", "latents", "input", "z"])
def test_states_into_which_a_known_part_is_put_have_several_names(role):
    got = np.where(X > 0, Y, Z)
    context = context_of({"vae.decode.000": {f"input.{role}": got}})
    found = wires._with_known(context, Z, entry_of(context, "vae.decode.000"), Y)
    assert found is not None and np.array_equal(found[0], got) and found[1] == []


# -- ControlNets ----------------------------------------------------------------------------------


def test_each_controlnet_has_the_weight_that_was_asked_for():
    calls = {f"controlnet.{i:03}": {"output": X} for i in range(2)}

    def weights(*controls, **manifest):
        context = context_of(calls, params={"control": [*controls]}, **manifest)
        context = replace(context, controlnets=(SimpleNamespace(),) * len(controls))
        return [residuals._weight(context, e) for e in context.port.entries]

    assert weights({"weight": 0.5}, {}) == [0.5, 1.0]
    assert weights({}, {"weight": 0.25}) == [1.0, 0.25]
    assert weights({}, {}) == weights({"weight": 1.0}, {}) == [1.0, 1.0]
    assert weights({"weight": 0.5}, {"weight": 0.5}) == [0.5, 0.5]
    assert weights({"weight": 0.5, "end": 0.5}, {}) == [None, None]
    assert weights() == [1.0, 1.0]


def test_an_input_that_was_not_recorded_does_not_hide_the_others():
    text = normal(3, 1, 5, 32)
    network = {"input.sample": X, "input.timestep": np.array(7.0),
               "input.encoder_hidden_states": text}  # fmt: skip
    for missing in network:
        for of in ("controlnet.000", "unet.000"):
            calls = {"controlnet.000": dict(network), "unet.000": dict(network)}
            del calls[of][missing]
            context = context_of(calls)
            net, denoiser = (entry_of(context, call) for call in calls)
            kinds = {row.kind for row in controls._judge_net(context, net, denoiser)}
            assert kinds == {f"ControlNet's {x[6:]}" for x in network if x != missing}


# -- texts ----------------------------------------------------------------------------------------


def test_texts_of_a_denoiser_without_steps_are_judged_each(monkeypatch):
    arrays = PromptArrays(normal(0, 5, 32), None)
    monkeypatch.setattr(text_inputs, "known_prompts", lambda context: ["a"])
    monkeypatch.setattr(text_inputs, "arrays_of_prompts", lambda *values: arrays)
    right = arrays.states[None]
    calls = {
        "unet.000": {"input.sample": X},
        "unet.001": {"input.encoder_hidden_states": right},
        "unet.002": {"input.encoder_hidden_states": right[:, :4]},
        "unet.003": {"input.encoder_hidden_states": -right},
        "unet.004": {"input.encoder_hidden_states": np.concatenate([right, right])},
    }
    rows = [*text_inputs._judge_networks_alone(context_of(calls))]
    assert [(row.call, row.verdict) for row in rows] == [
        ("unet.001", "equal"), ("unet.003", "differs"), ("unet.004", "equal"),
    ]  # fmt: skip
    assert all(row.segment for row in rows)


def test_prompts_that_are_not_known_do_not_hide_the_others(monkeypatch):
    arrays = PromptArrays(normal(0, 5, 32), None)

    def found(context, request, prompts):
        if prompts[0] == "unknown":
            raise NotKnown("not recorded")
        return arrays

    monkeypatch.setattr(text_inputs, "known_prompts", lambda context: ["unknown", "a"])
    monkeypatch.setattr(text_inputs, "arrays_of_prompts", found)
    context = context_of({"unet.000": {"input.encoder_hidden_states": arrays.states[None]}})
    assert [row.verdict for row in text_inputs._judge_networks_alone(context)] == ["equal"]


@pytest.mark.parametrize("roles", [("cond",), ("uncond", "cond"), ("uncond",)])
def test_both_sides_of_a_request_are_known_where_one_is_read(roles, monkeypatch):
    asked = []

    def arrays_of_side(context, request, side, images, length):
        asked.append(side)
        return [side]

    monkeypatch.setattr(text_inputs, "arrays_of_side", arrays_of_side)
    context = context_of({"unet.000": {"input.sample": X}})
    found = text_inputs._expected(context, entry_of(context, "unet.000"), roles, 1, 5)
    assert found.sides == {side: [side] for side in ("cond", "uncond")}
    assert sorted(asked) == ["cond", "uncond"]


# -- rotary tables --------------------------------------------------------------------------------


def test_tables_of_angles_are_those_of_positions():
    positions = np.array([[0, 2, 5], [1, 0, 7], [3, 1, 0]], float)
    dims = (4, 6, 8)
    angles = np.repeat(find_angles(positions, dims, 10000.0), 2, axis=1)
    tables = dict(zip(TABLES, (np.cos(angles), np.sin(angles)), strict=True))

    def read(dims=dims, **arrays):
        found = {**tables, **arrays}
        named = {f"net.000/b/input.{k}": x for k, x in found.items() if x is not None}
        port = build_trace(named | {"net.000/b/input": X})
        return read_positions(port, port.find("net.000", "b"), dims)

    assert np.array_equal(read(), positions)
    cosines, sines = TABLES
    for role in TABLES:
        assert read(**{role: None}) is None
        first = np.arange(sum(dims)) == 0  # of the fastest frequency
        assert read(**{role: tables[role] + 0.016 * first}) is None
        assert np.array_equal(read(**{role: tables[role] + 0.015 * first}), positions)
        assert read(**{role: tables[role][:, :8]}) is None
    assert read(**{cosines: tables[cosines][None], sines: tables[sines][None]}) is None
    assert read(()) is None and read((4, 6, 6)) is None
    assert read(**{sines: -tables[sines]}) is not None  # which are negative positions


# -- pairs ----------------------------------------------------------------------------------------


def test_pairs_come_in_the_order_of_what_they_leave():
    """Compared with the length of d - d_i - d_j for every pair."""
    n = 9
    effects = normal(5, n, 40) * (1.0 + np.arange(n))[:, None]
    difference = effects[2] + effects[6] + 0.1 * normal(6, 40)
    left = [float(np.linalg.norm(difference - x)) for x in effects]
    tried = [Tried(Hypothesis(str(i)), left[i], effects[i]) for i in range(n)]
    nearest = int(np.argmin(left))

    def rest(pair):
        i, j = pair
        return float(np.linalg.norm(difference - effects[i] - effects[j]))

    with_nearest = sorted(((nearest, i) for i in range(n) if i != nearest), key=rest)
    others = sorted((p for p in combinations(range(n), 2) if nearest not in p), key=rest)
    found = [
        (int(a.hypothesis.text), int(b.hypothesis.text)) for a, b in likely_pairs(difference, tried)
    ]
    assert found == [*with_nearest, *others][: len(found)] and len(found) >= n - 1
    assert {2, 6} in map(set, found)
