"""Judges between the networks, on runs of a few arrays that are built by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from host_units import context_of, entry_of, normal, recorded_of

from ldmref.locate.pipeline import tokens
from ldmref.locate.pipeline.asked import judge_asked
from ldmref.locate.pipeline.noise_tests import judge_normal
from ldmref.locate.pipeline.passes import split_passes

SHAPE = (1, 4, 8, 8)
EPSILON = 2.0**-23


# -- the comparison -------------------------------------------------------------------------------


def judged(got, expected, dtype="float32", **more):
    context = context_of({"sampler.000": {"output": got}}, dtype=dtype)
    return context.judge(recorded_of(context, "sampler.000"), "k", expected, **more)


def test_sixteen_units_are_rounding():
    right = np.array([1.0, -0.5, 0.25])
    for units, verdict in ((16, "equal"), (17, "differs"), (-16, "equal"), (-17, "differs")):
        got = right + np.array([0.0, units * EPSILON, 0.0])
        row = judged(got, right)
        assert row.verdict == verdict and row.error == abs(units) * EPSILON
    far = right + np.array([0.0, 1e-4, 0.0])
    assert judged(far, right, least=1e-4 * (1 + 1e-9)).verdict == "equal"
    assert judged(far, right, floor=1e-4 / 15.9).verdict == "equal"
    assert judged(far, right, floor=1e-4 / 16.1).verdict == "differs"


def test_what_is_not_finite_is_wrong_unless_it_was_before():
    right, bad = np.array([1.0, 2.0]), np.array([np.nan, 2.0])
    row = judged(bad, right)
    assert row.verdict == "differs" and row.error == math.inf and "NaN at [0]" in row.note
    assert judged(bad, bad).verdict == "not judged"
    assert judged(bad, bad).note.endswith("as upstream")
    assert judged(right, bad).note == "what it is computed from is not finite"


def test_a_cause_is_the_variant_that_explains():
    right, got = normal(0, 8), normal(1, 8)
    variants = [("none", lambda: None), ("far", right + 1.0), ("it", lambda: got), ("late", got)]
    row = judged(got, right, variants=variants)
    assert row.cause == "it" and row.explained == 0.0 and row.verdict == "differs"
    overflow = judged(got, right, "float16", floor=math.inf, variants=variants[:2])
    assert overflow.verdict == "not judged"
    assert judged(got, right, "float16", floor=math.inf, variants=variants).cause == "it"
    assert judged(2.0 * right, right).cause == "scaled by 2"


def test_another_order_in_memory_is_no_fault():
    right = normal(0, 2, 3)
    row = judged(right.T, right)
    assert row.verdict == "equal" and row.error == 0.0 and "transpose" in row.note


# -- noise ----------------------------------------------------------------------------------------


def noise_of(n, mean=0.0, deviation=1.0):
    """Return n numbers of exactly this mean and root of the mean square about it."""
    z = normal(0, n)
    z -= z.mean()
    return mean + deviation * z / np.sqrt(np.mean(z * z))


def test_normal_numbers_are_within_six_deviations():
    context = context_of({"add_noise.000": {"input.noise": np.zeros(2)}})
    noise = recorded_of(context, "add_noise.000", "input.noise")
    n = 512
    limit = 6.0 / math.sqrt(2 * n)
    for sign in (-1.0, 1.0):
        for factor, verdict in ((0.999, "equal"), (1.001, "differs")):
            wide = noise_of(n, 0.0, 1.0 + sign * factor * limit)
            row = judge_normal(context, noise.made(wide), "noise")
            assert row.verdict == verdict
            shift = sign * factor * limit * math.sqrt(2.0)
            deviation = math.sqrt(1.0 - shift * shift)
            row = judge_normal(context, noise.made(noise_of(n, shift, deviation)), "noise")
            assert row.verdict == verdict
            assert row.cause == ("" if verdict == "equal" else f"mean {shift:.4g} instead of 0")
    wide = judge_normal(context, noise.made(noise_of(n, 0.0, 2.0)), "noise")
    assert wide.cause == "standard deviation 2 instead of 1" and wide.error == pytest.approx(1.0)
    nan = judge_normal(context, noise.made(np.full(3, np.nan)), "noise")
    assert nan.verdict == "differs" and nan.error == math.inf


@pytest.mark.filterwarnings("error")
def test_noise_without_elements_does_not_differ():
    context = context_of({"add_noise.000": {"input.noise": np.zeros(2)}})
    noise = recorded_of(context, "add_noise.000", "input.noise")
    row = judge_normal(context, noise.made(np.zeros((0, 4))), "noise", "a part")
    assert (row.verdict, row.error, row.cause) == ("equal", 0.0, "")
    assert (row.kind, row.segment) == ("noise", "a part")


# -- guidance -------------------------------------------------------------------------------------

UNCOND, COND = normal(0, *SHAPE), normal(1, *SHAPE)
SCALE = 7.5


def mix(scale, start=UNCOND, end=COND):
    return start + scale * (end - start)


@pytest.mark.parametrize(("got", "count"), [(7.5, 0), (7.5 + 1e-6, 0), (7.4, 1), (7.5 + 1e-4, 1)])
def test_scales_are_those_that_were_asked_for(got, count):
    arrays = {"input.uncond": UNCOND, "input.cond": COND, "input.scale": np.array(got)}
    calls = {"guidance.000": {**arrays, "output": mix(got)}}
    for more, verdict in (({}, "differs"), ({"callback_on_step_end": "f"}, "not judged")):
        context = context_of(calls, params={"cfg_scale": SCALE} | more)
        rows = [row for row in judge_asked(context) if row.kind == "guidance scale"]
        assert [row.verdict for row in rows] == [verdict] * count
        assert context.coverage.has(entry_of(context, "guidance.000"), "scale")


def test_the_scales_of_all_images_are_those_that_were_asked_for():
    scales = np.array([SCALE, 3.0])
    context = context_of({"guidance.000": {"input.scale": scales}}, params={"cfg_scale": SCALE})
    assert [row.verdict for row in judge_asked(context)] == ["differs"]


# -- tokens ---------------------------------------------------------------------------------------


def words_of(got, expected):
    return tokens.explain(np.array(got), np.array(expected), "cat")[0]


def test_the_causes_of_wrong_ids():
    assert words_of([1, 5, 2, 0, 0], [1, 5, 2, 9, 9]) == "padded with id 0 instead of 9"
    assert words_of([1, 5, 2, 0, 1], [1, 5, 2, 9, 9]) == ""
    assert words_of([3, 3], [4, 4]) == "all ids differ by -1"  # not padding: there is no text
    assert words_of([5, 6, 2, 7], [1, 5, 6, 2]) == "the first token is missing"
    assert words_of([0, 1, 5, 6], [1, 5, 6, 2]) == "one token too many at the start"
    assert words_of([4, 8, 9, 5], [1, 5, 6, 2]) == "all ids differ by 3"
    assert words_of([1, 7, 6, 2], [1, 5, 6, 2]) == "a single token: id 7 instead of 5"
    assert words_of([1, 7, 8, 2], [1, 5, 9, 2]) == ""
    note = tokens.explain(np.array([1, 7, 8, 2]), np.array([1, 5, 9, 2]), "cat")[1]
    assert note == "first at token 1 of 'cat': id 7 instead of 5"


def test_masks_of_tokens():
    wanted = np.array([[1, 1, 1, 0], [1, 1, 0, 0]])

    def row_of(mask, masked=True):
        context = context_of({"text_encoder.000": {"input.attention_mask": mask}})
        entry = entry_of(context, "text_encoder.000")
        (row,) = tokens._judge_mask(context, entry, wanted, masked)
        assert context.coverage.has(entry, "attention_mask")
        return row.verdict, row.cause, row.error

    assert row_of(wanted) == ("equal", "", 0.0)
    assert row_of(3 * wanted) == ("equal", "", 0.0)
    assert row_of(1 - wanted) == ("differs", "the mask is inverted", 1.0)
    assert row_of(np.ones((2, 4), int)) == ("differs", "padding is not masked", 0.375)
    assert row_of(wanted[::-1]) == ("differs", "rows of the mask are exchanged", 0.25)
    assert row_of(wanted[:1]) == ("differs", "", math.inf)
    assert row_of(np.array([[1, 1, 1, 0], [0, 1, 0, 0]])) == ("differs", "", 0.125)
    unwanted = "a padding mask that should not be there"
    assert row_of(np.ones((2, 4), int), masked=False) == ("equal", "", 0.0)
    assert row_of(wanted, masked=False) == ("differs", unwanted, 0.375)
    inverted = f"{unwanted}: the mask is inverted"
    assert row_of(1 - wanted, masked=False) == ("differs", inverted, 0.625)
    context = context_of({"text_encoder.000": {"input.ids": wanted}})
    entry = entry_of(context, "text_encoder.000")
    assert not [*tokens._judge_mask(context, entry, wanted, True)]
    context = context_of({"text_encoder.000": {"input.attention_mask": np.ones((2, 1, 4, 4))}})
    entry = entry_of(context, "text_encoder.000")
    assert not [*tokens._judge_mask(context, entry, wanted, False)]  # a mask of the network's own


def test_weights_of_prompts_that_are_one_are_compared():
    for weights, compared in (([1.0, 1.0], True), ([1.0, 1.5], False)):
        context = context_of({"tokens.000": {"output.weights": np.array([weights])}})
        assert not [*tokens._judge_given(context)]
        entry = entry_of(context, "tokens.000")
        assert context.coverage.has(entry, "weights", "output") == compared


def test_the_prompts_of_a_run():
    context = context_of({}, params={"prompt": ["a", "b"], "negative_prompt": "a"})
    assert tokens.known_prompts(context) == ["a", "b", ""]
    assert tokens.known_prompts(context_of({})) == []
    recorded = {"tokens.000": {"output.ids": np.zeros((1, 3), int)}}
    context = context_of(recorded, attributes={"tokens.000": {"prompt": "c"}})
    assert tokens.known_prompts(context) == ["c", ""]
    assert tokens.known_prompts(context_of({}, requests=[{"prompt": "d", "seed": 1}])) == ["d", ""]


# -- passes ---------------------------------------------------------------------------------------


def test_passes_of_a_trace():
    x = {"input.x": np.zeros((2, 4))}
    calls = {
        "initial.000": {"output": np.zeros(1)},
        "schedule.000": {"output.timesteps": np.zeros(3)},
        "sampler.000": x,
        "vae.decode.000": {"output": np.zeros(1)},
        "initial.001": {"output": np.zeros(1)},
        "schedule.001": {"output.timesteps": np.zeros(3)},
        "sampler.001": {"input.x": np.zeros((4, 4))},
    }
    prompts = ["a", "b", "c"]
    port = context_of(calls, params={"prompt": prompts, "seed": 3}).port
    first, second = split_passes(port)
    assert [e.call for e in first.entries] == [*calls][:4]
    assert [e.call for e in second.entries] == [*calls][4:]
    assert first.manifest["params"] == {"prompt": ["a", "a"], "seed": 3}  # one for each image
    assert second.manifest["params"] == {"prompt": ["b", "b", "c", "c"], "seed": 3}
    same = context_of(calls, params={"prompt": ["a"] * 4}).port
    assert split_passes(same)[1].manifest["params"]["prompt"] == ["a"] * 4  # 6 images of 4 prompts
    asked = context_of(calls, params={"prompt": "z", "n": 1}, requests=[{"prompt": "a"}] * 2).port
    assert [p.manifest["params"] for p in split_passes(asked)] == [{"n": 1}] * 2
    assert [p.manifest["request"] for p in split_passes(asked)] == [{"prompt": "a"}] * 2
    assert len(split_passes(context_of(calls, branch=0).port)) == 1
    twice = {name: x for name, x in calls.items() if not name.startswith(("sampler", "vae"))}
    assert len(split_passes(context_of(twice).port)) == 1  # a schedule that was made again
