"""How a recorded run is read and its wires are judged, on runs that are built by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import Sized, context_of, entry_of, model_of, normal

from ldmref.locate.pipeline import hints, initial, sizes
from ldmref.locate.pipeline.port_run import PortRun
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


# -- initial latents ------------------------------------------------------------------------------


def initial_row(x, model="tiny", roles=("input.model_output", "input.sample"), **manifest):
    """Return the row of the first state of a run from pure noise, of 4 steps."""
    calls = {"sampler.000": {roles[0]: X, roles[1]: x, "output": X}}
    context = context_of(calls, model, params={"steps": 4} | manifest.pop("params", {}), **manifest)
    return next(initial.judge_initial(context)), context


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


# -- hints ----------------------------------------------------------------------------------------


def hint_row(got, *images):
    calls = {f"control.{i:03}": {"output": x} for i, x in enumerate(images)}
    calls |= {"controlnet.000": {"input.hint": got}, "unet.000": {"input.x": X}}
    context = context_of(calls)
    net = entry_of(context, "controlnet.000")
    found = verdicts(hints.judge_hint(context, net))
    assert context.coverage.has(net, "hint") == bool(found)
    return found[0][1:] if found else tuple({*context.coverage.reasons.values()})


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


# -- inputs of the denoiser -----------------------------------------------------------------------


def test_positions_that_a_network_reads():
    rows, columns = 2, 3
    right = np.array([[0, r, c] for r in range(rows) for c in range(columns)], float)
    down = np.array([[0, c, r] for c in range(columns) for r in range(rows)], float)

    def cause(got, role="img_ids"):
        sample = np.zeros((1, 4, 2 * rows, 2 * columns))
        calls = {"unet.000": {"input.sample": sample, f"input.{role}": got}}
        context = context_of(calls)
        found = verdicts(sizes.judge_positions(context))
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
        found = verdicts(sizes.judge_sizes(context))
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
