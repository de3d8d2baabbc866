"""The judge of guidance: names, parts, levels and scales of one call, and runs without calls."""

from __future__ import annotations

import numpy as np
import pytest
from host_units import context_of, entry_of, normal

from ldmref.locate.parts.hypotheses import fit
from ldmref.locate.parts.visit import Visit
from ldmref.locate.pipeline import combination
from ldmref.locate.pipeline.asked import judge_asked
from ldmref.samplers.guidance_registry import get_guidance
from ldmref.samplers.parts import COMBINE

SHAPE = (1, 4, 8, 8)
UNCOND, COND, THIRD = (normal(i, *SHAPE) for i in range(3))
SCALE = 7.5
EPSILON = 2.0**-23


def mix(scale, start=UNCOND, end=COND):
    return start + scale * (end - start)


def judged(arrays, attributes=None, params=None):
    """Return the rows of a run of one guidance, and its context."""
    asked = {"cfg_scale": SCALE} if params is None else params
    named = {"guidance.000": attributes or {}}
    context = context_of({"guidance.000": arrays}, attributes=named, params=asked)
    return [*combination.judge_guidance(context), *judge_asked(context)], context


def parts_of(output, **more):
    return {"input.uncond": UNCOND, "input.cond": COND, "output": output} | more


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["name", "guidance"])
@pytest.mark.parametrize("name", [None, "", "cfg", "classifier_free", "none"])
def test_names_of_guidance_by_a_scale(name, key):
    (row,), _ = judged(parts_of(mix(SCALE)), {key: name})
    assert (row.kind, row.verdict) == ("guidance", "equal")


@pytest.mark.parametrize("key", ["name", "guidance"])
def test_a_guidance_of_another_name_says_it(key):
    (row,), context = judged(parts_of(mix(SCALE)), {key: "unheard"})
    note = "guidance 'unheard' is not recomputed"
    assert (row.kind, row.verdict, row.note) == ("guidance", "not judged", note)
    assert context.ledger.has(entry_of(context, "guidance.000"), "output", "output")


@pytest.mark.parametrize("role", ["cond", "text"])
def test_names_of_the_conditional_prediction(role):
    """Also in the guidance before, whose prediction may be used again."""
    for got, cause in ((mix(SCALE), ""), (mix(SCALE, THIRD, UNCOND), "the step before")):
        calls = {
            "guidance.000": {"input.uncond": THIRD, f"input.{role}": UNCOND, "output": THIRD},
            "guidance.001": {"input.uncond": UNCOND, f"input.{role}": COND, "output": got},
        }
        context = context_of(calls, params={"cfg_scale": SCALE})
        row = next(r for r in combination.judge_guidance(context) if r.call == "guidance.001")
        assert row.kind == "guidance" and row.verdict == ("differs" if cause else "equal")
        assert row.cause == (cause and f"the prediction of {cause}")


@pytest.mark.parametrize("number", [0, 1])
def test_predictions_of_another_shape_are_not_those_of_the_step_before(number):
    """The image may have been made larger between two steps."""
    small = [THIRD, THIRD]
    small[number] = THIRD[..., :4, :4]
    before = {"input.uncond": small[0], "input.cond": small[1], "output": THIRD}
    calls = {"guidance.000": before, "guidance.001": parts_of(mix(3.0))}
    context = context_of(calls, params={"cfg_scale": SCALE})
    row = next(r for r in combination.judge_guidance(context) if r.call == "guidance.001")
    assert row.cause == "guidance scale 3 instead of 7.5"


# -- parts ----------------------------------------------------------------------------------------

NO_PARTS = "its parts or its result were not recorded"
NO_HALVES = "its halves or its result were not recorded"


@pytest.mark.parametrize("lacking", ["input.uncond", "input.cond", "output"])
def test_a_guidance_without_one_of_its_halves(lacking):
    arrays = {name: x for name, x in parts_of(mix(SCALE)).items() if name != lacking}
    (row,), _ = judged(arrays)
    assert (row.kind, row.verdict, row.note) == ("guidance", "not judged", NO_HALVES)


