"""Judges of schedules: levels that known faults give, tables, and the causes that are named."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from host_units import context_of, entry_of, normal

from ldmref.locate.parts import scheduler_faults
from ldmref.locate.pipeline import schedule
from ldmref.math.sigmas import beta_sigmas
from ldmref.samplers import SAMPLERS, SchedulerConfig, make_schedule
from ldmref.samplers.path import FLOW
from ldmref.samplers.schedule import training_alphas_cumprod
from ldmref.samplers.spacings import FLOW_SPACINGS

CONFIG = SchedulerConfig()
FLOWS = SchedulerConfig(prediction_type="flow", spacing="flow", shift=3.0)
DYNAMIC = replace(FLOWS, dynamic_shift=True)
SHAPE = (1, 4, 8, 8)
X = normal(0, *SHAPE)
FORMATS = {"float32": np.float32, "float16": np.float16}


def flow_levels(config=FLOWS, steps=4, tokens=0):
    return make_schedule(config, SAMPLERS["euler"], config.spacing, steps, path=FLOW, tokens=tokens)


def schedule_of(context, config=None):
    made = context.make_schedule(config)
    assert made is not None
    return made


def moved(levels, k):
    """Return levels whose ratios of noise to signal are k times as large."""
    signal = 1.0 - levels
    return k * levels / (signal + k * levels)


# -- tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "cosine"])
def test_tables_have_numbers_of_their_format(form, rescaled, betas):
    """Also one without signal at its end, of which a positive number remains."""
    config = replace(CONFIG, beta_schedule=betas, rescale_betas_zero_snr=rescaled)
    found = training_alphas_cumprod(scheduler_faults.in_format(config, form))
    stored = found.astype(FORMATS[form]).astype(np.float64)
    np.testing.assert_allclose(found, stored, rtol=1e-12)
    assert (np.diff(found) <= 0.0).all() and found[-1] >= 2.0**-24 * (1.0 - 1e-12)


def test_a_number_of_a_table_is_at_least_the_smallest_of_float16():
    vanishing = replace(CONFIG, trained_betas=(0.5, 0.9, 1.0 - 2.0**-30))
    found = training_alphas_cumprod(scheduler_faults.in_format(vanishing, "float16"))
    smallest = float(np.finfo(np.float16).smallest_subnormal)
    np.testing.assert_allclose(found, [0.5, float(np.float16(0.05)), smallest])


def test_alphas_of_known_faults():
    exact = training_alphas_cumprod(CONFIG)
    found = dict(scheduler_faults.other_tables(CONFIG))
    after, before = np.arange(1, 1001), np.arange(-1, 999)
    expected = {
        "alphas_cumprod shifted: that of the next timestep": exact[np.minimum(after, 999)],
        "alphas_cumprod shifted: that of the previous timestep": np.where(
            before < 0, 1.0, exact[before]
        ),
        "1 - alphas_cumprod instead of alphas_cumprod": 1.0 - exact,
        "the square root of alphas_cumprod": exact**0.5,
        "alphas_cumprod in float16": exact.astype(np.float16),
    }
    for text, right in expected.items():
        np.testing.assert_allclose(found[text], right, rtol=2.0**-10, err_msg=text)
    torch = pytest.importorskip("torch")
    rounded = torch.tensor(exact).bfloat16().double().numpy()
    # the product of float32 replaces the one that is rounded once
    np.testing.assert_allclose(found["alphas_cumprod in bfloat16"], rounded, rtol=2.0**-7)


def table_row(change):
    """Return the row of a recorded table of alpha-bar."""
    own = context_of({}).model.config.scheduler
    table = change(training_alphas_cumprod(own))
    calls = {"schedule.000": {"output.alphas_cumprod": table}, "sampler.000": {"input.x": X}}
    context = context_of(calls, params={"steps": 4})
    row = next(schedule.judge_schedule(context))
    assert row.kind == "alphas_cumprod"
    assert context.coverage.has(entry_of(context, "schedule.000"), "alphas_cumprod", "output")
    return row


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda a: a, ""),
        (lambda a: a.astype(np.float16), "alphas_cumprod in float16"),
        (lambda a: np.append(a[1:], a[-1]), "alphas_cumprod shifted: that of the next timestep"),
        (lambda a: np.append(1.0, a[:-1]), "alphas_cumprod shifted: that of the previous timestep"),
        (lambda a: 1.0 - a, "1 - alphas_cumprod instead of alphas_cumprod"),
        (np.sqrt, "the square root of alphas_cumprod"),
    ],
)
def test_tables_of_alphas(change, cause):
    row = table_row(change)
    assert (row.verdict, row.cause) == ("differs" if cause else "equal", cause)


@pytest.mark.parametrize(("apart", "verdict"), [(0.9e-4, "equal"), (1.1e-4, "differs")])
def test_the_smallest_of_a_table_is_judged_by_its_ratio(apart, verdict):
    """An error of 1e-4 there is far below the rounding of the largest."""

    def change(table):
        wrong = table.copy()
        wrong[-1] *= 1.0 + apart
        assert wrong[-1] - table[-1] < 1e-6 * table[0]
        return wrong

    assert table_row(change).verdict == verdict


def test_faults_of_the_smallest_of_a_table_are_named():
    """A rounded table of bfloat16 may have an error that hides them; their ratio shows them."""
    own = context_of({}).model.config.scheduler
    table = training_alphas_cumprod(replace(own, rescale_betas_zero_snr=True))
    calls = {"schedule.000": {"output.alphas_cumprod": table}, "sampler.000": {"input.x": X}}
    context = context_of(calls, dtype="bfloat16", params={"steps": 4})
    row = next(schedule.judge_schedule(context))
    assert np.abs(table - training_alphas_cumprod(own)).max() < row.allowed
    assert (row.verdict, row.cause) == ("differs", "with zero terminal SNR")


# -- levels of known faults -----------------------------------------------------------------------


@pytest.mark.parametrize("own", FLOW_SPACINGS)
def test_other_spacings_of_a_flow(own):
    config = replace(FLOWS, spacing=own)
    found = {
        text: changed.spacing
        for text, changed in scheduler_faults.config_faults(config)
        if text.startswith("spacing")
    }
    others = [name for name in FLOW_SPACINGS if name != own]
    assert found == {f"spacing {name} instead of {own}": name for name in others}


@pytest.mark.parametrize("steps", [2, 5])
def test_ends_of_levels_that_are_shifted_once(steps):
    made = flow_levels(steps=steps)
    found = dict(scheduler_faults.other_levels(FLOWS, made, 0))
    once = found["the end of the levels is shifted once instead of twice"]
    even = np.linspace(1.0, 1e-3, steps)
    np.testing.assert_allclose(once.sigmas, [*moved(even, 3.0), 0.0])
    np.testing.assert_allclose(once.timesteps, 1000.0 * moved(even, 3.0))


@pytest.mark.parametrize("tokens", [64, 4096])
@pytest.mark.parametrize("steps", [2, 5])
@pytest.mark.parametrize("rule", ["linear", "empirical"])
def test_levels_of_other_numbers_of_tokens_are_those_of_their_images(tokens, steps, rule):
    config = replace(DYNAMIC, shift_rule=rule)
    made = flow_levels(config, steps, tokens)
    found = dict(scheduler_faults.other_levels(config, made, tokens))
    for other in (4 * tokens, tokens // 4):
        right = flow_levels(config, steps, other)
        levels = found[f"the shift of {other} image tokens instead of {tokens}"]
        np.testing.assert_allclose(levels.sigmas, right.sigmas)
        np.testing.assert_allclose(levels.timesteps, right.timesteps)


def test_levels_that_diffusion_models_space():
    """By Karras, in log sigma and by quantiles, each between ends of which one is right."""
    steps, total = 5, 1000
    made = flow_levels(steps=steps)
    found = dict(scheduler_faults.other_levels(FLOWS, made, 0))
    first, last = made.sigmas[0], made.sigmas[steps - 1]
    way = np.linspace(0.0, 1.0, steps)

    def karras(end):
        return (first ** (1 / 7) + way * (end ** (1 / 7) - first ** (1 / 7))) ** 7

    spaced = {
        "karras": karras,
        "exponential": lambda end: np.geomspace(first, end, steps),
        "beta": lambda end: beta_sigmas(steps, end, first),
    }
    expected = {}
    for name, levels in spaced.items():
        words = f"spacing {name} instead of flow"
        expected |= {
            f"{words}, without the shift": levels(1.0 / total),
            f"{words}, shifted afterwards": moved(levels(1.0 / total), 3.0),
            f"{words}, between the ends of the shifted levels": levels(last),
        }
    assert {text for text in found if text.startswith("spacing")} == expected.keys()
    for text, right in expected.items():
        np.testing.assert_allclose(found[text].sigmas, [*right, 0.0], err_msg=text)
        np.testing.assert_allclose(found[text].timesteps, total * right, err_msg=text)


def test_without_a_number_of_steps_there_are_no_other_schedules():
    context = context_of({})
    assert not [*schedule.other_schedules(context)] and not context.notes
    known = context_of({}, params={"steps": 4})
    found = dict(schedule.other_schedules(known))
    offset = known.config.steps_offset
    other = found[f"steps_offset {1 - offset} instead of {offset}"]
    right = schedule_of(known, replace(known.config, steps_offset=1 - offset))
    assert np.array_equal(other.timesteps, right.timesteps) and not known.notes


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("shift", [0.25, 3.0])
def test_a_shift_is_read_at_the_first_level_inside(turned, shift):
    """Levels rise where images are inverted."""
    levels = np.array([0.0, 0.2, 0.7, 1.0])
    levels = levels[::-1] if turned else levels
    assert scheduler_faults.fit_shift(moved(levels, shift), levels) == pytest.approx(shift)


# -- causes ---------------------------------------------------------------------------------------


def judged(change, model="tiny", **params):
    """Return the rows of recorded timesteps and levels by kind, and the schedule as it should be.

    Args:
        change: Returns the recorded ones of the right ones.
        model: The model.
        **params: More of the request.
    """
    wanted = {"steps": 5, "sampler": "euler"} | params
    step = {"sampler.000": {"input.x": X}}
    made = schedule_of(context_of(step, model, params=wanted))
    timesteps, sigmas = change(made)
    calls = {"schedule.000": {"output.timesteps": timesteps, "output.sigmas": sigmas}, **step}
    context = context_of(calls, model, params=wanted)
    rows = {row.kind: row for row in schedule.judge_schedule(context)}
    entry = entry_of(context, "schedule.000")
    assert context.coverage.has(entry, "timesteps", "output")
    assert context.coverage.has(entry, "sigmas", "output") == ("sigmas" in rows)
    return rows, made


@pytest.mark.parametrize("own", ["linspace", "leading"])
@pytest.mark.parametrize("spacing", schedule.SPACINGS)
def test_each_other_spacing_is_named(spacing, own):
    names = {"beta_sigma", "exponential", "karras", "leading", "linspace", "trailing"}
    assert {*schedule.SPACINGS} == names
    wanted = {"steps": 5, "sampler": "euler", "schedule": spacing}
    other = schedule_of(context_of({"sampler.000": {"input.x": X}}, params=wanted))
    rows, _ = judged(lambda made: (other.timesteps, other.sigmas), schedule=own)
    for row in rows.values():
        assert (row.verdict, row.cause) in (
            ("equal", ""),
            ("differs", f"spacing {spacing}"),
        )
        assert (row.verdict == "equal") == (spacing == own)


@pytest.mark.parametrize("whole", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("spacing", ["karras", "exponential"])
def test_spacings_of_diffusers_begin_where_its_timesteps_do(spacing, whole):
    """The levels are those of diffusers' scheduler; what was recorded says another spacing."""
    diffusers = pytest.importorskip("diffusers")
    own = context_of({}).model.config.scheduler
    config = {"timestep_spacing": whole, "steps_offset": 1, "beta_schedule": own.beta_schedule,
              "beta_start": own.beta_start, "beta_end": own.beta_end}  # fmt: skip
    port = diffusers.EulerDiscreteScheduler(**config, **{f"use_{spacing}_sigmas": True})
    port.set_timesteps(5)
    calls = {
        "schedule.000": {"output.sigmas": port.sigmas.double().numpy()},
        "sampler.000": {"input.model_output": X, "input.sample": X},
    }
    said = {"class": "EulerDiscreteScheduler", "config": config}
    context = context_of(calls, params={"steps": 5}, scheduler=said)
    (row,) = schedule.judge_schedule(context)
    assert (row.kind, row.verdict, row.cause) == ("sigmas", "differs", f"spacing {spacing}")


