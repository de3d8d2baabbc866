"""What a denoiser is given: right, wrong and incomplete runs that are built by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, entry_of, model_of, normal

from ldmref.locate.networks import _CallSizes
from ldmref.locate.pipeline import combination, inputs, prompt_arrays, wires
from ldmref.locate.pipeline.asked import judge_asked
from ldmref.locate.pipeline.prompt_arrays import NotKnown, NotRead
from ldmref.locate.pipeline.schedule import judge_schedule
from ldmref.models.declared import CallSize, NetworkInput

SHAPE = (1, 4, 8, 8)
X, Y, Z = (normal(i, *SHAPE) for i in range(3))


# -- latents --------------------------------------------------------------------------------------


def of_latents(got, state=X, sigma=3.0, **params):
    """Return the rows of the latents of one call, and why they were not compared."""
    network = {} if got is None else {"input.sample": got}
    step = {} if state is None else {"input.x": state}
    step |= {} if sigma is None else {"input.sigma": np.array(sigma)}
    calls = {"unet.000": {"output": X, **network}, "sampler.000": {"output": X, **step}}
    wanted = {"steps": 4, "sampler": "euler"} | params
    context = context_of(calls, params=wanted)
    (evaluation,) = context.evaluations
    rows = [*inputs._judge_latents(context, evaluation.networks[0], evaluation)]
    name = evaluation.networks[0].name
    return rows, context.ledger.reasons.get((name, "input", "sample"), "")


def test_latents_need_a_state_of_their_shape():
    scale = 1.0 / math.hypot(1.0, 3.0)
    rows, why = of_latents(scale * X)
    assert [row.verdict for row in rows] == ["equal"] and not why
    assert of_latents(None) == ([], "")
    assert of_latents(scale * X, None) == ([], "")
    both = np.concatenate([X, Y])
    for got, state in (
        (X[:, :3], X), (X[..., :7], X), (X[0], X), (np.concatenate([both, X]), both),
        (X, X[:, :, :4]), (X, X[0]),
    ):  # fmt: skip
        rows, why = of_latents(got, state)
        assert not rows
        assert why == f"shape {got.shape} does not follow from that of the state, {state.shape}"


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_batch_has_the_state_once_or_more(times):
    scale = 1.0 / math.hypot(1.0, 3.0)
    state = np.concatenate([X, Y])
    rows, _ = of_latents(scale * np.concatenate([state] * times), state)
    assert [row.verdict for row in rows] == ["equal"]
    turned = scale * np.concatenate([state[::-1]] * times)
    assert [row.verdict for row in of_latents(turned, state)[0]] == ["differs"]


# -- guidance -------------------------------------------------------------------------------------


def test_steps_that_were_not_recorded_are_left_out():
    """The steps are judged from the halves of the network's output, where both are there."""
    right, both = X + 2.0 * (Y - X), np.concatenate([X, Y])

    def steps_of(first, got):
        calls = {
            "unet.000": {"input.x": X} | ({} if first is None else {"output": first}),
            "sampler.000": {"input.x": X} | ({} if got is None else {"input.model_output": got}),
            "unet.001": {"output": both},
            "sampler.001": {"input.model_output": right},
        }
        context = context_of(calls, params={"cfg_scale": 2.0})
        return [(row.call, row.verdict) for row in combination._judge_steps(context)]

    judged = [(f"sampler.00{i}", "equal") for i in range(2)]
    assert steps_of(both, right) == judged
    for first, got in ((None, right), (both, None), (None, None), (X, right), (both, both)):
        assert steps_of(first, got) == judged[1:]


# -- schedules ------------------------------------------------------------------------------------


def test_what_a_list_of_levels_ends_with_is_said():
    wanted = {"steps": 5, "sampler": "euler"}
    made = context_of({"sampler.000": {"input.x": X}}, params=wanted).make_schedule()
    levels = made.sigmas.copy()
    levels[-1] = 0.25
    calls = {
        "schedule.000": {"output.timesteps": made.timesteps, "output.sigmas": levels},
        "sampler.000": {"input.x": X},
    }
    rows = {row.kind: row for row in judge_schedule(context_of(calls, params=wanted))}
    last = f"{made.sigmas[-1]:.4g}"
    assert rows["sigmas"].cause == f"the last sigma is 0.25 instead of {last}"
    assert rows["sigmas"].explained == 0.0 and rows["timesteps"].verdict == "equal"


# -- hidden states of a recorded encoder ----------------------------------------------------------


