"""Judges between the networks conclude the right thing from runs that differ in one place."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, entry_of, model_of, normal

from ldmref.locate.causes.pairs import Tried, likely_pairs
from ldmref.locate.causes.rotations import TABLES, read_positions
from ldmref.locate.faults.hypothesis import Hypothesis
from ldmref.locate.parts.step_faults import StepSettings, step_faults
from ldmref.locate.pipeline import added_noise, controls, residuals
from ldmref.locate.pipeline.asked import judge_asked
from ldmref.models.transformer_layers import find_angles
from ldmref.samplers import SAMPLERS
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


# -- schedules ------------------------------------------------------------------------------------


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