def test_a_guidance_without_its_scale():
    (row,), _ = judged(parts_of(mix(SCALE)), params={})
    note = "the guidance scale was not recorded"
    assert (row.kind, row.verdict, row.note) == ("guidance", "not judged", note)


@pytest.mark.parametrize("got", [COND, UNCOND])
def test_a_scale_that_the_network_reads_combines_nothing(got):
    (row,), _ = judged({"input.cond": COND, "output": got}, {"name": "embedded"})
    assert (row.kind, row.verdict) == ("guidance", "equal" if got is COND else "differs")


@pytest.mark.parametrize(
    ("name", "roles"),
    {
        "skip_layers": ("skipped", "skip_scale"),
        "perturbed": ("perturbed", "perturbed_scale"),
    }.items(),
)
@pytest.mark.parametrize("scale", [None, 3.0])
def test_a_third_prediction_and_the_conditional_one_alone(name, roles, scale):
    """The scale of an unconditional prediction is unused without one."""
    role, weight = roles
    arrays = {"input.cond": COND, f"input.{role}": THIRD, f"input.{weight}": np.array(2.5)}
    arrays["output"] = COND + 2.5 * (COND - THIRD)
    arrays |= {} if scale is None else {"input.scale": np.array(scale)}
    (row,), context = judged(arrays, {"name": name}, params={})
    assert (row.kind, row.verdict) == ("guidance", "equal")
    entry = entry_of(context, "guidance.000")
    assert not context.ledger.has(entry, weight)  # nobody says what was asked for
    for lacking in ("input.cond", "output", f"input.{role}", f"input.{weight}"):
        part = {key: x for key, x in arrays.items() if key != lacking}
        (row,), _ = judged(part, {"name": name}, params={})
        assert (row.kind, row.verdict, row.note) == ("guidance", "not judged", NO_PARTS)
    unscaled = {key: x for key, x in arrays.items() if key != "input.scale"}
    (row,), _ = judged({**unscaled, "input.uncond": UNCOND}, {"name": name}, params={})
    assert (row.verdict, row.note) == ("not judged", NO_PARTS)


def test_a_weaker_model_and_what_it_needs():
    arrays = {"input.cond": COND, "input.guide": THIRD, "output": mix(1.75, THIRD, COND)}
    named = {"name": "autoguidance", "weight": 1.75}
    (row,), _ = judged(arrays, named)
    assert (row.kind, row.verdict) == ("guidance", "equal")
    for lacking in arrays:
        part = {key: x for key, x in arrays.items() if key != lacking}
        (row,), _ = judged(part, named)
        assert (row.kind, row.verdict, row.note) == ("guidance", "not judged", NO_PARTS)


@pytest.mark.parametrize("role", combination.SETTINGS)
def test_settings_of_a_guidance_that_is_not_judged_need_no_row_of_their_own(role):
    arrays = {**parts_of(mix(SCALE)), f"input.{role}": np.array(3.0)}
    _, context = judged(arrays, {"name": "unheard"})
    assert context.ledger.has(entry_of(context, "guidance.000"), role)


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


def with_noise(x, floors):
    """Return an array with an error of so many floors of guidance by `SCALE`."""
    size = max(np.abs(UNCOND).max(), np.abs(COND).max()) * (1.0 + 2.0 * SCALE)
    return x + floors * EPSILON * size / np.abs(mix(SCALE)).max() * np.abs(x).max()


def rescaled(phi):
    """Lin et al. 2024, equations 15 and 16, of one image."""
    x = mix(SCALE)
    return phi * x * COND.std() / x.std() + (1.0 - phi) * x