def test_the_recorded_row_of_tokens():
    """Calls without ids, without hidden states or with those of one token are not read."""
    ids, hidden = np.array([[1, 2, 3], [4, 5, 6]]), normal(0, 2, 3, 5)
    vectors = normal(1, 2, 5)
    calls = {
        "text_encoder": {"output": hidden + 1.0},
        "text_encoder~1": {"input.input_ids": ids},
        "text_encoder~2": {"input.input_ids": ids, "output": hidden[:, 0]},
        "text_encoder~3": {"input.input_ids": ids + 1, "output": hidden - 1.0},
        "text_encoder~4": {"input.input_ids": ids, "output": hidden[:1], "output.pooled": vectors},
        "text_encoder~5": {"input.ids": ids[:, None], "output": hidden},
    }
    context = context_of(calls)
    ones = np.ones(3, np.int64)
    found, vector = prompt_arrays._recorded_row(context, "text_encoder", ids[0], ones)
    assert np.array_equal(found, hidden[0]) and np.array_equal(vector, vectors[0])
    found, vector = prompt_arrays._recorded_row(context, "text_encoder", ids[1], ones)
    assert np.array_equal(found, hidden[1]) and vector is None
    with pytest.raises(NotKnown, match="were not recorded"):  # of a call that may have read them
        prompt_arrays._recorded_row(context, "text_encoder", ids[0, ::-1], ones)
    whole = context_of({name: calls[name] for name in [*calls][2:]})
    with pytest.raises(NotRead, match="no call of text_encoder read these tokens"):
        prompt_arrays._recorded_row(whole, "text_encoder", ids[0, ::-1], ones)
    assert entry_of(context, "text_encoder~5").outputs


def test_states_of_padding_in_front_are_moved_behind_the_tokens():
    hidden = normal(3, 1, 4, 5)
    ids = np.array([[0, 0, 7, 8]])
    context = context_of({"text_encoder": {"input.input_ids": ids, "output": hidden}})
    text, mask = np.array([7, 8, 0, 0]), np.array([1, 1, 0, 0])
    found, _ = prompt_arrays._recorded_row(context, "text_encoder", text, mask)
    assert np.array_equal(found, hidden[0, [2, 3, 0, 1]])
    assert prompt_arrays._reads(ids, text[None], mask[None])
    assert not prompt_arrays._reads(ids, text[None], np.ones((1, 4), int))


# -- sizes of a call ------------------------------------------------------------------------------

BATCH, TOKENS = CallSize("batch"), CallSize("tokens")


def sizes_of(arrays, length=0):
    """Return the sizes of a call that recorded these arrays, by role."""
    found = SimpleNamespace(
        read=lambda role, *also: arrays.get(role),
        model=model_of("tiny"),
        length=lambda *layers: length,
        batch_and_size=lambda levels: (5, 6, 7),
        missing=lambda shape: np.full(shape, np.nan),
        text_shape=lambda: (2, 9),
    )
    return _CallSizes(SimpleNamespace(name="", settings={}), found)


def test_arrays_that_were_not_recorded_have_the_sizes_of_the_others():
    states = NetworkInput("context", "states", (BATCH, TOKENS, 3))
    pooled = NetworkInput("pooled", "pooled", (BATCH, TOKENS, 2))
    both = sizes_of({"states": np.zeros((2, 7, 3))}, length=4)
    both.read(states)
    assert both.read(pooled).shape == (2, 7, 2)  # not the 4 of the layers
    alone = sizes_of({}, length=4)
    assert alone.read(pooled).shape == (1, 4, 2)
    assert np.isnan(alone.read(pooled)).all()


def test_whole_numbers_and_times_of_a_call():
    ids = NetworkInput("ids", "ids", (BATCH, TOKENS), "ids")
    mask = NetworkInput("mask", "mask", (BATCH, TOKENS), "mask")
    labels = NetworkInput("labels", "labels", (BATCH,), "labels")
    times = NetworkInput("t", "t", (CallSize("timesteps"),), "timesteps")
    scales = NetworkInput("guidance", "guidance", (BATCH,), "guidance")
    states = NetworkInput("context", "states", (BATCH, TOKENS, 3))
    arrays = {"states": np.zeros((2, 7, 3)), "t": np.array([[9.0]]), "labels": np.array([3.0, 4.0])}
    sizes = sizes_of(arrays)
    sizes.read(states)
    assert sizes.read(mask).tolist() == [[1] * 7] * 2  # what has no mask reads all tokens
    assert sizes.read(ids).shape == (2, 9)
    assert sizes.read(labels).dtype == np.int64 and sizes.read(labels).tolist() == [3, 4]
    assert sizes.read(times).tolist() == [9.0, 9.0]
    for given, read in (([5.0], [5.0, 5.0]), ([5.0, 6.0], [5.0, 6.0]), ([1.0] * 4, [1.0] * 4)):
        sizes = sizes_of({**arrays, "guidance": np.array(given)})
        sizes.read(states)
        assert sizes.read(scales).tolist() == read


