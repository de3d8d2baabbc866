"""Wires to ControlNets, decoders and classes, on runs built by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, entry_of, model_of, normal

from ldmref.locate.pipeline import controls, images
from ldmref.locate.pipeline.asked import judge_asked
from ldmref.locate.pipeline.coverage import Coverage, rows_of_rest
from ldmref.locate.pipeline.hints import judge_hint
from ldmref.locate.pipeline.schedule import judge_schedule
from ldmref.locate.preflight import missing_layers
from ldmref.locate.replay.networks import _CallSizes, _clip_skip, number_controlnet
from ldmref.locate.run.calls import ArrayName
from ldmref.models.declared import CallSize, NetworkInput
from ldmref.trace import build_trace

SHAPE = (1, 4, 8, 8)
X, Y, Z = (normal(i, *SHAPE) for i in range(3))


def verdicts(rows):
    return [(row.kind, row.verdict, row.cause) for row in rows]


# -- ControlNets and weaker models ----------------------------------------------------------------


def test_a_controlnet_is_given_what_the_denoiser_is():
    text = normal(3, 2, 5, 6)
    network = {
        "input.sample": np.concatenate([X, Y]),
        "input.timestep": np.array(7.0),
        "input.encoder_hidden_states": text,
    }

    def rows_of(**changes):
        calls = {"controlnet.000": {**network, **changes}, "unet.000": network}
        context = context_of(calls)
        net, denoiser = (entry_of(context, call) for call in calls)
        found = [*controls._judge_net(context, net, denoiser)]
        return {row.kind: row.verdict for row in found}, context

    kinds = {f"ControlNet's {x}" for x in ("sample", "timestep", "encoder_hidden_states")}
    assert rows_of()[0] == dict.fromkeys(kinds, "equal")
    wrong = {
        "input.sample": Z[[0, 0]],
        "input.timestep": np.array(8.0),
        "input.encoder_hidden_states": -text,
    }
    for role, x in wrong.items():
        found, _ = rows_of(**{role: x})
        assert found == dict.fromkeys(kinds, "equal") | {f"ControlNet's {role[6:]}": "differs"}
    positive = {"input.sample": Y, "input.encoder_hidden_states": text[1:]}
    assert set(rows_of(**positive)[0].values()) == {"equal"}
    negative = {"input.sample": X, "input.encoder_hidden_states": text[1:]}
    assert rows_of(**negative)[0]["ControlNet's sample"] == "differs"
    # One array of another shape does not keep the others from being compared.
    found, context = rows_of(**{"input.sample": X[..., :4]})
    assert found == dict.fromkeys(kinds - {"ControlNet's sample"}, "equal")
    assert not context.coverage.has(entry_of(context, "controlnet.000"), "sample")


def test_calls_of_controlnets_before_a_denoiser():
    arrays = {"output": X}
    names = ("controlnet.000", "unet.000", "sampler.000", "controlnet.001", "controlnet_2.000",
             "tokens.000", "unet.001")  # fmt: skip
    context = context_of(dict.fromkeys(names, arrays))
    entries = [*context.port.entries]

    def before(call):
        found = controls._nets_before(context, entries, entry_of(context, call))
        return [e.call for e in found]

    assert before("unet.000") == ["controlnet.000"]
    assert before("unet.001") == ["controlnet.001", "controlnet_2.000"]
    late = ("unet.000", "controlnet.000", "sampler.000", "controlnet.001", "unet.001")
    context = context_of(dict.fromkeys(late, arrays))
    entries = [*context.port.entries]
    assert before("unet.001") == ["controlnet.001"]  # the other belongs to the step before


@pytest.mark.parametrize(
    ("others", "given"),
    [
        (["unet.000", "sampler.000"], False),
        (["sampler.000"], True),
        (["unet.000"], True),
        ([], True),
    ],
)
def test_a_controlnet_alone_is_given_what_it_reads(others, given):
    """Only a run with its denoiser and its steps says what a ControlNet should be given."""
    calls = {"controlnet.000": {"input.sample": X}} | {x: {"output": X} for x in others}
    context = context_of(calls)
    assert [*controls.judge_controls(context)] == []
    assert context.coverage.has(entry_of(context, "controlnet.000"), "sample") == given


def test_the_number_of_a_controlnet():
    named = context_of({x: {"output": X} for x in ("controlnet.000", "controlnet_2.001")}).port
    assert [number_controlnet(named, call) for call in named.calls] == [0, 1]
    turns = context_of({x: {"output": X} for x in ("controlnet.000", "controlnet.001")}).port
    assert [number_controlnet(turns, call) for call in turns.calls] == [0, 1]


def test_layers_that_a_second_controlnet_does_not_have():
    tensors = {f"controlnet.000/{x}/output": np.zeros(1) for x in "ab"}
    tensors |= {"controlnet.001/a/output": np.zeros(1)}
    port = build_trace(tensors)
    lacks = ["controlnet.001 lacks 1 layer that controlnet.000 has: b"]
    assert [*missing_layers(port)] == [*missing_layers(port, 1)] == lacks
    assert [*missing_layers(port, 2)] == []


# -- guidance that is missing ---------------------------------------------------------------------


def missing(network=None, step=None, attributes=None, **request):
    calls = {
        "unet.000": {"output": X} | (network or {}),
        "sampler.000": {"input.model_output": X, "input.sample": Y} | (step or {}),
        "unet.001": {"output": X, "input.guidance": np.ones(1)},
        "sampler.001": {"input.model_output": X, "input.sample": Y},
    }
    marked = {"sampler.000": {"guided": True} if attributes is None else attributes}
    context = context_of(calls, attributes=marked, request=request)
    return [(row.call, row.note) for row in judge_asked(context)]


def test_guidance_that_was_asked_for_and_is_missing():
    note = [("sampler.000", "guidance scale 3 was asked for")]
    assert missing(guidance_scale=3.0) == note
    assert missing(guidance_scale=1.0) == missing() == []
    assert missing(guidance_scale=3.0, attributes={}) == []
    assert missing(guidance_scale=3.0, callback_on_step_end="f") == []
    assert missing({"input.guidance": np.ones(1)}, guidance_scale=3.0) == []
    assert missing({"output": np.concatenate([X, Y])}, guidance_scale=3.0) == []
    both = [(f"sampler.00{i}", "guidance scale 2 was asked for") for i in range(2)]
    assert missing(true_cfg_scale=2.0, negative_prompt="x") == both
    assert missing(true_cfg_scale=2.0) == missing(true_cfg_scale=1.0, negative_prompt="x") == []


# -- schedules ------------------------------------------------------------------------------------


def schedule_causes(change, model="tiny", **params):
    """Return the causes of recorded timesteps and sigmas that are changed."""
    wanted = {"steps": 5, "sampler": "euler"} | params
    made = context_of({"sampler.000": {"input.x": X}}, model, params=wanted).make_schedule()
    timesteps, sigmas = change(made.timesteps, made.sigmas)
    calls = {
        "schedule.000": {"output.timesteps": timesteps, "output.sigmas": sigmas},
        "sampler.000": {"input.x": X},
    }
    context = context_of(calls, model, params=wanted)
    return {row.kind: row.cause or row.verdict for row in judge_schedule(context)}


def test_recorded_schedules():
    equal = {"timesteps": "equal", "sigmas": "equal"}
    assert schedule_causes(lambda t, s: (t, s)) == equal
    causes = schedule_causes(lambda t, s: (t[::-1], s[:-1]))
    assert causes == {
        "timesteps": "the timesteps are in increasing order",
        "sigmas": "the last sigma is missing",
    }
    ended = schedule_causes(lambda t, s: (t, np.append(s[:-1], 0.5)))["sigmas"]
    assert ended.startswith("the last sigma is 0.5 instead of ")
    assert schedule_causes(lambda t, s: (t, s[:-2]))["sigmas"] != "the last sigma is missing"
    for spacing in ("linspace", "trailing", "karras", "exponential"):
        wanted = {"steps": 5, "sampler": "euler", "schedule": spacing}
        other = context_of({"sampler.000": {"input.x": X}}, params=wanted).make_schedule()
        own = "leading" if spacing != "leading" else "linspace"
        found = schedule_causes(lambda t, s, o=other: (o.timesteps, o.sigmas), schedule=own)
        assert found["sigmas"] == f"spacing {spacing}"


# -- images ---------------------------------------------------------------------------------------


def encoded(got, given=None, **more):
    calls = {} if given is None else {"inputs.000": {"input.image": given}}
    calls |= {"vae.encode.000": {"input.image": got}, **more}
    context = context_of(calls)
    rows = verdicts(images._judge_encoded_images(context))
    return rows, context.coverage.has(entry_of(context, "vae.encode.000"), "image")


def test_images_that_are_encoded():
    photo = np.linspace(0.05, 0.9, 48).reshape(1, 3, 4, 4) ** 2
    right = 2.0 * photo - 1.0
    assert encoded(right, photo) == ([("image", "equal", "")], True)
    assert encoded(right) == ([], True)  # the image itself is what was given
    assert encoded(right, photo[..., :2]) != ([], True)
    causes = {
        "pixels in [0, 1] instead of [-1, 1]": photo,
        "pixels from 0 to 255 instead of [-1, 1]": 255.0 * photo,
        "red and blue are exchanged": right[:, ::-1],
        "the image is inverted": -right,
    }
    for cause, got in causes.items():
        assert encoded(got, photo)[0] == [("image", "differs", cause)]
    other = {"inputs.000": {"input.prompt": np.zeros(1)}, "vae.encode.000": {"input.image": right}}
    context = context_of(other)
    assert not [*images._judge_encoded_images(context)]
    assert not context.coverage.has(entry_of(context, "vae.encode.000"), "image")


# -- what is given --------------------------------------------------------------------------------


def test_what_nothing_compared_is_a_row():
    context = context_of(
        {"sampler.000": {"input.x": X, "output": Y}, "unet.000": {"input.x": X, "output": Y}}
    )
    step, network = (entry_of(context, x) for x in ("sampler.000", "unet.000"))
    coverage = Coverage()
    x, output = ArrayName(step.name, "input", "x"), ArrayName(step.name, "output", "output")
    coverage.explain([x], "why")
    coverage.explain([x], "other")  # the first reason stands
    rows = [*rows_of_rest(context.port, coverage, [step], [network])]
    unknown = "nothing that was recorded says what it should be"
    assert [(row.call, row.note) for row in rows] == [
        ("sampler.000", "input.x not compared: why"),
        ("sampler.000", f"output not compared: {unknown}"),
        ("unet.000", f"input.x not compared: {unknown}"),
    ]
    coverage.note([x, output])
    assert [row.call for row in rows_of_rest(context.port, coverage, [step], [network])] == [
        "unet.000"
    ]


# -- arguments of networks ------------------------------------------------------------------------


def test_images_with_their_channels_last_are_turned():
    batch, height, width = (CallSize(x) for x in ("batch", "height", "width"))
    declared = NetworkInput("sample", "x", (batch, 4, height, width))
    network = SimpleNamespace(name="net", settings={})

    def read(x):
        found = SimpleNamespace(read=lambda *names: x, model=model_of("tiny"))
        sizes = _CallSizes(network, found)
        return sizes.read(declared), sizes.known

    right = normal(0, 2, 4, 6, 8)
    for x in (right, right.transpose(0, 2, 3, 1)):
        found, known = read(x)
        assert np.array_equal(found, right)
        assert known == {"batch": 2, "height": 6, "width": 8}
    both = normal(0, 1, 4, 6, 4)  # channels come first if they may
    assert np.array_equal(read(both)[0], both)
    other = normal(0, 1, 5, 6, 3)
    assert np.array_equal(read(other)[0], other)


@pytest.mark.parametrize("content", ["normal", "ids", "mask", "labels", "guidance", "timesteps"])
@pytest.mark.parametrize("optional", [False, True])
def test_inputs_that_were_not_recorded_are_missing_or_none(content, optional):
    declared = NetworkInput("a", "a", (CallSize("batch"), 4), content)
    found = SimpleNamespace(
        read=lambda *names: None,
        model=model_of("tiny"),
        missing=lambda shape: np.full(shape, np.nan),
        text_shape=lambda: (2, 7),
        length=lambda *layers: 3,
    )
    sizes = _CallSizes(SimpleNamespace(name="net", settings={}), found)
    sizes.known["batch"] = 2
    got = sizes.read(declared, optional=optional)
    if optional:
        assert got is None
    elif content == "mask":
        assert got.tolist() == [[1] * 4] * 2 and got.dtype == np.int64
    else:
        assert np.isnan(got).all() and got.shape == (2, 7 if content == "ids" else 4)


@pytest.mark.parametrize("optional", [False, True])
def test_inputs_that_were_recorded_are_read_whether_they_are_optional_or_not(optional):
    x = np.arange(8.0).reshape(2, 4)
    for content, dtype in (("normal", float), ("sizes", float), ("ids", np.int64)):
        declared = NetworkInput("a", "a", (CallSize("batch"), 4), content)
        found = SimpleNamespace(read=lambda *names: x, model=model_of("tiny"))
        got = _CallSizes(SimpleNamespace(name="net", settings={}), found).read(
            declared, optional=optional
        )
        assert np.array_equal(got, x) and got.dtype == dtype


@pytest.mark.parametrize(("value", "content", "right"), [
    ([3.0], "timesteps", [3.0, 3.0]), ([[1.0], [2.0]], "timesteps", [1.0, 2.0]),
    (5.0, "guidance", [5.0, 5.0]), ([1.0, 2.0, 3.0, 4.0], "guidance", [1.0, 2.0, 3.0, 4.0]),
])  # fmt: skip
def test_numbers_of_each_image_or_of_all(value, content, right):
    found = SimpleNamespace(read=lambda *names: np.asarray(value), model=model_of("tiny"))
    sizes = _CallSizes(SimpleNamespace(name="net", settings={}), found)
    sizes.known["batch"] = 2
    got = sizes.read(NetworkInput("t", "t", (CallSize("batch"),), content))
    assert got.tolist() == right and got.dtype == float


@pytest.mark.parametrize(
    ("asked", "recorded", "skip"),
    [
        (2, None, 2),
        (0, None, 0),
        (-1, None, 0),
        (5, None, 5),
        (6, None, 0),
        (2, 3, 3),
        (None, 1, 1),
    ],
)
def test_clip_skip_leaves_a_layer(asked, recorded, skip):
    attributes = {} if recorded is None else {"clip_skip": recorded}
    calls = {"text_encoder.000": {"input.ids": np.zeros((1, 3), int)}}
    port = context_of(
        calls, attributes={"text_encoder.000": attributes}, params={"clip_skip": asked}
    ).port
    assert _clip_skip(SimpleNamespace(port=port, call="text_encoder.000"), 6) == skip


def test_a_hint_of_no_known_controlnet_has_a_reason():
    controls_of_steps = [{"end": 0.5}, {"weight": 1.0}]
    calls = {"controlnet.000": {"input.hint": X}, "control.000": {"output": X}}
    context = context_of(calls, params={"control": controls_of_steps})
    net = entry_of(context, "controlnet.000")
    assert not [*judge_hint(context, net)]
    why = "which of several ControlNets it is of was not recorded"
    assert context.coverage.reasons[net.name, "input", "hint"] == why
    for whole in ({"start": 0, "end": 1}, {}):
        context = context_of(calls, params={"control": [whole, {}]})
        assert [*judge_hint(context, entry_of(context, "controlnet.000"))]