@pytest.mark.parametrize(
    ("cause", "output"),
    [
        ("guidance scale 3 instead of 7.5", mix(3.0)),
        ("guidance rescale 0.3 instead of 0", rescaled(0.3)),
    ],
)
def test_a_fitted_setting_explains_what_rounding_leaves(cause, output):
    (row,), _ = judged(parts_of(with_noise(output, 8.0)))
    assert (row.kind, row.verdict, row.cause) == ("guidance", "differs", cause)


@pytest.mark.parametrize("factor", [998.4, 999.6, 1000.4, 1001.6, -1000.0])
def test_a_scale_that_is_a_thousand_times_as_large(factor):
    (row,), _ = judged(parts_of(mix(factor * SCALE)))
    words = "guidance scale times 1000: " if abs(factor - 1000.0) < 1.0 else "guidance scale "
    assert row.cause == f"{words}{factor * SCALE:.5g} instead of 7.5"


@pytest.mark.parametrize("side", ["input", "params"])
def test_a_recorded_rescale_is_that_of_the_call(side):
    arrays = parts_of(rescaled(0.3))
    if side == "input":
        arrays["input.rescale"] = np.array(0.3)
    asked = 0.3 if side == "params" else 0.6
    rows, _ = judged(arrays, params={"cfg_scale": SCALE, "guidance_rescale": asked})
    assert rows[0].verdict == "equal"
    words = ["0.3 instead of 0.6"] if side == "input" else []
    assert [row.cause for row in rows[1:]] == words


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


def level_rows(got, right, **more):
    calls = {
        "unet.000": {"input.sample": UNCOND, "output": COND},
        "guidance.000": parts_of(mix(SCALE)) | ({} if got is None else {"input.sigma": got}),
        "sampler.000": {"input.x": UNCOND} | ({} if right is None else {"input.sigma": right}),
    }
    context = context_of(calls, params={"cfg_scale": SCALE}, **more)
    rows = [(r.kind, r.verdict) for r in combination.judge_guidance(context)]
    assert rows.pop() == ("guidance", "equal")
    return rows, context.ledger.has(entry_of(context, "guidance.000"), "sigma")


@pytest.mark.parametrize(
    ("got", "right", "rows", "marked"),
    [
        (2.0, 2.0, [], True),
        (2.0 * (1.0 + 0.9e-5), 2.0, [], True),
        (2.0 * (1.0 + 1.1e-5), 2.0, [("guidance level", "differs")], True),
        (3.0, None, [], False),
        (None, 3.0, [], False),
    ],
)
def test_the_level_of_a_guidance_is_that_of_its_evaluation(got, right, rows, marked):
    arrays = [None if x is None else np.array(x) for x in (got, right)]
    assert level_rows(*arrays) == (rows, marked)


# -- runs without recorded guidance ---------------------------------------------------------------


def run_of(recorded, diffusers, scale: float | None = SCALE):
    """Return the rows of a run of two images a step, of which the halves of outputs are known."""
    names = ("model_output", "sample") if diffusers else ("prediction", "x")
    uncond, cond = (np.concatenate([x, 2.0 * x]) for x in (UNCOND, COND))
    right = mix(SCALE, uncond, cond)
    calls = {"unet.000": {"output": np.concatenate([uncond, cond])}}
    if recorded:
        calls["guidance.000"] = {"input.uncond": uncond, "input.cond": cond, "output": right}
    calls["sampler.000"] = {f"input.{names[0]}": right, f"input.{names[1]}": uncond}
    context = context_of(calls, params={} if scale is None else {"guidance_scale": scale})
    return [(row.call, row.verdict) for row in combination.judge_guidance(context)]


@pytest.mark.parametrize("diffusers", [True, False])
def test_halves_are_judged_where_no_guidance_was_recorded(diffusers):
    assert run_of(True, diffusers) == [("guidance.000", "equal")]
    assert run_of(False, diffusers) == ([("sampler.000", "equal")] if diffusers else [])
    assert run_of(False, diffusers, None) == []


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