# -- scales of guidance ---------------------------------------------------------------------------


def scale_rows(got, networks=1, **request):
    """Return the rows of the recorded scales of one guidance, and those that were compared."""
    calls = {f"unet.00{i}": {"input.sample": X, "output": X} for i in range(networks)}
    calls["guidance.000"] = {f"input.{role}": np.array(x) for role, x in got.items()}
    calls["guidance.000"] |= {"input.uncond": X, "input.cond": Y, "output": X}
    calls["sampler.000"] = {"input.model_output": X, "input.sample": X}
    context = context_of(calls, request=request)
    entry = entry_of(context, "guidance.000")
    rows = [row for row in judge_asked(context) if row.kind.startswith("guidance ")]
    marked = {role for role in got if context.ledger.has(entry, role)}
    return [(row.kind, row.verdict, row.cause or row.note) for row in rows], marked


def test_scales_are_those_that_were_asked_for():
    asked = {"guidance_scale": 4.0, "guidance_rescale": 0.5}
    assert scale_rows({"scale": 4.0, "rescale": 0.5}, **asked) == ([], {"scale", "rescale"})
    wrong = ("guidance scale", "differs", "3 instead of 4")
    assert scale_rows({"scale": 3.0, "rescale": 0.5}, **asked)[0] == [wrong]
    wrong = ("guidance rescale", "differs", "0.7 instead of 0.5")
    assert scale_rows({"scale": 4.0, "rescale": 0.7}, **asked)[0] == [wrong]
    assert scale_rows({"rescale": 0.0}, guidance_scale=4.0) == ([], {"rescale"})  # none by default
    assert scale_rows({"scale": 4.0}, guidance_scale=[4.0]) == ([], set())  # no number was asked
    for apart, rows in ((0.9e-6, 0), (1.1e-6, 1)):
        assert len(scale_rows({"scale": 4.0 * (1 + apart)}, **asked)[0]) == rows


def test_a_callback_may_change_a_scale():
    asked = {"guidance_scale": 4.0, "callback_on_step_end": "f"}
    note = "3 instead of 4; the callback of the run may have changed it"
    assert scale_rows({"scale": 3.0}, **asked) == (
        [("guidance scale", "not judged", note)],
        {"scale"},
    )
    for apart, rows in ((0.9e-6, 0), (-0.9e-6, 0), (1.1e-6, 1), (-1.1e-6, 1)):
        assert len(scale_rows({"scale": 4.0 * (1 + apart)}, **asked)[0]) == rows


def test_pipelines_with_two_scales_combine_two_calls_by_the_second():
    asked = {"guidance_scale": 4.0, "true_cfg_scale": 2.0}
    assert scale_rows({"scale": 2.0}, networks=2, **asked) == ([], {"scale"})
    assert scale_rows({"scale": 4.0}, networks=1, **asked) == ([], {"scale"})
    wrong = [("guidance scale", "differs", "4 instead of 2")]
    assert scale_rows({"scale": 4.0}, networks=2, **asked)[0] == wrong
    assert scale_rows({"scale": 4.0}, networks=2, guidance_scale=4.0) == ([], {"scale"})
    skipped = {"scale": 4.0, "skipped": 0.0}
    assert scale_rows(skipped, networks=2, **asked)[0] == []


# -- wires between steps --------------------------------------------------------------------------


def continues(first, second, attributes=({}, {}), number=1, jump=None):
    """Return whether a step is said to begin where the one before it ended."""
    names = ("sampler.000", f"sampler.{number:03}")
    calls = {names[0]: {"output": X} | first, names[1]: {"output": X} | second}
    calls |= {} if jump is None else {"jump.000": {"output": jump}}
    context = context_of(calls, attributes=dict(zip(names, attributes, strict=True)))
    return wires._continues(context, *(entry_of(context, name) for name in names))


