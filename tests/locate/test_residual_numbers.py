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
    seen = {role for role in got if context.coverage.has(network, f"control.{role}")}
    assert seen == ({*got} - {*reasons(context)} if rows else set())
    return rows, context


def reasons(context):
    return {role.removeprefix("control."): x for (*_, role), x in context.coverage.reasons.items()}


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


def test_residuals_that_one_of_two_controlnets_returns():
    """Those that the other does not have are compared, those that it has lost are not."""
    first, second = {"mid": X, "blocks.0": Y}, {"mid": Z}
    got = {"mid": X + Z, "blocks.0": Y}
    (row,), context = run_of([first, second], got, model_with())
    assert row.verdict == "equal" and not context.coverage.reasons
    rows, context = run_of([first, {"blocks.0": Z}], {"mid": X}, model_with())
    assert rows == [] and "not recorded" in reasons(context)["mid"]
    rows, context = run_of([first, {"mid": Z[..., :1]}], got, model_with())
    assert [row.verdict for row in rows] == ["equal"] and [*reasons(context)] == ["mid"]