@pytest.mark.parametrize(("apart", "verdict"), [(0.9e-4, "equal"), (1.1e-4, "differs")])
def test_levels_are_allowed_the_rounding_of_a_table(apart, verdict):
    def change(made):
        timesteps, sigmas = made.timesteps.copy(), made.sigmas.copy()
        timesteps[1] += apart * timesteps[0]
        sigmas[1] += apart * sigmas[0]
        return timesteps, sigmas

    rows, _ = judged(change)
    found = {kind: row.verdict for kind, row in rows.items()}
    assert found == {"timesteps": verdict, "sigmas": verdict}


def test_shifts_of_recorded_levels_are_said():
    """Of a flow, the shift that was made and that of the model: e^mu, linear in the tokens."""

    def shifted(made):
        sigmas = moved(made.sigmas, 2.0)
        return 1000.0 * sigmas[:-1], sigmas

    rows, _ = judged(shifted, "flux-tiny")
    context = context_of({"sampler.000": {"input.x": X}}, "flux-tiny")
    config, tokens = context.config, context.tokens
    slope = (config.max_shift - config.base_shift) / (
        config.max_image_seq_len - config.base_image_seq_len
    )
    factor = math.exp(config.base_shift + slope * (tokens - config.base_image_seq_len))
    assert rows["sigmas"].cause == f"shift {2.0 * factor:.5g} instead of {factor:.5g}"
    rows, _ = judged(
        lambda made: (made.timesteps, scheduler_faults.shift_levels(made.sigmas, 1.25))
    )
    assert rows["sigmas"].cause == "sigma shift 1.25"