def test_which_step_continues_another():
    assert continues({}, {})
    assert not continues({}, {}, number=2)  # a step between them was not recorded
    for following, right in ((1, True), (2, False), (0, False)):
        assert continues({}, {}, ({"i": 0, "i_next": 1}, {"i": following})) == right
    numbered = ({"i": 0, "i_next": 1}, {"i": 1})
    assert continues({}, {"input.x": X}, numbered, jump=Y)
    assert not continues({}, {"input.x": X}, numbered, jump=X)  # it begins after a jump
    times = {"input.timestep": np.array(500.0)}
    for later, right in ((499.0, True), (500.0, True), (501.0, False)):
        after = {"input.timestep": np.array(later)}
        assert continues(times, after) == right
        one = ({"i_next": 7}, {"timestep": 0})  # without the number of the other step
        assert continues(times, after, one) == right
        assert continues(times, after, ({}, {"i": 7})) == right
    level = {"input.sigma_next": np.array(2.0)}
    for start, right in ((2.0 * (1 - 0.9e-3), True), (2.0 * (1 - 1.1e-3), False), (2.0021, False)):
        assert continues(level, {"input.sigma": np.array(start)}) == right
    assert continues({"input.sigma_next": np.array(2.0)}, {})
    assert continues({}, {"input.sigma": np.array(2.0)})


def scaled_input(got, output, sample, times=(9.0, 9.0), state=X, between=()):
    """Return the rows of a recorded scaling of the input, and what of it was compared."""
    calls = {
        "scale_input.000": {
            "input.sample": got, "input.timestep": np.array(times[0]), "output": output,
        },
        **{name: {"output": X} for name in between},
        "unet.000": {"input.sample": sample, "output": X},
        "sampler.000": {"input.x": state, "input.timestep": np.array(times[1])},
    }  # fmt: skip
    context = context_of(calls)
    (evaluation,) = context.evaluations
    entry = entry_of(context, "scale_input.000")
    rows = [*inputs._judge_scaling(context, evaluation.networks[0], evaluation)]
    compared = {role for role in ("sample", "timestep") if context.ledger.has(entry, role)}
    compared |= {"output"} if context.ledger.has(entry, "output", "output") else set()
    return {row.kind: (row.verdict, row.segment) for row in rows}, compared


def test_a_recorded_scaling_is_between_the_state_and_the_network():
    right = {
        "state": ("equal", "from the state to scale_input.000"),
        "latents": ("equal", "from scale_input.000 to unet.000"),
        "timestep": ("equal", ""),
    }
    every = {"sample", "timestep", "output"}
    twice = np.concatenate([X, X])
    assert scaled_input(X, Y, Y) == (right, every)
    assert scaled_input(twice, np.concatenate([Y, Z]), np.concatenate([Y, Z])) == (right, every)
    assert scaled_input(X, Y, np.concatenate([Y, Y])) == (right, every)
    more = np.concatenate([Y, Z], axis=1)  # with further channels
    assert scaled_input(X, Y, more) == (right, every)
    for kind, arrays in {
        "state": (Z, Y, Y), "latents": (X, Y, Z), "timestep": (X, Y, Y, (9.0, 10.0)),
    }.items():  # fmt: skip
        rows, compared = scaled_input(*arrays)
        assert compared == every
        assert {name for name, row in rows.items() if row[0] != "equal"} == {kind}
    rows, compared = scaled_input(X, Y, Y[..., :7])
    assert set(rows) == {"state", "timestep"} and "output" not in compared
    rows, compared = scaled_input(X, twice, np.concatenate([Y, Y, Y]))
    assert set(rows) == {"state", "timestep"} and "output" not in compared
    for got in (X[:, :3], np.concatenate([X, X, X])):
        assert scaled_input(got, Y, Y, state=twice if len(got) > 1 else X) == ({}, set())


def test_a_scaling_before_another_step_belongs_to_that():
    assert scaled_input(X, Y, Y, between=["add_noise.000"])[0]
    assert scaled_input(X, Y, Y, between=["sampler.007"])[0] == {}


# -- flow maps ------------------------------------------------------------------------------------


class FlowMap:
    """A model of a flow whose denoiser also reads the time to which its step leads."""

    def __init__(self):
        self.own = model_of("sd3-tiny")
        ends = NetworkInput("end", "timestep_end", (BATCH,), "ends", also=("r",))
        inputs_ = (*self.own.denoiser.inputs, ends)
        self.denoiser = replace(self.own.denoiser, inputs=inputs_)

    def __getattr__(self, name):
        return getattr(self.own, name)


