"""Wires to ControlNets: every argument, in batches of several kinds."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, entry_of, normal

from ldmref.locate.pipeline import controls

SHAPE = (1, 4, 8, 8)
X, Y, Z = (normal(i, *SHAPE) for i in range(3))
NET, UNET = "controlnet.000", "unet.000"
VALUES = {
    "x": np.concatenate([X, Y]),
    "t": np.array([7.0, 8.0]),
    "context": normal(3, 2, 5, 6),
    "pooled": normal(4, 2, 7),
    "sizes": normal(5, 2, 6),
    "guidance": np.array([3.0, 4.0]),
    "img_ids": normal(6, 2, 3),
    "txt_ids": normal(7, 2, 3),
}


def why_of(context, role, call=NET):
    return context.coverage.reasons.get((entry_of(context, call).name, "input", role), "")


# -- a ControlNet is given what the denoiser is given ---------------------------------------------


def net_rows(argument, got, right, nets=()):
    """Return the rows of an argument of a ControlNet, and the context."""
    calls = {NET: {f"input.{argument}": got}, UNET: {f"input.{argument}": right}}
    context = replace(context_of(calls), controlnets=tuple(nets))
    net, network = (entry_of(context, call) for call in calls)
    rows = [*controls._judge_net(context, net, network)]
    assert context.coverage.has(net, argument) == bool(rows)
    return rows, context


@pytest.mark.parametrize("argument", VALUES)
def test_each_argument_of_a_controlnet_is_that_of_the_denoiser(argument):
    right = VALUES[argument]
    four = np.concatenate([-right, right])
    for got, whole, verdict in (
        (right, right, "equal"),
        (right[1:], right, "equal"),  # without the negative half
        (right, four, "equal"),
        (-right, four, "differs"),
        (right[:1], right, "differs"),
        (right[::-1], right, "differs"),
        (2.0 * right, right, "differs"),
    ):
        (row,), _ = net_rows(argument, got, whole)
        assert (row.call, row.verdict) == (NET, verdict)
        assert row.kind.startswith("ControlNet's ") and UNET in row.segment


@pytest.mark.parametrize("argument", VALUES)
@pytest.mark.parametrize("missing", [NET, UNET])
def test_arguments_that_one_side_lacks_are_passed_over(argument, missing):
    calls = {call: {f"input.{argument}": VALUES[argument]} for call in (NET, UNET)}
    calls[missing] = {"output": X}
    context = context_of(calls)
    assert [*controls._judge_net(context, *(entry_of(context, call) for call in calls))] == []
    assert not context.coverage.reasons and not context.coverage.judged


def test_arguments_of_other_names_are_not_compared():
    rows, context = net_rows("other", X, X)
    assert rows == [] and not context.coverage.reasons


def test_the_denoiser_may_read_further_channels():
    wide = np.concatenate([X, Z[:, :1], Y], axis=1)
    assert net_rows("x", X, wide)[0][0].verdict == "equal"
    assert net_rows("x", X, wide[:, ::-1])[0][0].verdict == "differs"
    both = np.concatenate([wide, wide[:, ::-1]])
    assert net_rows("x", wide[:, ::-1][:, :4], both)[0][0].verdict == "equal"


@pytest.mark.parametrize(
    ("argument", "got", "right"),
    [
        ("x", X, X[:, :3]),
        ("x", X[..., :4], X),
        ("x", X[0], X),
        ("context", VALUES["context"][:, :4], VALUES["context"]),
        ("context", VALUES["context"][:1], np.concatenate([VALUES["context"]] * 2)),
        ("context", VALUES["context"], VALUES["context"][:1]),
        ("pooled", VALUES["pooled"][:, :4], VALUES["pooled"]),
        ("x", X, np.concatenate([X, Y, Z])),
    ],
)
def test_arguments_of_another_shape_have_a_reason(argument, got, right):
    rows, context = net_rows(argument, got, right)
    assert rows == [] and "shape" in why_of(context, argument)


@pytest.mark.parametrize("shape", [(), (1,), (2,)])
@pytest.mark.parametrize("own", [(), (1,)])
def test_a_time_may_be_one_of_all_images(shape, own):
    for time, verdict in ((7.0, "equal"), (8.0, "differs")):
        (row,), _ = net_rows("t", np.full(own, time), np.full(shape, 7.0))
        assert row.verdict == verdict


def zeroing(*names):
    declared = SimpleNamespace(zeroed=lambda config: config)
    return SimpleNamespace(config=names, declared=declared)


def test_what_a_controlnet_replaces_by_zeros():
    right = VALUES["pooled"]
    for names, got, verdict in (
        (("pooled",), 0.0 * right, "equal"),
        (("pooled",), right, "equal"),
        (("pooled",), -right, "differs"),
        (("context",), 0.0 * right, "differs"),
        ((), 0.0 * right, "differs"),
        ((), right, "equal"),
    ):
        (row,), _ = net_rows("pooled", got, right, [zeroing(*names)])
        assert row.verdict == verdict
    # of a ControlNet that was not given it is not known, so a right run is not accused
    assert net_rows("pooled", 0.0 * right, right)[0] == []
    assert net_rows("pooled", 0.5 * right, right)[0][0].verdict == "differs"
    some = np.where(right > 0, right, 0.0)
    assert net_rows("pooled", some, some, [zeroing("pooled")])[0][0].verdict == "equal"


def test_a_controlnet_has_rows_for_its_image_and_its_kind():
    calls = {
        "control.000": {"output": Z},
        NET: {"input.x": X, "input.hint": Z, "input.mode": np.array([3.0])},
        UNET: {"input.x": X},
    }
    context = context_of(calls, params={"control": [{"mode": 3}]})
    rows = [*controls._judge_net(context, entry_of(context, NET), entry_of(context, UNET))]
    kinds = ["ControlNet's sample", "control image", "kind of control image"]
    assert [row.kind for row in rows] == kinds
    assert [row.verdict for row in rows] == ["equal"] * 3


# -- whole runs -----------------------------------------------------------------------------------


def test_each_step_has_the_rows_of_its_controlnets():
    """Layers of the networks, which were recorded too, are no calls of their own."""
    step = {"sampler.000": {"output": X}}
    residual = {"output.mid": Y}
    calls = {
        "controlnet.hint.000": {"input.image": Z, "output": Z},
        f"{NET}/conv_in": {"input": X, "output": X},
        NET: {"input.x": X, **residual},
        "controlnet_2.000": {"input.x": Y, **residual},
        f"{UNET}/conv_in": {"input": X, "output": X},
        UNET: {"input.x": X, "input.control.mid": 2.0 * Y},
        **step,
        "controlnet.001": {"input.x": Z, **residual},
        "unet.001": {"input.x": Z, "input.control.mid": 2.0 * Y},
    }
    context = context_of(calls)
    rows = [(x.call, x.kind, x.verdict) for x in controls.judge_controls(context)]
    own = "ControlNet's sample"
    assert rows == [
        (NET, own, "equal"),
        ("controlnet_2.000", own, "differs"),
        (UNET, "residuals", "equal"),
        ("controlnet.001", own, "equal"),
        ("unet.001", "residuals", "differs"),
    ]
    assert context.coverage.has(entry_of(context, "controlnet.hint.000"), "image")


def test_controlnets_between_calls_of_one_step_belong_to_the_later_call():
    names = [NET, UNET, "controlnet.001", "controlnet~2", "unet_other.000", "unet.001"]
    context = context_of({name: {"output": X} for name in names})
    entries = [*context.port.entries]
    found = controls._nets_before(context, entries, entry_of(context, "unet.001"))
    assert [x.call for x in found] == ["controlnet.001", "controlnet~2"]


@pytest.mark.parametrize(
    ("call", "known"),
    [
        ("controlnet.000", True),
        ("controlnet_2.000", True),
        ("controlnet_12.003", True),
        ("controlnet~1", True),
        ("controlnet.000~1", True),
        ("controlnet", False),
        ("controlnet.hints.000", False),
        ("my.controlnet.000", False),
        ("controlnet_a.000", False),
    ],
)
def test_the_names_of_calls_of_controlnets(call, known):
    context = context_of({call: {"input.sample": X}})
    assert [*controls.judge_controls(context)] == []
    assert context.coverage.has(entry_of(context, call), "sample") == known
