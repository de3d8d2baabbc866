"""The hints of ControlNets and the kinds of their images, on runs that are built by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, entry_of, normal

from ldmref.locate.pipeline import hints

X, Y, Z = (normal(i, 1, 3, 4, 4) for i in range(3))
NET = "controlnet.000"
STEP = {"sampler.000": {"input.model_output": np.zeros(1)}}  # of a scheduler of diffusers


def moved(x, by):
    """Return an array of which one number is wrong, by a share of the largest."""
    found = x.copy()
    found.flat[5] += by * np.abs(x).max()
    return found


def why_of(context, role, call=NET):
    return context.coverage.reasons.get((entry_of(context, call).name, "input", role), "")


# -- which ControlNet -----------------------------------------------------------------------------


def numbers_of(*names, nets=0, **params):
    context = context_of({name: {"output": X} for name in names}, params=params)
    context = replace(context, controlnets=(SimpleNamespace(),) * nets)
    return [hints.number_of(context, entry) for entry in context.port.entries]


@pytest.mark.parametrize(
    ("asked", "known"),
    [
        ([{}, {}], True),
        ([{"start": 0, "end": 1}, {"start": 0.0, "end": 1.0}], True),
        ([{"start": 0.1}, {}], False),
        ([{}, {"start": 0.1}], False),
        ([{"end": 0.9}, {}], False),
        ([{}, {"start": 0.0, "end": 0.9}], False),
        ([{"start": 0.1, "end": 0.9}], True),  # a single one
    ],
)
def test_controlnets_that_act_in_a_part_of_the_steps_are_not_in_turn(asked, known):
    found = numbers_of(NET, "controlnet.001", control=asked)
    right = [0, 1 % len(asked)]
    assert found == (right if known else [None, None])


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["controlnet.000", "controlnet_2.000", "controlnet_3.000"], [0, 1, 2]),
        (["controlnet_1.000", "controlnet_2.000"], [0, 1]),
        (["controlnet_3.000", "controlnet_4.000"], [0, 0]),
        (["controlnet.003"], [0]),
    ],
)
def test_controlnets_that_have_names(names, numbers):
    assert numbers_of(*names) == numbers


# -- the control image ----------------------------------------------------------------------------


def hint_of(got, *prepared, role="controlnet_cond", net=NET, kind="control", **more):
    """Return the rows of the hint of a ControlNet, and the context."""
    calls = {f"{kind}.{i:03}": {"output": x} for i, x in enumerate(prepared)}
    calls |= {NET: {"output": X}, "controlnet.001": {"output": X}}
    calls[net] = {f"input.{role}": got}
    context = context_of(calls, params={"control": [{}] * max(len(prepared), 1)} | more)
    return [*hints.judge_hint(context, entry_of(context, net))], context


def test_hints_of_batches():
    two = np.concatenate([X, Y])
    for got, prepared, verdict in (
        (np.concatenate([X, X]), X, "equal"),
        (np.concatenate([two, two]), two, "equal"),
        (two, two, "equal"),
        (two[::-1], two, "differs"),
        (X, two, "equal"),  # of the positive half alone
        (Y, two, "differs"),
        (two, np.concatenate([two, two]), "equal"),
        (np.concatenate([two, X]), two, "differs"),
    ):
        (row,), _ = hint_of(got, prepared)
        assert row.verdict == verdict


@pytest.mark.parametrize(("by", "verdict"), [(0.9e-5, "equal"), (1.1e-5, "differs")])
def test_a_hint_may_round(by, verdict):
    (row,), _ = hint_of(moved(X, by), X)
    assert (row.verdict, row.allowed) == (verdict, 1e-5)


def test_a_hint_that_is_prepared_once_is_in_another_part_of_the_trace():
    calls = {"controlnet.hint.000": {"output": X}, NET: {"input.hint": X}}
    for more, judged in (({}, 1), (STEP, 0)):
        context = context_of(calls | more)
        whole = context.port
        part = replace(whole, entries=whole.entries[1:])
        net = entry_of(context, NET)
        assert [*hints.judge_hint(replace(context, port=part), net)] == []
        within = replace(context, port=part, whole=whole)
        assert len([*hints.judge_hint(within, net)]) == judged
        assert len([*hints.judge_hint(context, net)]) == 1


# -- latents of the control image -----------------------------------------------------------------

MODEL = "sd3-tiny"
MEANS = [normal(10 + i, 2, 16, 8, 8) for i in range(2)]


def net_of(change=lambda x: x, draws=False):
    declared = SimpleNamespace(make_hint=lambda config, vae, x: config * change(x))
    declared.draws_hint = draws
    return SimpleNamespace(config=1.0, declared=declared)


NETS = (net_of(),)


def latents_of(
    got, nets=NETS, means=MEANS[:1], logvar=None, net=NET, drawn=False, asked=None, **params
):
    """Return the row of a hint that is made of latents, and the context."""
    calls, of = {}, {}
    for i, mean in enumerate(means):
        if drawn:
            calls[f"posterior.{i:03}"] = {"output": mean}
            of[f"posterior.{i:03}"] = {"for": "prepare_image"}
        else:
            spread = {} if logvar is None else {"output.logvar": logvar}
            calls[f"vae.encode.{i:03}"] = {"output.mean": mean} | spread
    calls[net] = {"input.hint": got}
    params |= {"control": [{}] * len(means) if asked is None else asked}
    context = context_of(calls, MODEL, attributes=of, params=params)
    context = replace(context, controlnets=tuple(nets))
    rows = [*hints.judge_hint(context, entry_of(context, net))]
    assert context.coverage.has(entry_of(context, net), "hint") == bool(rows)
    return rows[0] if rows else None, context


def normalized(z):
    vae = context_of({}, MODEL).model.config.vae
    return (z - vae.shift_factor) * vae.scaling_factor


LATENTS = [normalized(z) for z in MEANS]


@pytest.mark.parametrize("drawn", [True, False])
def test_a_hint_may_be_the_latents_of_the_image(drawn):
    row, _ = latents_of(LATENTS[0], drawn=drawn)
    assert (row.call, row.verdict, row.kind) == (NET, "equal", "control image")
    assert row.segment.endswith(NET)
    row, _ = latents_of(np.concatenate([LATENTS[0]] * 2), drawn=drawn)
    assert row.verdict == "equal"
    row, _ = latents_of(LATENTS[1], drawn=drawn)
    assert row.verdict == "differs"


@pytest.mark.parametrize(("by", "verdict"), [(0.9e-5, "equal"), (1.1e-5, "differs")])
def test_latents_of_a_hint_may_round(by, verdict):
    row, _ = latents_of(moved(LATENTS[0], by))
    assert (row.verdict, row.allowed) == (verdict, 1e-5)


# -- latents that are drawn -----------------------------------------------------------------------


def standard(shape):
    """Return numbers of mean 0 and mean square 1."""
    z = normal(20, *shape)
    z -= z.mean()
    return z / np.sqrt(np.mean(z * z))


LOG = math.log(0.25)


def drawn_row(noise, logvar=LOG, spread=0.5, draws=True, rng="torch"):
    scale = context_of({}, MODEL).model.config.vae.scaling_factor
    got = LATENTS[0] + noise * scale * spread
    logvar = None if logvar is None else np.full(MEANS[0].shape, logvar)
    nets = (net_of(draws=draws),)
    return latents_of(got, nets, logvar=logvar, **({} if rng is None else {"rng": rng}))[0]


NOISE = standard(MEANS[0].shape)


@pytest.mark.parametrize(("logvar", "used"), [(-29.0, -29.0), (-35.0, -30.0), (25.0, 20.0)])
def test_the_variance_of_a_hint_has_limits(logvar, used):
    """As in diffusers: ln of the variance is from -30 to 20."""
    for wrong, verdict in ((1.0, "equal"), (1.3, "differs")):
        row = drawn_row(wrong * NOISE, logvar, math.exp(0.5 * used))
        assert row.verdict == verdict


def test_a_mean_with_an_error_of_one_unit_is_not_drawn():
    nets = (net_of(np.ones_like, draws=True),)
    got = np.ones(LATENTS[0].shape)
    got.flat[3] += 2.0**-23
    row, _ = latents_of(got, nets, logvar=np.zeros(got.shape), rng="torch")
    assert row.verdict == "equal"
    got.flat[3] += 2.0**-23
    row, _ = latents_of(got, nets, logvar=np.zeros(got.shape), rng="torch")
    assert row.verdict == "differs" and "deviation" in row.cause


# -- what was encoded -----------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "asked"), [(2, 2), (3, 2), (1, 2), (2, 1), (1, 1), (2, 0)])
@pytest.mark.parametrize("channels", [0, 5])
def test_control_images_are_those_that_were_encoded_last(count, asked, channels):
    """Unless further channels of the denoiser are encoded after them."""
    calls = {f"vae.encode.{i:03}": {"output.mean": i * X} for i in range(count)}
    context = context_of(calls, params={"control": [{}] * asked})
    config = SimpleNamespace(image_channels=channels)
    context = replace(context, model=SimpleNamespace(config=config))
    found = [mean for mean, _ in hints._encoded(context)]
    known = asked <= count and not (channels and count > asked)
    right = [i * X for i in range(count - asked, count)] if known else []
    assert len(found) == len(right)
    for got, x in zip(found, right, strict=True):
        assert np.array_equal(got, x)


# -- the kind of the image ------------------------------------------------------------------------


def mode_of(got, net=NET, role="controlnet_mode", diffusers=True, **manifest):
    """Return the row of the kind of a control image, and the context."""
    calls = {NET: {"output": X}, "controlnet.001": {"output": X}}
    calls |= {net: {"output": X} if got is None else {f"input.{role}": np.asarray(got)}}
    context = context_of(calls | (STEP if diffusers else {}), **manifest)
    context = replace(context, controlnets=(SimpleNamespace(),) * 2)
    rows = [*hints.judge_mode(context, entry_of(context, net))]
    known = got is not None and context.coverage.has(entry_of(context, net), role)
    assert known == bool(rows)
    return rows[0] if rows else None, context


SECOND = "controlnet.001"


@pytest.mark.parametrize(
    ("got", "net", "asked", "verdict"),
    [
        (3, NET, 3, "equal"),
        (4, NET, 3, "differs"),
        (3, SECOND, 3, "equal"),
        (3, NET, [3, 5], "equal"),
        (5, SECOND, [3, 5], "equal"),
        (3, SECOND, (3, 5), "differs"),
        (5, SECOND, (3, 5), "equal"),
        (-1, SECOND, [3], "equal"),  # none was asked for
        (0, SECOND, [3], "differs"),
        (1, SECOND, [3], "differs"),
        (-1, NET, None, "equal"),
        (-1, NET, [None, 2], "equal"),
        (-2, NET, None, "differs"),
    ],
)
def test_the_kind_of_an_image_is_that_of_the_request(got, net, asked, verdict):
    request = {"prompt": "a"} | ({} if asked is None else {"control_mode": asked})
    row, _ = mode_of([[got], [got]], net, request=request)
    assert (row.call, row.verdict) == (net, verdict)
    assert "mode" in row.segment and "kind" in row.kind


def test_kinds_that_are_not_known_have_a_reason():
    for diffusers, manifest in (
        (True, {}),
        (True, {"params": {"control_mode": 2}}),
        (False, {"params": {"control": [{}, {}]}}),
        (False, {}),
        (False, {"request": {"control_mode": 2}}),
    ):
        row, context = mode_of([2], diffusers=diffusers, **manifest)
        assert row is None and "not recorded" in why_of(context, "controlnet_mode")
    row, context = mode_of([2], SECOND, diffusers=False, params={"control": [{"mode": 2}]})
    assert row is None and why_of(context, "controlnet_mode", SECOND)
    row, context = mode_of(None, request={"control_mode": 2})
    assert row is None and not context.coverage.reasons
    turns = {"control": [{"end": 0.5, "mode": 2}, {"mode": 2}]}
    row, context = mode_of([2], diffusers=False, params=turns)
    assert row is None and not context.coverage.reasons  # of which ControlNet is not known