def end_of_step(got, number=0, model=None, step=None, role="timestep_end", **params):
    """Return the row of the time to which a step leads, and why it was not compared."""
    wanted = {"steps": 4, "sampler": "euler"} | params
    made = context_of({"sampler.000": {"input.x": X}}, "sd3-tiny", params=wanted).make_schedule()
    times = [*made.timesteps, 0.0]
    arrays = {} if got is None else {f"input.{role}": np.full(2, got(times, number))}
    own = {"input.timestep": np.array(times[number])} if step is None else step(made, number)
    calls = {
        "transformer.000": {"input.sample": X, **arrays},
        "sampler.000": {"input.x": X, **own},
    }
    context = replace(context_of(calls, "sd3-tiny", params=wanted), model=model or FlowMap())
    (evaluation,) = context.evaluations
    network = evaluation.networks[0]
    rows = [*inputs._judge_end(context, network, evaluation)]
    why = context.ledger.reasons.get((network.name, "input", "timestep_end"), "")
    assert bool(rows) == context.ledger.has(network, role)
    return rows[0] if rows else None, why


@pytest.mark.parametrize("number", range(4))
def test_the_time_to_which_a_step_leads(number):
    words = "the time to which the step leads is "
    causes = {
        "": lambda t, i: t[i + 1],
        words + "its own": lambda t, i: t[i],
        words + "scaled by 1000": lambda t, i: 1000.0 * t[i + 1],
        words + "scaled by 1/1000": lambda t, i: t[i + 1] / 1000.0,
    }
    if number < 3:  # which leads to 0
        causes[words + "the last one, 0"] = lambda t, i: 0.0
        causes[words + f"that of step {3 - number}"] = lambda t, i: t[3 - i]
    for cause, got in causes.items():
        if number == 3 and "scaled" in cause:
            continue
        if cause.endswith(("step 1", "step 2")) and 3 - number in (number, number + 1):
            continue
        row, _ = end_of_step(got, number)
        assert (row.kind, row.cause) == ("end of the step", cause)
        assert row.verdict == ("differs" if cause else "equal")
        assert row.segment == "from the sampler to the second time of the denoiser"


def test_the_time_to_which_a_later_step_leads():
    row, _ = end_of_step(lambda t, i: t[i + 2], 1)
    assert row.verdict == "differs" and row.cause.endswith("step 3")


def test_times_of_steps_may_follow_from_levels_or_be_unknown():
    def right(times, i):
        return times[i + 1]

    by_level = end_of_step(right, 1, step=lambda made, i: {"input.sigma": np.array(made.sigmas[i])})
    assert by_level[0].verdict == "equal"
    assert end_of_step(right, 1, role="r")[0].verdict == "equal"
    for apart, verdict in ((0.9e-5, "equal"), (1.1e-5, "differs")):
        row, _ = end_of_step(lambda t, i, by=apart: t[i + 1] * (1.0 + by), 1)
        assert row.verdict == verdict
    why = "the time of its step was not recorded, or its schedule or sampler is another one"
    assert end_of_step(right, 1, step=lambda made, i: {}) == (None, why)
    assert end_of_step(right, 1, sampler="heun") == (None, why)
    assert end_of_step(None, 1) == (None, why)
    assert end_of_step(right, 1, model=model_of("sd3-tiny")) == (None, "")


# -- the scale of guidance that a network reads ---------------------------------------------------


def test_the_scale_of_each_call_that_reads_one_is_judged_once():
    """Calls without it, and calls with the same one, do not end the list."""
    scales = [None, 2.0, 2.0, 3.0]
    calls = {
        f"transformer.{i:03}": {"input.sample": X}
        | ({} if x is None else {"input.guidance": np.array([x])})
        for i, x in enumerate(scales)
    }
    context = context_of(calls, "flux-tiny", params={"cfg_scale": 2.0})
    networks = context.calls("transformer")
    rows = [(row.call, row.verdict) for row in inputs._judge_scales(context, networks)]
    assert rows == [("transformer.001", "equal"), ("transformer.003", "differs")]
    marked = [context.ledger.has(network, "guidance") for network in networks]
    assert marked == [False, True, True, True]
    unasked = context_of(calls, "flux-tiny")
    assert [*inputs._judge_scales(unasked, unasked.calls("transformer"))] == []
    reasons = {name.rstrip("/") for name, _, role in unasked.ledger.reasons if role == "guidance"}
    assert reasons == {"transformer.001", "transformer.002", "transformer.003"}


def test_states_that_are_scaled_already_have_no_factor(monkeypatch):
    """The network of eps reads x / sqrt(1 + sigma^2); states of diffusers' DDIM are these."""
    found = []
    for on_path in (True, False):
        monkeypatch.setattr(inputs.PipelineContext, "states_on_path", on_path)
        step = {"input.x": X, "input.sigma": np.array(3.0)}
        context = context_of({"unet.000": {"input.sample": X}, "sampler.000": step})
        (evaluation,) = context.evaluations
        found.append(inputs._scales_of(context, evaluation)[0])
    assert found == [pytest.approx(1.0 / math.sqrt(10.0)), 1.0]