def test_timesteps_that_are_whole():
    rows, made = judged(lambda made: (np.floor(made.timesteps), made.sigmas), schedule="karras")
    assert (made.timesteps % 1.0 > 0.0).any()
    assert rows["timesteps"].cause == "the timesteps are truncated to whole numbers"
    assert rows["sigmas"].verdict == "equal"


def test_levels_of_a_request_are_compared_with_no_others():
    arrays = {"input.timesteps": np.arange(3.0)[::-1], "input.sigmas": np.arange(4.0)[::-1]}
    context = context_of({"schedule.000": arrays, "sampler.000": {"input.x": X}})
    assert not [*schedule.judge_schedule(context)]
    entry = entry_of(context, "schedule.000")
    assert context.coverage.has(entry, "timesteps") and context.coverage.has(entry, "sigmas")


def test_schedules_that_are_made_again():
    first = {
        "output.timesteps": np.array([900.0, 300.0]),
        "output.sigmas": np.array([9.0, 3.0, 0.0]),
    }
    again = {"output.timesteps": np.array([900.0, 301.0]), "output.sigmas": np.array([9.0, 0.0])}
    calls = {"schedule.000": first, "schedule.001": again}

    def rows_of(**manifest):
        context = context_of(calls, **manifest)
        entries = [entry_of(context, name) for name in calls]
        rows = [*schedule._judge_again(context, *entries)]
        marked = [
            context.coverage.has(entries[1], role, "output") for role in ("timesteps", "sigmas")
        ]
        why = {key[1:]: words for key, words in context.coverage.reasons.items()}
        return [(row.call, row.kind, row.verdict) for row in rows], marked, why

    rows, marked, why = rows_of()
    assert rows == [("schedule.001", "timesteps", "differs")] and marked == [True, False]
    assert why == {("output", "sigmas"): "another schedule than the first"}
    assert rows_of(branch="b") == ([], [False, False], {})


