"""Residuals of ControlNets: their weights, their places, and those that are missing."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from host_units import context_of, entry_of, normal

from ldmref.locate.pipeline import residuals

X, Y, Z = (normal(i, 1, 4, 2, 2) for i in range(3))
STEP = {"sampler.000": {"input.model_output": np.zeros(1)}}  # of a scheduler of diffusers


class Parts(NamedTuple):
    """Residuals of a family: one that is always there, and further ones of one kind."""

    mid: Any
    blocks: tuple[Any, ...] = ()
    last: tuple[Any, ...] = ()


def model_with(place=lambda config, net, parts: parts, declared=True):
    control = SimpleNamespace(residuals=Parts, place=place) if declared else None
    return SimpleNamespace(family=SimpleNamespace(control=control), config="the model's")


def run_of(nets, got, model=None, controlnets=(), diffusers=False, **manifest):
    """Return the rows of the residuals of one call of the denoiser, and the context."""
    calls: dict[str, Any] = {
        f"controlnet.{i:03}": {f"output.{k}": x for k, x in net.items()}
        for i, net in enumerate(nets)
    }
    calls["unet.000"] = {"input.sample": X} | {f"input.control.{k}": x for k, x in got.items()}
    calls |= STEP if diffusers else {}
    context = context_of(calls, **manifest)
    network = entry_of(context, "unet.000")
    context = replace(context, controlnets=controlnets, model=model or context.model)
    of = [entry_of(context, f"controlnet.{i:03}") for i in range(len(nets))]
    rows = [*residuals.judge_residuals(context, network, of)]
    seen = {role for role in got if context.ledger.has(network, f"control.{role}")}
    assert seen == ({*got} - {*reasons(context)} if rows else set())
    return rows, context


def reasons(context):
    return {role.removeprefix("control."): x for (*_, role), x in context.ledger.reasons.items()}


def test_residuals_have_one_row_of_all():
    parts = {"mid": X, "down.0": Y, "down.1": Z}
    (row,), _ = run_of([parts], parts)
    assert (row.call, row.kind, row.verdict) == ("unet.000", "residuals", "equal")
    assert "ControlNets" in row.segment
    for name in parts:
        (row,), _ = run_of([parts], {**parts, name: 1.5 * parts[name]})
        assert row.verdict == "differs"
    nothing = {name: 0.0 * x for name, x in parts.items()}
    (row,), _ = run_of([parts], nothing)
    assert row.verdict == "differs" and "not added" in row.cause


def test_a_denoiser_without_residuals_has_no_row():
    rows, context = run_of([{"mid": X}], {})
    assert rows == [] and not context.ledger.reasons


@pytest.mark.parametrize(
    ("asked", "diffusers", "right"),
    [
        ([{"weight": 0.5}, {"weight": 2.0}], False, 0.5 * X + 2.0 * Y),
        ([{"weight": 0.5}, {"weight": 2.0}], True, X + Y),
        ([{"weight": 0.5}, {"weight": 0.5}], False, 0.5 * X + 0.5 * Y),
        ([{}, {"weight": 3}], False, X + 3.0 * Y),
        ([{}, {}], False, X + Y),
        ([], False, X + Y),
    ],
)
def test_outputs_of_controlnets_are_weighed_as_was_asked(asked, diffusers, right):
    nets = [{"mid": X}, {"mid": Y}]
    for got, verdict in ((right, "equal"), (right + Z, "differs")):
        (row,), _ = run_of(nets, {"mid": got}, diffusers=diffusers, params={"control": asked})
        assert row.verdict == verdict


def test_a_single_weight_needs_no_number():
    asked = [{"weight": 0.5, "end": 0.5}, {"weight": 0.5}]
    (row,), _ = run_of([{"mid": X}], {"mid": 0.5 * X}, params={"control": asked})
    assert row.verdict == "equal"
    asked[0]["weight"] = 1.0
    rows, context = run_of([{"mid": X}], {"mid": X}, params={"control": asked})
    assert rows == [] and "weights" in reasons(context)["mid"]


@pytest.mark.parametrize(
    ("length", "got", "verdict"),
    [
        (1, np.concatenate([0 * X, X]), "equal"),
        (1, np.concatenate([X, 0 * X]), "differs"),
        (1, X, "equal"),
        (2, np.concatenate([X, Y]), "equal"),
        (2, np.concatenate([0 * X, 0 * X, X, Y]), "equal"),
        (2, np.concatenate([0 * X, X, 0 * X, Y]), "differs"),
    ],
)
def test_residuals_of_the_positive_half_alone(length, got, verdict):
    output = np.concatenate([X, Y])[:length]
    (row,), _ = run_of([{"mid": output}], {"mid": got})
    assert row.verdict == verdict


# -- places ---------------------------------------------------------------------------------------


def test_residuals_are_placed_as_their_family_says():
    asked = []

    def place(config, net, parts):
        asked.append((config, net, len(parts.blocks)))
        return parts._replace(blocks=tuple(2.0 * x for x in parts.blocks for _ in range(2)))

    net = SimpleNamespace(config="the net's")
    output = {"mid": X, "blocks.0": Y, "blocks.1": Z}
    got = {"mid": X, "blocks.0": 2 * Y, "blocks.1": 2 * Y, "blocks.2": 2 * Z, "blocks.3": 2 * Z}
    for nets in ((net,), ()):
        (row,), _ = run_of([output], got, model_with(place), nets)
        assert row.verdict == "equal"
        (row,), _ = run_of([output], {**got, "blocks.3": Z}, model_with(place), nets)
        assert row.verdict == "differs"
    assert asked == [("the model's", "the net's", 2)] * 2 + [("the model's", None, 2)] * 2


def test_residuals_that_have_all_places_are_not_placed_again():
    def place(config, net, parts):
        raise AssertionError

    output = {"mid": X, "blocks.0": Y, "blocks.1": Z}
    (row,), _ = run_of([output], output, model_with(place))
    assert row.verdict == "equal"
    (row,), _ = run_of([output], {"blocks.1": Z}, model_with(place))
    assert row.verdict == "equal"


@pytest.mark.parametrize(
    ("output", "declared", "is_placed"),
    [
        ({"mid": X, "blocks.0": Y}, True, True),
        ({"mid": X}, True, True),
        ({"mid": X, "last.0": Z}, True, True),
        ({"blocks.0": Y}, True, False),  # without the one that is always there
        ({"mid": X, "other.0": Y}, True, False),
        ({"mid": X, "blocks.0": Y}, False, False),
    ],
)
def test_outputs_that_are_not_those_of_the_family_stay_as_they_are(output, declared, is_placed):
    def place(config, net, parts):
        return Parts(Z, (X, Y))

    context = context_of({"controlnet.000": {"output.mid": X}})
    context = replace(context, model=model_with(place, declared))
    net = entry_of(context, "controlnet.000")
    found = residuals._placed(context, net, output)
    right = {"mid": Z, "blocks.0": X, "blocks.1": Y} if is_placed else output
    assert found.keys() == right.keys()
    assert all(found[name] is x for name, x in right.items())


def test_a_residual_with_a_number_is_one_of_several():
    found = []

    def place(config, net, parts):
        found.append(parts)
        return parts

    context = context_of({"controlnet.000": {"output.mid": X}})
    context = replace(context, model=model_with(place))
    output = {"blocks.0": Y, "blocks.1": Z, "mid": X, "last.0": X}
    residuals._placed(context, entry_of(context, "controlnet.000"), output)
    (parts,) = found
    assert parts.mid is X and parts.last == (X,)
    assert parts.blocks[0] is Y and parts.blocks[1] is Z and len(parts.blocks) == 2


# -- residuals that are missing -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "term", "declared", "lacks"),
    [
        ("mid", {"mid": X}, True, False),
        ("mid", {"blocks.0": X}, True, True),  # which is always there
        ("mid", {"blocks.0": X}, False, False),
        ("mid", {}, False, True),
        ("blocks.1", {"blocks.0": X, "mid": X}, True, True),
        ("blocks.1", {"mid": X}, True, False),  # a ControlNet without residuals of that kind
        ("blocks.1", {"mid": X, "blocks.1": X}, True, False),
        ("last.0", {"mid": X}, True, False),
        ("last.0", {}, True, True),
        ("other.0", {"mid": X, "other.1": X}, True, True),
        ("other.0", {"mid": X, "others.1": X}, True, False),
    ],
)
def test_which_residuals_a_controlnet_lacks(name, term, declared, lacks):
    context = SimpleNamespace(model=model_with(declared=declared))
    assert residuals._lacks(context, term, name) == lacks


def test_outputs_with_a_gap_are_no_residuals():
    rows, context = run_of([{"mid": X, "down.1": Y}], {"mid": X}, model_with())
    assert rows == [] and [*reasons(context)] == ["mid"]
    context = context_of({"controlnet.000": {"output.mid": X, "output.down.1": Y}})
    net = entry_of(context, "controlnet.000")
    assert residuals._added_by(context, net, ["mid"]) == {}


@pytest.mark.parametrize(
    ("names", "gaps"),
    [
        (["blocks.0", "blocks.2", "blocks.1"], False),
        (["blocks.1", "blocks.2"], True),
        (["blocks.0", "blocks.0.1"], False),
        (["blocks.a", "blocks.0"], False),
        (["mid"], False),
        (["a.0", "b.0", "b.1", "a.1"], False),
        (["a.0", "b.0", "b.1", "a.2"], True),
    ],
)
def test_numbers_of_residuals_without_a_gap(names, gaps):
    assert residuals._has_gaps(dict.fromkeys(names, X)) == gaps


def test_residuals_that_one_of_two_controlnets_returns():
    """Those that the other does not have are compared, those that it has lost are not."""
    first, second = {"mid": X, "blocks.0": Y}, {"mid": Z}
    got = {"mid": X + Z, "blocks.0": Y}
    (row,), context = run_of([first, second], got, model_with())
    assert row.verdict == "equal" and not context.ledger.reasons
    rows, context = run_of([first, {"blocks.0": Z}], {"mid": X}, model_with())
    assert rows == [] and "not recorded" in reasons(context)["mid"]
    rows, context = run_of([first, {"mid": Z[..., :1]}], got, model_with())
    assert [row.verdict for row in rows] == ["equal"] and [*reasons(context)] == ["mid"]


def test_arrays_that_were_not_stored_are_explained():
    """Roles of the denoiser whose arrays no ControlNet returns do not hide the others."""
    got = {"other": Y, "mid": X}
    (row,), context = run_of([{"mid": X}], got, model_with())
    assert row.verdict == "equal" and [*reasons(context)] == ["other"]
    rows, context = run_of([], {"mid": X}, model_with())
    assert rows == [] and [*reasons(context)] == ["mid"]
