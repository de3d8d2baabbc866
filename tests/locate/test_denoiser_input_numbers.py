"""Numbers that a denoiser is given: scales, positions, sizes, times, levels and latents."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import Sized, context_of, entry_of, normal

from ldmref.locate.pipeline import inputs
from ldmref.locate.precision import round_to
from ldmref.samplers.path import FLOW

SHAPE = (1, 4, 8, 8)
X, Y, Z = (normal(i, *SHAPE) for i in range(3))
UNET, TRANSFORMER, STEP = "unet.000", "transformer.000", "sampler.000"
EULER = {"steps": 4, "sampler": "euler"}
UNHEARD = {"class": "UnheardOfScheduler", "config": {}}


def why_of(context, call, role):
    return context.ledger.reasons.get((entry_of(context, call).name, "input", role), "")


def rows_of(judge, calls, model="tiny", **manifest):
    """Return the rows of the first evaluation of a run by a judge of evaluations."""
    context = context_of(calls, model, **{"params": EULER} | manifest)
    evaluation = context.evaluations[0]
    return [*judge(context, evaluation.networks[0], evaluation)], context


# -- scales of guidance ---------------------------------------------------------------------------


def scale_row(got, asked=2.0):
    calls = {TRANSFORMER: {"input.sample": X, "input.guidance": np.asarray(got)}}
    context = context_of(calls, "flux-tiny", params={"cfg_scale": asked})
    (row,) = inputs._judge_scales(context, context.calls("transformer"))
    return row


@pytest.mark.parametrize(
    ("got", "word"),
    [
        ([2000.0], "multiplied by 1000"),
        ([0.002], "divided by 1000"),
        ([3.0, 3.0], "3 instead of 2"),
    ],
)
def test_scales_of_guidance_that_are_wrong_have_a_cause(got, word):
    row = scale_row(got)
    assert (row.call, row.verdict, row.kind) == (TRANSFORMER, "differs", "guidance scale")
    assert word in row.cause and row.explained == 0.0 and row.segment


def test_scales_of_guidance_may_round():
    for by, verdict in ((0.9e-6, "equal"), (1.2e-6, "differs")):
        assert scale_row([2.0 * (1.0 + by)]).verdict == verdict
    assert scale_row([2.0]).allowed == 1e-6


# -- positions ------------------------------------------------------------------------------------

WIDE = np.zeros((1, 4, 4, 6))  # of 2 x 3 tokens
PLACES = np.array([[0, i, j] for i in range(2) for j in range(3)], float)
DOWN = np.array([[0, j, i] for j in range(3) for i in range(2)], float)


def position_rows(*calls, sample=WIDE):
    arrays = {
        f"transformer.{i:03}": {f"input.{k}": x for k, x in {"sample": sample, **call}.items()}
        for i, call in enumerate(calls)
    }
    context = context_of(arrays, "flux-tiny")
    rows = [*inputs.judge_positions(context)]
    return rows, context


@pytest.mark.parametrize(
    ("got", "word"),
    [
        (PLACES, ""),
        (PLACES[:, [0, 2, 1]], "exchanged"),
        (DOWN, "exchanged"),
        (PLACES + np.array([0, 1, 1]), "from 1"),
        (2 * PLACES, "twice"),
        (0 * PLACES, "zero"),
    ],
)
def test_positions_are_those_of_the_tokens(got, word):
    (row,), context = position_rows({"img_ids": got})
    assert row.verdict == ("differs" if word else "equal")
    assert word in row.cause and (row.explained == 0.0 or not word)
    assert (row.call, row.kind) == (TRANSFORMER, "positions") and "img_ids" in row.segment
    assert context.ledger.has(entry_of(context, TRANSFORMER), "img_ids")


def test_positions_of_text_are_zero():
    for got, verdict in ((0.0 * PLACES, "equal"), (PLACES, "differs")):
        (row,), context = position_rows({"txt_ids": got})
        assert row.verdict == verdict and "txt_ids" in row.segment
        assert context.ledger.has(entry_of(context, TRANSFORMER), "txt_ids")
    (row,), _ = position_rows({"img_ids": np.zeros((5, 3))})  # not of these tokens
    assert row.verdict == "equal"
    (row,), _ = position_rows({"img_ids": np.ones((5, 3))})
    assert row.verdict == "differs"


def test_positions_are_judged_once_for_all_calls():
    both = {"img_ids": PLACES, "txt_ids": 0.0 * PLACES}
    rows, context = position_rows(both, both, {"txt_ids": PLACES, "img_ids": PLACES + 1.0})
    assert [(row.call[-1], row.verdict) for row in rows] == [
        ("0", "equal"),
        ("0", "equal"),
        ("2", "differs"),
        ("2", "differs"),
    ]
    assert len(context.ledger.marked) == 6


def test_calls_without_positions_do_not_hide_the_others():
    wrong = {"img_ids": PLACES[:, :2], "txt_ids": 0.0 * PLACES[:2]}
    rows, context = position_rows({}, wrong, {"img_ids": PLACES[None]}, {"img_ids": PLACES})
    assert [row.call[-1] for row in rows] == ["1", "3"]
    assert len(context.ledger.marked) == 2
    for sample in (WIDE[0], WIDE[None]):
        assert position_rows({"img_ids": PLACES}, sample=sample)[0] == []
    calls = {TRANSFORMER: {"input.img_ids": PLACES}}
    context = context_of(calls, "flux-tiny")
    assert [*inputs.judge_positions(context)] == []


# -- sizes ----------------------------------------------------------------------------------------

IMAGE = [16.0, 24.0]  # of latents of 8 x 12, whose autoencoder has the factor 2


def sizes_row(got, **params):
    calls = {UNET: {"input.sample": np.zeros((1, 4, 8, 12)), "input.time_ids": np.array(got)}}
    context = replace(context_of(calls, params=params), model=Sized())
    (row,) = inputs.judge_sizes(context)
    assert row.kind == "micro-conditioning" and row.call == UNET
    return row


@pytest.mark.parametrize(
    ("params", "right"),
    [
        ({}, [16, 24, 0, 0, 16, 24]),
        ({"original_size": [5, 6]}, [5, 6, 0, 0, 16, 24]),
        ({"crops_coords_top_left": (3, 4)}, [16, 24, 3, 4, 16, 24]),
        ({"target_size": [7, 8]}, [16, 24, 0, 0, 7, 8]),
        ({"target_size": [7, 8, 9]}, [16, 24, 0, 0, 16, 24]),
        ({"target_size": 7}, [16, 24, 0, 0, 16, 24]),
    ],
)
def test_sizes_are_those_that_were_asked_for(params, right):
    for n in (1, 2):
        assert sizes_row([right] * n, **params).verdict == "equal"
    for i in range(6):
        other = list(right)
        other[i] += 1
        assert sizes_row([right, other], **params).verdict == "differs"


@pytest.mark.parametrize(
    ("params", "negative"),
    [
        ({"negative_original_size": [1, 2]}, [1, 2, 3, 4, 7, 8]),
        ({"negative_crops_coords_top_left": [1, 2]}, [5, 6, 1, 2, 7, 8]),
        ({"negative_target_size": [1, 2]}, [5, 6, 3, 4, 1, 2]),
    ],
)
def test_sizes_of_the_negative_half(params, negative):
    asked = {"original_size": [5, 6], "crops_coords_top_left": [3, 4], "target_size": [7, 8]}
    positive = [5, 6, 3, 4, 7, 8]
    for half in (1, 2):
        rows = [negative] * half + [positive] * half
        assert sizes_row(rows, **asked, **params).verdict == "equal"
        assert sizes_row(rows[::-1], **asked, **params).verdict == "differs"
    assert sizes_row([positive], **asked, **params).verdict == "equal"
    assert sizes_row([positive] * 2, **asked, **params).verdict == "differs"
    assert sizes_row([positive] * 2, **asked).verdict == "equal"


def test_sizes_that_are_wrong_have_a_cause():
    asked = {"original_size": [5, 6], "crops_coords_top_left": [3, 4], "target_size": [7, 9]}
    for got, word in (
        ([0, 0, 0, 0, 0, 0], "zero"),
        ([6, 5, 4, 3, 9, 7], "exchanged"),
        ([2.5, 3, 1.5, 2, 3.5, 4.5], "latents"),
        ([5, 6, 7, 9, 3, 4], "crop"),
    ):
        row = sizes_row([got], **asked)
        assert row.verdict == "differs" and word in row.cause and row.explained == 0.0


@pytest.mark.parametrize("name", ["original_width", "sizes"])
def test_sizes_of_other_programs_have_a_reason(name):
    calls = {UNET: {"input.sample": X, "input.time_ids": np.zeros((1, 6))}}
    context = replace(context_of(calls, params={name: 1}), model=Sized())
    assert [*inputs.judge_sizes(context)] == []
    assert why_of(context, UNET, "time_ids") and not context.ledger.marked


# -- times ----------------------------------------------------------------------------------------


def timestep_row(got, t=501.3, step=None, **manifest):
    calls = {
        UNET: {"input.timestep": np.asarray(got)},
        STEP: {"input.x": X} | (step or {"input.timestep": np.array(t)}),
    }
    rows, context = rows_of(inputs._judge_timestep, calls, **manifest)
    assert context.ledger.has(entry_of(context, UNET), "timestep") == bool(rows)
    return rows[0] if rows else None


@pytest.mark.parametrize("scheduler", [None, UNHEARD])
@pytest.mark.parametrize(
    ("got", "word"),
    [
        (501.3, ""),
        (501300.0, "by 1000"),
        (0.5013, "1/1000"),
        (500.3, "smaller by 1"),
        (502.3, "larger by 1"),
        (498.7, "1000 - t"),
        (501.0, "truncated"),
        (float(round_to(np.array(501.3), "bfloat16")), "bfloat16"),
        (float(round_to(np.array(501.3), "float16")), "float16"),
    ],
)
def test_times_that_are_wrong_have_a_cause(got, word, scheduler):
    more = {} if scheduler is None else {"scheduler": scheduler}
    row = timestep_row([got, got], **more)
    assert (row.call, row.kind) == (UNET, "timestep") and row.segment
    assert row.verdict == ("differs" if word else "equal")
    assert word in row.cause and (not word or row.explained < 1e-12)


@pytest.mark.parametrize("index", range(3))
def test_times_of_other_steps_are_named(index):
    """Of a schedule with the times 751, 501, 251 and 1."""
    times = [751.0, 501.0, 251.0, 1.0]
    words = {index + 1: "next", index - 1: "previous"}
    for i in {*range(4)} - {index}:
        row = timestep_row(times[i], times[index] + 0.3)
        assert row.verdict == "differs" and words.get(i, f"step {i}") in row.cause


def test_times_may_be_the_number_of_their_step():
    row = timestep_row(2.0, 251.0)
    assert row.verdict == "differs" and "number" in row.cause


@pytest.mark.parametrize(("by", "verdict"), [(0.9e-5, "equal"), (1.1e-5, "differs")])
def test_times_may_round(by, verdict):
    assert timestep_row(501.3 * (1.0 + by)).verdict == verdict


def test_a_time_may_follow_from_the_level_of_its_step():
    made = context_of({STEP: {"input.x": X}}, params=EULER).make_schedule()
    step = {"input.sigma": np.array(made.sigmas[1])}
    assert timestep_row(501.0, step=step).verdict == "equal"
    assert timestep_row(251.0, step=step).verdict == "differs"
    assert timestep_row(501.0, step={"output": X}) is None
    assert timestep_row(501.0, step=step, scheduler=UNHEARD) is None


def test_the_time_of_a_later_evaluation_is_that_of_its_level():
    made = context_of({STEP: {"input.x": X}}, params=EULER).make_schedule()
    calls = {
        UNET: {"input.timestep": np.array(751.0)},
        "guidance.000": {"output": X},
        "unet.001": {"input.timestep": np.array(251.0)},
        "guidance.001": {"output": X},
        STEP: {
            "input.timestep": np.array(751.0),
            "input.sigma": np.array(made.sigmas[0]),
            "input.sigma_at.1": np.array(made.sigmas[2]),
        },
    }
    context = context_of(calls, params=EULER)
    verdicts = [
        row.verdict
        for each in context.evaluations
        for row in inputs._judge_timestep(context, each.networks[0], each)
    ]
    assert verdicts == ["equal", "equal"]


# -- latents --------------------------------------------------------------------------------------


def latents_row(got, step, model="tiny", state=X, **manifest):
    """Return the row of the latents of a denoiser; None if they are not judged."""
    network = "unet.000" if model == "tiny" else TRANSFORMER
    values = {f"input.{k}": np.asarray(x) for k, x in step.items()}
    calls = {network: {"input.sample": got}, STEP: {"input.x": state} | values}
    rows, context = rows_of(inputs._judge_latents, calls, model, **manifest)
    assert context.ledger.has(entry_of(context, network), "sample") == bool(rows)
    return rows[0] if rows else None


@pytest.mark.parametrize(
    ("model", "sigma", "factor", "word"),
    [
        ("tiny", 3.0, 0.1**0.5, ""),
        ("tiny", 3.0, 1.0, "missing"),
        ("tiny", 3.0, 0.1, "twice"),
        ("tiny", 3.0, 1.0 / 3.0, "divided by sigma"),
        ("tiny", 0.5, 2.0, "divided by sigma"),
        ("flux-tiny", 0.5, 1.0, ""),
        ("flux-tiny", 0.5, 2.0, "divided by sigma"),
        ("flux-tiny", 0.75, 0.8, "sqrt"),
    ],
)
def test_latents_are_the_state_by_a_factor(model, sigma, factor, word):
    row = latents_row(factor * X, {"sigma": sigma}, model)
    assert row.verdict == ("differs" if word else "equal") and word in row.cause
    assert (row.kind, row.call) == ("latents", "unet.000" if model == "tiny" else TRANSFORMER)
    assert row.segment and (not word or row.explained < 1e-12)


@pytest.mark.parametrize(("by", "verdict"), [(0.9e-4, "equal"), (1.1e-4, "differs")])
def test_latents_may_round(by, verdict):
    got = X.copy()
    got.flat[3] += by * np.abs(X).max()
    row = latents_row(got, {"sigma": 0.5}, "flux-tiny")
    assert (row.verdict, row.allowed) == (verdict, 1e-4)


def test_without_a_level_no_cause_needs_one():
    row = latents_row(X / math.sqrt(2.0), {}, "flux-tiny")
    assert row.verdict == "differs" and "sigma" not in row.cause


def test_latents_are_the_first_channels(monkeypatch):
    """What follows them is judged by itself, if there is anything."""
    seen = []
    monkeypatch.setattr(inputs, "judge_channels", lambda *values: iter(seen.append(values) or ()))
    wide = np.concatenate([X, Y, Z[:, :1]], axis=1)
    row = latents_row(wide, {}, "flux-tiny")
    assert row.verdict == "equal"
    ((_, network, further, images),) = seen
    assert network.call == TRANSFORMER and images == 1
    assert np.array_equal(further, wide[:, 4:])
    assert latents_row(X, {}, "flux-tiny").verdict == "equal" and len(seen) == 1


def test_the_factor_may_be_that_of_another_schedule(monkeypatch):
    """Levels that the other schedule has at the time of the step."""
    other = SimpleNamespace(timesteps=np.array([501.0]), sigmas=np.array([2.0]))
    without = SimpleNamespace(timesteps=np.array([99.0]), sigmas=np.array([2.0]))
    named = [("without", without), ("other spacing", other)]
    monkeypatch.setattr(inputs, "other_schedules", lambda context: iter(named))
    row = latents_row(X / math.sqrt(5.0), {"timestep": 501.0})
    assert row.verdict == "differs" and row.cause == "other spacing"
    row = latents_row(X / math.sqrt(5.0), {"timestep": 251.0})
    assert row.verdict == "differs" and row.cause != "other spacing"


def test_the_level_of_a_step_is_that_of_its_time():
    made = context_of({STEP: {"input.x": X}}, params=EULER).make_schedule()
    for i, t in enumerate((751.0, 501.0, 251.0, 1.0)):
        right = X / math.hypot(1.0, made.sigmas[i])
        assert latents_row(right, {"timestep": t, "sigma": 9.0}).verdict == "equal"
        assert latents_row(right, {"sigma_at": made.sigmas[i], "timestep": 99.0}).verdict == "equal"
    between = X / math.hypot(1.0, _level_at(made, 400.0))
    assert latents_row(between, {"timestep": 400.0}).verdict == "equal"
    assert latents_row(X, {}) is None
    assert latents_row(X, {"sigma": 3.0}, scheduler=UNHEARD) is None


def _level_at(made, t):
    """Return the level of a time by bisection of levels, not of their logarithms."""
    least, most = 0.01, 5.0
    while most - least > 1e-9:
        middle = (least + most) / 2.0
        least, most = (middle, most) if made.timestep(middle) < t else (least, middle)
    return least


def factors_of(step, number=0, model="tiny", attributes=None, diffusers=False):
    """Return the factor of the state for one evaluation of a step."""
    step = {f"input.{k}": np.asarray(x) for k, x in step.items()}
    step |= {"input.model_output": X} if diffusers else {}
    network = "unet" if model == "tiny" else "transformer"
    calls = {f"{network}.000": {"output": X}, "guidance.000": {"output": X}}
    calls |= {f"{network}.001": {"output": X}, "guidance.001": {"output": X}}
    calls[STEP] = {"output": X} | step
    context = context_of(calls, model, attributes=attributes, params=EULER)
    return inputs._scales_of(context, context.evaluations[number])[0]


def test_later_evaluations_have_levels_of_their_own():
    levels = {"sigma": 3.0, "sigma_at.1": 2.0}
    assert factors_of(levels) == pytest.approx(1.0 / math.sqrt(10.0))
    assert factors_of(levels, 1) == pytest.approx(1.0 / math.sqrt(5.0))
    assert factors_of({"sigma": 3.0}, 1) is None
    assert factors_of({"sigma_at": 2.0, "sigma": 3.0}) == pytest.approx(1.0 / math.sqrt(5.0))
    of_diffusers = factors_of({"sigma": 3.0, "timestep": 501.0}, 1, diffusers=True)
    assert of_diffusers is not None
    assert factors_of({}, 0) is None


def test_states_of_a_flow_have_no_factor():
    path = {STEP: {"path": "flow"}}
    assert factors_of({}, model="flux-tiny") == 1.0
    assert factors_of({}, attributes=path) is None  # the model is none
    context = context_of({STEP: {"input.x": X}}, attributes=path)
    assert context.path is FLOW and context.config.path is not FLOW


class Linear(SimpleNamespace):
    """A schedule whose times are proportional to its levels."""

    def timestep(self, sigma):
        return self.factor * sigma


@pytest.mark.parametrize(
    ("factor", "t", "level"),
    [
        (100.0, 200.0, 2.0),
        (100.0, 399.0, 3.99),
        (100.0, 101.0, 1.01),
        (100.0, 400.3, 4.0),  # a thousandth of the time
        (100.0, 400.5, None),
        (100.0, 99.92, 1.0),
        (100.0, 99.85, None),
        (0.1, 0.4009, 4.0),  # a thousandth
        (0.1, 0.4011, None),
        (-100.0, -400.3, None),
        (0.0, 0.001, None),
        (0.0, 0.0009, 4.0),
    ],
)
def test_the_level_of_a_time_between_those_of_a_schedule(factor, t, level):
    made = Linear(sigmas=np.array([4.0, 2.5, 1.0, 0.0]), factor=factor)
    found = inputs._between(made, t)
    assert found == (None if level is None else pytest.approx(level, rel=1e-6))


# -- scalings -------------------------------------------------------------------------------------


def scaling_rows(sample=X, output=Y, network=Y, times=(9.0, 9.0)):
    calls = {
        "scale_input.000": {
            "input.sample": sample,
            "input.timestep": np.array(times[0]),
            "output": output,
        },
        UNET: {"input.sample": network, "output": X},
        STEP: {"input.x": X, "input.timestep": np.array(times[1])},
    }
    rows, _ = rows_of(inputs._judge_scaling, calls)
    assert {row.call for row in rows} == {"scale_input.000"}
    return {row.kind: row for row in rows}


def test_a_scaling_of_another_step():
    rows = scaling_rows(times=(9.0, 10.0))
    assert rows["timestep"].verdict == "differs" and "step" in rows["timestep"].cause
    for by, verdict in ((0.9e-5, "equal"), (1.1e-5, "differs")):
        assert scaling_rows(times=(10.0 * (1 + by), 10.0))["timestep"].verdict == verdict
    assert set(scaling_rows(network=np.concatenate([Y, Y], axis=0))) == {
        "state", "latents", "timestep",
    }  # fmt: skip
    assert "latents" not in scaling_rows(network=Y[:, :3])


@pytest.mark.parametrize("missing", ["sample", "output", "timestep", "state", "time", "network"])
def test_scalings_of_which_something_was_not_recorded(missing):
    scaling = {"input.sample": X, "input.timestep": np.array(9.0), "output": Y}
    scaling = {k: x for k, x in scaling.items() if not k.endswith(missing)}
    step = {"input.x": X, "input.timestep": np.array(9.0), "output": X}
    network = {"output": X} | ({} if missing == "network" else {"input.sample": Y})
    for name in {"state": ["input.x"], "time": ["input.timestep"]}.get(missing, []):
        del step[name]
    rows, _ = rows_of(
        inputs._judge_scaling, {"scale_input.000": scaling, UNET: network, STEP: step}
    )
    known = ["state", "latents"] if missing in ("timestep", "time") else []
    assert [(row.kind, row.verdict) for row in rows] == [(kind, "equal") for kind in known]


# -- whole runs -----------------------------------------------------------------------------------


def test_a_run_has_rows_for_everything_that_its_denoiser_reads():
    made = context_of({STEP: {"input.x": X}}, params=EULER).make_schedule()
    scaled = X / math.hypot(1.0, made.sigmas[1])
    step = {"input.x": X, "input.timestep": np.array(501.0)}
    calls = {
        "scale_input.000": {"input.sample": X, "input.timestep": np.array(501.0), "output": scaled},
        UNET: {"input.sample": scaled, "input.timestep": np.array(501.0)},
        STEP: step,
    }
    context = context_of(calls, params=EULER)
    kinds = [(row.call, row.kind) for row in inputs.judge_inputs(context)]
    assert kinds == [
        (UNET, "timestep"),
        (UNET, "latents"),
        ("scale_input.000", "state"),
        ("scale_input.000", "latents"),
        ("scale_input.000", "timestep"),
    ]


@pytest.mark.parametrize("steps", [True, False])
def test_networks_without_steps_are_given_what_they_read(steps):
    calls = {UNET: {"input.other": X}, "unet.001": {"input.sample": X}}
    calls |= {STEP: {"output": X}} if steps else {}
    context = context_of(calls)
    assert [*inputs.judge_inputs(context)] == []
    assert context.ledger.has(entry_of(context, UNET), "other") != steps
    assert context.ledger.has(entry_of(context, "unet.001"), "sample") != steps


def test_scales_positions_and_sizes_are_parts_of_a_run():
    calls = {
        TRANSFORMER: {
            "input.sample": WIDE,
            "input.guidance": np.array([2.0]),
            "input.img_ids": PLACES,
        }
    }
    context = context_of(calls, "flux-tiny", params={"cfg_scale": 2.0})
    kinds = [row.kind for row in inputs.judge_inputs(context)]
    assert kinds == ["guidance scale", "positions"]
    sized = {UNET: {"input.sample": X, "input.time_ids": np.zeros((1, 6))}}
    context = replace(context_of(sized), model=Sized())
    assert [row.kind for row in inputs.judge_inputs(context)] == ["micro-conditioning"]