# -- levels of second evaluations -----------------------------------------------------------------


def second_levels(change, sampler="heun"):
    """Return the rows of a list that has each level between steps twice, and is changed."""
    params = {"steps": 4, "sampler": sampler}
    levels = schedule_of(context_of({"sampler.000": {"input.x": X}}, params=params)).sigmas
    listed = np.concatenate([levels[:1], np.repeat(levels[1:-1], 2), levels[-1:]])
    calls = {"schedule.000": {"output.sigmas": change(listed)}, "sampler.000": {"input.x": X}}
    rows = [*schedule.judge_schedule(context_of(calls, params=params))]
    return [(row.kind, row.verdict) for row in rows]


def with_number(place, factor):
    def change(levels):
        changed = levels.copy()
        changed[place] *= factor
        return changed

    return change


RIGHT_LEVELS = ("sigmas", "equal")


@pytest.mark.parametrize("sampler", ["heun", "dpm2"])
def test_levels_that_are_listed_twice_are_those_of_the_steps_ends(sampler):
    assert second_levels(np.copy, sampler) == [RIGHT_LEVELS]
    assert second_levels(lambda x: np.pad(x, (0, 2), mode="edge"), sampler) == [RIGHT_LEVELS]


@pytest.mark.parametrize("place", [2, 4, 6])
@pytest.mark.parametrize("factor", [0.9, np.inf, np.nan])
def test_a_level_of_heuns_second_evaluation_is_judged(place, factor):
    found = second_levels(with_number(place, factor))
    assert found[0] == RIGHT_LEVELS
    assert found[1][0] == "sigmas of second evaluations" and found[1][1] != "equal"
    assert second_levels(with_number(place, 1.0 + 1e-6)) == [
        RIGHT_LEVELS, ("sigmas of second evaluations", "equal")
    ]  # fmt: skip


def test_other_levels_between_steps_are_not_judged():
    assert second_levels(with_number(4, 0.9), "dpm2") == [RIGHT_LEVELS, ("sigmas", "not judged")]


def test_a_wrong_level_at_the_end_of_a_step_is_named_once():
    assert second_levels(with_number(3, 0.9)) == [("sigmas", "differs")]
