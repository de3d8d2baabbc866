"""The judge of guidance: names, parts, levels and scales of one call, and runs without calls."""

from __future__ import annotations

import numpy as np
import pytest
from host_units import context_of, normal

from ldmref.locate.parts.hypotheses import fit
from ldmref.locate.parts.visit import Visit
from ldmref.locate.pipeline.asked import judge_asked
from ldmref.samplers.guidance_registry import get_guidance
from ldmref.samplers.parts import COMBINE

SHAPE = (1, 4, 8, 8)
UNCOND, COND, THIRD = (normal(i, *SHAPE) for i in range(3))
EPSILON = 2.0**-23


def mix(scale, start=UNCOND, end=COND):
    return start + scale * (end - start)


# -- what is allowed ------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0, -3.0])
def test_rounding_of_a_guidance_is_relative_to_its_result(scale):
    """Each prediction is rounded by a unit, and enters with the weights 1 - s and s."""
    predictions = {"uncond": np.array([1.0, -4.0]), "cond": np.array([3.0, 2.0])}
    inputs = {"predictions": predictions, "sigma": 1.0, "scale": scale}
    visit = Visit(COMBINE, get_guidance("cfg"), inputs)
    expected = visit.output()
    size = 4.0 * abs(1.0 - scale) + 3.0 * abs(scale)
    assert visit.noise(expected, EPSILON) == pytest.approx(
        EPSILON * size / np.abs(expected).max(), rel=1e-6
    )


@pytest.mark.parametrize("scale", [0.3, -2.0, 7.5])
def test_a_scale_is_fitted_and_one_without_effect_is_not(scale):
    def at(value):
        return mix(value)

    assert fit(at, 1.0, mix(scale)) == pytest.approx(scale)
    assert fit(lambda value: COND, 1.0, mix(scale)) is None


# -- scales and levels ----------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["scale", "rescale"])
def test_each_scale_is_judged_without_the_other(role):
    """Of a scale that nobody asked for, the recorded one is all that is known."""
    arrays = {"input.cond": COND, "input.rescale": np.array(0.25), "input.scale": np.array(2.0)}
    del arrays[f"input.{role}"]
    calls = {"guidance.000": arrays}
    for params, rows in (({}, {"rescale"}), ({"cfg_scale": 4.0}, {"scale", "rescale"})):
        context = context_of(calls, params=params)
        found = [row.kind for row in judge_asked(context)]
        assert found == [f"guidance {x}" for x in ("scale", "rescale") if x in rows - {role}]
    both = {**arrays, f"input.{role}": np.array(3.0)}
    context = context_of({"guidance.000": both})
    rows = judge_asked(context)
    assert [row.kind for row in rows] == ["guidance rescale"]


# -- runs without recorded guidance ---------------------------------------------------------------


def missing(*networks, request=None, given=None, names=("model_output", "sample")):
    """Return the steps whose guidance is missing, of a run with these arrays of the network."""
    calls = {} if given is None else {"inputs.000": given}
    attributes = {}
    for i, network in enumerate(networks):
        calls[f"unet.00{i}"] = {"output": COND} | network
        calls[f"sampler.00{i}"] = {f"input.{name}": COND for name in names}
        attributes[f"sampler.00{i}"] = {"guided": True}
    context = context_of(calls, attributes=attributes, request=request or {})
    rows = [row for row in judge_asked(context) if np.isinf(row.error)]
    assert all((row.layer, row.kind, row.verdict) == ("", "guidance", "differs") for row in rows)
    return [row.call for row in rows]


@pytest.mark.parametrize("role", ["timestep_cond", "guidance"])
def test_a_network_that_reads_the_scale_has_no_other_guidance(role):
    asked = {"guidance_scale": 3.0}
    assert missing({}, {}, request=asked) == ["sampler.000", "sampler.001"]
    assert missing({f"input.{role}": np.ones(1)}, {}, request=asked) == []
    assert missing({}, {}) == missing({}, {}, request={"guidance_scale": 1.0}) == []


def test_a_batch_of_both_has_its_guidance():
    """Steps after it are judged all the same."""
    asked = {"guidance_scale": 3.0}
    both = {"output": np.concatenate([UNCOND, COND])}
    assert missing(both, {}, both, request=asked) == ["sampler.001"]
    assert missing({}, {}, request=asked, names=("prediction", "x")) == []


def test_a_second_scale_needs_a_negative_prompt():
    asked = {"true_cfg_scale": 3.0}
    assert missing({}, request=asked) == []
    assert missing({}, request=asked | {"negative_prompt": "x"}) == ["sampler.000"]
    given = {"input.negative_prompt_embeds": normal(0, 1, 2, 3)}
    assert missing({}, request=asked, given=given) == ["sampler.000"]
    assert missing({}, request={"true_cfg_scale": 1.0}, given=given) == []


def test_a_guidance_or_two_calls_of_the_network_are_enough():
    """The steps around one that has them are judged."""
    calls = {}
    for i in range(3):
        calls[f"unet.00{2 * i}"] = {"output": COND}
        if i == 1:
            calls["unet.003"] = {"output": COND}
        calls[f"sampler.00{i}"] = {"input.model_output": COND, "input.sample": COND}
    attributes = {f"sampler.00{i}": {"guided": True} for i in range(3)}
    context = context_of(calls, attributes=attributes, request={"guidance_scale": 3.0})
    found = [row.call for row in judge_asked(context) if row.verdict == "differs"]
    assert found == [f"sampler.00{i}" for i, e in enumerate(context.evaluations) if i != 1]
    assert [len(e.networks) for e in context.evaluations] == [1, 2, 1]
