"""Judges of schedules, added noise and steps, on arrays that are built by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, entry_of, normal

from ldmref.locate.parts import scheduler_faults
from ldmref.locate.parts.step_faults import StepSettings, step_faults
from ldmref.locate.pipeline import added_noise, schedule, steps
from ldmref.locate.pipeline.known_parts import judge_known_parts
from ldmref.samplers import SAMPLERS, SchedulerConfig, make_schedule
from ldmref.samplers.path import FLOW
from ldmref.samplers.schedule import training_alphas_cumprod

CONFIG = SchedulerConfig()
FLOWS = SchedulerConfig(prediction_type="flow", spacing="flow", shift=3.0)
SHAPE = (1, 4, 8, 8)
EPSILON = 2.0**-23


# -- schedules ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_shifts_of_levels(shift):
    levels = np.linspace(1.0, 0.0, 6)
    moved = scheduler_faults.shift_levels(levels, shift)
    np.testing.assert_allclose(
        moved[1:-1] / (1 - moved[1:-1]), shift * levels[1:-1] / (1 - levels[1:-1])
    )
    assert moved[0] == 1.0 and moved[-1] == 0.0
    assert scheduler_faults.fit_shift(moved, levels) == pytest.approx(shift)
    back = scheduler_faults.shift_levels(moved, 1.0 / shift)
    np.testing.assert_allclose(back, levels, atol=1e-15)


def test_a_shift_that_cannot_be_told_is_one():
    levels = np.array([1.0, 0.5, 0.0])
    assert scheduler_faults.fit_shift(levels[:2], levels) == 1.0
    assert scheduler_faults.fit_shift(levels, np.array([1.0, 0.0, 0.0])) == 1.0
    assert scheduler_faults.fit_shift(np.ones(3), levels) == 1.0


def test_levels_that_are_listed_twice():
    ends = np.array([9.0, 4.0, 1.0, 0.0])
    middle = np.array([9.0, 4.0, 4.0, 1.0, 1.0, 0.0])
    assert np.array_equal(schedule._without_repeats(middle, 4), ends)
    padded = np.append(middle, [0.0, 0.0])
    assert np.array_equal(schedule._without_repeats(padded, 4), ends)
    near = middle * (1.0 + 1e-3 * np.arange(6))  # of levels between steps, not twice the same
    assert np.array_equal(schedule._without_repeats(near, 4), near[[0, 1, 3, 5]])
    assert schedule._without_repeats(ends, 4) is ends
    apart = np.append(near, [0.5, 0.0])  # as long as a padded list, and no list of pairs
    assert schedule._without_repeats(apart, 4) is apart
    longer = np.append(near, [0.5, 0.4, 0.3, 0.0])
    assert schedule._without_repeats(longer, 4) is longer
    other = np.append(ends, 0.0)
    assert schedule._without_repeats(other, 4) is other


def test_tables_in_a_format():
    assert scheduler_faults.in_format(FLOWS, "float16") is FLOWS
    exact = training_alphas_cumprod(CONFIG)
    for form, unit in (("float32", 2.0**-24), ("float16", 2.0**-11), ("bfloat16", 2.0**-8)):
        found = training_alphas_cumprod(scheduler_faults.in_format(CONFIG, form))
        # a product of up to 1000 factors in float32, rounded once
        bound = unit + 2.0 * 1000 * 2.0**-24
        assert np.abs(found / exact - 1.0).max() <= bound
        if form != "float32":
            assert np.abs(found / exact - 1.0).max() > unit / 4.0


def test_faults_of_a_forward_process():
    found = dict(scheduler_faults.config_faults(CONFIG))
    assert found["with zero terminal SNR"].rescale_betas_zero_snr
    zero = replace(CONFIG, rescale_betas_zero_snr=True)
    assert not dict(scheduler_faults.config_faults(zero))[
        "without zero terminal SNR"
    ].rescale_betas_zero_snr
    names = {text for text in found if text.startswith("betas")}
    others = {"linear", "scaled_linear", "cosine"} - {CONFIG.beta_schedule}
    assert names == {f"betas {name} instead of {CONFIG.beta_schedule}" for name in others}
    trained = replace(CONFIG, trained_betas=(0.1, 0.2))
    betas = [x for text, x in scheduler_faults.config_faults(trained) if text.startswith("betas")]
    assert len(betas) == 3 and not any(x.trained_betas for x in betas)
    for offset in (0, 1):
        config = replace(CONFIG, steps_offset=offset)
        texts = [
            text for text, _ in scheduler_faults.config_faults(config) if "steps_offset" in text
        ]
        assert texts == [f"steps_offset {1 - offset} instead of {offset}"]
    for last, (sigma, alpha, other) in {
        "zero": ("the smallest of the table", "that of timestep 0", "sigma_min"),
        "sigma_min": ("0", "1", "zero"),
    }.items():
        config = replace(CONFIG, final_sigma=last, final_alpha=last)
        found = dict(scheduler_faults.config_faults(config))
        assert found[f"the last sigma is {sigma}"].final_sigma == other
        assert found[f"the last alpha_bar is {alpha} (set_alpha_to_one)"].final_alpha == other


def test_faults_of_a_flow():
    found = dict(scheduler_faults.config_faults(FLOWS))
    assert found["the levels are shifted twice"].shift == 9.0
    assert found["shift 1 instead of shift 3"].shift == 1.0
    assert "shift 3 instead of shift 3" not in found
    assert found["a shift by the tokens instead of a constant one"].dynamic_shift
    even = dict(scheduler_faults.config_faults(replace(FLOWS, shift=1.0)))
    assert "shift 3 instead of shift 1" in even and "the levels are shifted twice" not in even
    dynamic = dict(scheduler_faults.config_faults(replace(FLOWS, dynamic_shift=True)))
    assert {text for text in dynamic if "tokens" in text} == {
        "shift 1 instead of a shift by the tokens", "shift 3 instead of a shift by the tokens",
    }  # fmt: skip
    assert not any(x.dynamic_shift for text, x in dynamic.items() if "tokens" in text)
    spacings = {text for text in found if text.startswith("spacing")}
    assert spacings and not any(text.startswith(f"spacing {FLOWS.spacing} ") for text in spacings)


def test_other_levels_of_a_flow():
    made = make_schedule(FLOWS, SAMPLERS["euler"], FLOWS.spacing, 4, path=FLOW)
    found = dict(scheduler_faults.other_levels(FLOWS, made, 0))
    assert not [*scheduler_faults.other_levels(CONFIG, made, 0)]
    total = FLOWS.num_train_timesteps
    for text, other in found.items():
        np.testing.assert_allclose(other.timesteps, total * other.sigmas[:4], err_msg=text)
        assert other.sigmas.shape == made.sigmas.shape
        assert other.sigmas.max() <= 1.0 + 1e-12 and (np.diff(other.sigmas) <= 0.0).all()
    plain = found["shift 1 instead of shift 3"].sigmas
    np.testing.assert_allclose(scheduler_faults.shift_levels(plain, 3.0), made.sigmas, atol=1e-12)
    twice = found["the levels are shifted twice"].sigmas
    np.testing.assert_allclose(twice, scheduler_faults.shift_levels(plain, 9.0), atol=1e-12)
    last = found["the last evaluation is at level 0"].sigmas
    assert last[0] == 1.0 and last[3] == last[4] == 0.0
    np.testing.assert_allclose(
        scheduler_faults.shift_levels(last, 1 / 3)[:4], [1.0, 2 / 3, 1 / 3, 0.0], atol=1e-12
    )
    whole = found["the levels are made of whole timesteps"]
    assert np.array_equal(whole.timesteps, np.rint(made.timesteps))
    assert len([text for text in found if "karras" in text]) == 3
    dynamic = dict(scheduler_faults.other_levels(replace(FLOWS, dynamic_shift=True), made, 64))
    assert "the last evaluation is at level 0" not in dynamic
    even = dict(scheduler_faults.other_levels(replace(FLOWS, shift=1.0), made, 0))
    assert (
        "the last evaluation is at level 0" in even and "the levels are shifted twice" not in even
    )


# -- settings of steps ----------------------------------------------------------------------------


def test_other_settings_of_steps():
    right = StepSettings(CONFIG, SAMPLERS["ddim"], True, eta=0.5)
    found = dict(step_faults(right))
    kind = CONFIG.prediction_type
    assert found[f"the sign of the prediction ({kind}) is reversed"] == replace(right, sign=-1.0)
    for other in {"eps", "v", "x0"} - {kind}:
        text = f"the prediction is read as {other} instead of {kind}"
        read = replace(right, prediction_type=other)
        assert found[text] == read
        assert found[f"{text}, with the sign reversed"] == replace(read, sign=-1.0)
    assert f"the prediction is read as {kind} instead of {kind}" not in found
    before = "the previous timestep is the next of the schedule instead of t - T // n"
    assert found[before] == replace(right, compatible=False)
    after = "the previous timestep is t - T // n instead of the next of the schedule"
    assert dict(step_faults(replace(right, compatible=False)))[after] == right
    etas = {text: x.eta for text, x in found.items() if text.startswith("eta")}
    assert etas == {"eta 0 instead of 0.5": 0.0, "eta 1 instead of 0.5": 1.0}
    assert not any(t.startswith("eta") for t, _ in step_faults(replace(right, eta=None)))
    assert found["the history of the multistep method is lost"] == replace(right, forgets=True)
    for limit, text in ((1.0, "x0 is clipped to +-1"), (0.0, "x0 is not clipped")):
        own = replace(right, config=replace(CONFIG, clip_sample_range=limit))
        other = dict(step_faults(replace(right, config=replace(CONFIG, clip_sample_range=2.0))))
        assert other[text] == own and text not in dict(step_faults(own))
    lower = replace(right, config=replace(CONFIG, lower_order_final=False))
    assert dict(step_faults(lower))["lower_order_final True"].config.lower_order_final is True
    assert "lower_order_final False" not in dict(step_faults(lower))
    kinds = {
        text.split()[3]: x.sampler for text, x in found.items() if text.startswith("a step of")
    }
    expected = {
        name for name, x in SAMPLERS.items()
        if x is not right.sampler and not (x.guides or x.stochastic or x.adaptive)
    }  # fmt: skip
    assert kinds.keys() == expected and all(SAMPLERS[name] is x for name, x in kinds.items())
    assert all(x.eta is None for text, x in found.items() if text.startswith("a step of"))


# -- rounding of a step ---------------------------------------------------------------------------


def test_the_rounding_of_a_step_grows_with_its_state():
    one = np.array([1.0, -0.5])
    assert steps._least(EPSILON, one, one) == 16.0 * EPSILON
    assert steps._least(EPSILON, 2.75 * one, one) == 16.0 * EPSILON
    assert steps._least(EPSILON, 100.0 * one, one) == pytest.approx(405.0 * EPSILON)
    assert steps._least(EPSILON, one, 0.0 * one) == 16.0 * EPSILON
    moved = one + np.array([0.0, 1e-3])
    assert steps._least(EPSILON, one, one, moved) == pytest.approx(4e-3)
    assert steps._least(EPSILON, one, one, one) == 16.0 * EPSILON
    assert steps._least(EPSILON, one, one, one * np.inf) == 16.0 * EPSILON


def test_what_a_step_recorded_within():
    arrays = [normal(i, 2) for i in range(4)]
    whole = steps.Followed(arrays[0], arrays[1], arrays[2], [(arrays[3], 5.0), (arrays[0], 2.0)])
    rough = whole._replace(x0=arrays[3], seen=whole.seen[:1])
    found = [(side, role, right) for side, role, right, _ in whole.within(rough)]
    assert [x[:2] for x in found] == [
        ("output", "x0"), ("input", "x0"), ("input", "x_at"), ("input", "sigma_at"),
        ("input", "x_at.1"), ("input", "sigma_at.1"),
    ]  # fmt: skip
    low = [x for *_, x in whole.within(rough)]
    assert low[0] is low[1] is arrays[3] and low[2] is arrays[3]
    assert low[3] is low[4] is low[5] is None
    assert not [*whole._replace(x0=None, seen=()).within(rough)]
    assert {x is None for *_, x in whole.within(None)} == {True}


def times_of(times, listed=(900, 600, 300), **manifest):
    calls = {"schedule.000": {"output.timesteps": np.array(listed, float)}}
    calls |= {f"sampler.{i:03}": {"input.timestep": np.array(t)} for i, t in enumerate(times)}
    context = context_of(calls, **manifest)
    rows = [*steps.judge_times(context)]
    return [(row.call, row.note) for row in rows]


def test_times_of_steps_follow_the_schedule():
    assert times_of((900.0, 600.0, 300.0)) == []
    assert times_of((900.0, 600.0 * (1 + 9e-6), 300.0)) == []
    assert times_of((900.0, 600.0 * (1 + 2e-5))) == [
        ("sampler.001", "timestep 600.012 instead of 600")
    ]
    assert times_of((900.0, 300.0)) == [("sampler.001", "timestep 300 instead of 600")]
    assert times_of((900.0, 300.0), selection={"steps": [0, 2]}) == []
    twice = [("sampler.001", "timestep 900 instead of 600")]
    assert times_of((900.0, 900.0), selection={"steps": [0, 2]}) == twice
    assert times_of((600.0, 600.0), (600, 600, 300), selection={"steps": [0, 1]}) == []
    assert times_of((600.0, 300.0)) == []  # of an image
    assert times_of((899.0,)) == [("sampler.000", "timestep 899 instead of 900")]
    assert times_of((900.0, 600.0, 900.0, 600.0)) == []  # another image
    assert times_of((900.0, 600.0, 600.0)) == [("sampler.002", "timestep 600 instead of 300")]
    assert times_of((900.0, 600.0, 600.0, 300.0), (900, 600, 600, 300)) == []  # PNDM
    assert times_of((300.0, 200.0)) == [("sampler.001", "timestep 200 instead of 300")]


def levels_of(pairs, sigmas=(9.0, 4.0, 1.0, 0.0), attributes=None):
    calls = {"schedule.000": {"output.sigmas": np.array(sigmas)}}
    for i, pair in enumerate(pairs):
        roles = ("sigma", "sigma_next")
        calls[f"sampler.{i:03}"] = {
            f"input.{role}": np.array(x) for role, x in zip(roles, pair, strict=False)
        }
    context = context_of(calls, attributes=attributes)
    found = context.read_output(context.schedule_entry, "sigmas")
    rows = [row for e in context.calls("sampler") for row in steps._judge_levels(context, e, found)]
    return [row.call for row in rows]


def test_levels_of_steps_are_neighbours_in_the_schedule():
    assert levels_of([(9.0, 4.0), (4.0, 1.0), (1.0, 0.0)]) == []
    assert levels_of([(9.0,), (4.0,)]) == []
    assert levels_of([(9.0, 1.0)]) == ["sampler.000"]
    assert levels_of([(9.0, 4.0 * (1 + 5e-6))]) == []
    assert levels_of([(9.0, 4.0 * (1 + 5e-5))]) == ["sampler.000"]
    assert levels_of([(4.0, 9.0)]) == ["sampler.000"]
    jump = {"sampler.000": {"i": 2, "i_next": 0}}
    assert levels_of([(1.0, 9.0)], attributes=jump) == []
    assert levels_of([(9.0, 4.0)], attributes=jump) == ["sampler.000"]
    beyond = {"sampler.000": {"i": 2, "i_next": 4}}
    assert levels_of([(9.0, 4.0)], attributes=beyond) == []


# -- added noise ----------------------------------------------------------------------------------

X0, NOISE = normal(0, *SHAPE), normal(1, *SHAPE)


def test_the_mixture_of_a_flow():
    context = SimpleNamespace(sigma_at=lambda t: 0.3, config=FLOWS, make_schedule=lambda: None)
    right, changes = added_noise._mix_of_flow(context, 300.0, X0, NOISE)
    np.testing.assert_allclose(right, 0.7 * X0 + 0.3 * NOISE)
    expected = {
        "the noise is not added": X0,
        "only the noise": NOISE,
        "image and noise are exchanged": 0.3 * X0 + 0.7 * NOISE,
        "added as x0 + sigma noise: x0 is not multiplied by 1 - sigma": X0 + 0.3 * NOISE,
        "added variance-preserving, x0 by sqrt(1 - sigma^2)": math.sqrt(0.91) * X0 + 0.3 * NOISE,
    }
    assert changes.keys() == expected.keys()
    for text, x in expected.items():
        np.testing.assert_allclose(changes[text], x, err_msg=text)
    context.sigma_at = lambda t: None
    right, _ = added_noise._mix_of_flow(context, 200.0, X0, NOISE)
    np.testing.assert_allclose(right, 0.8 * X0 + 0.2 * NOISE)
    levels = np.array([1.0, 0.6, 0.2, 0.0])
    context.make_schedule = lambda: SimpleNamespace(sigmas=levels)
    for level, names in (
        (1.0, {"next": 0.6}),
        (0.6, {"next": 0.2, "previous": 1.0}),
        (0.0, {"previous": 0.2}),
    ):
        context.sigma_at = lambda t, level=level: level
        _, changes = added_noise._mix_of_flow(context, 0.0, X0, NOISE)
        found = {text: x for text, x in changes.items() if text.startswith("noise of")}
        assert found.keys() == {f"noise of the {name} step" for name in names}
        for name, other in names.items():
            right = (1.0 - other) * X0 + other * NOISE
            np.testing.assert_allclose(found[f"noise of the {name} step"], right)


@pytest.mark.parametrize("family", ["euler", "ddim"])
@pytest.mark.parametrize("known", [True, False])
def test_the_mixture_of_a_diffusion(family, known):
    table = training_alphas_cumprod(CONFIG)
    level = math.sqrt(1.0 / table[400] - 1.0)
    context = SimpleNamespace(
        config=CONFIG,
        choose_sampler=lambda config: (SimpleNamespace(family=family), ""),
        sigma_at=lambda t: level if known else None,
    )

    def mixed(alpha_bar):
        return math.sqrt(alpha_bar) * X0 + math.sqrt(1.0 - alpha_bar) * NOISE

    right, changes = added_noise._mix_of_diffusion(context, 400.0, X0, NOISE)
    exploded = X0 + level * NOISE
    np.testing.assert_allclose(right, exploded if family == "euler" else mixed(table[400]))
    expected = {
        "added as x0 + sigma noise, not variance-preserving": exploded,
        "added variance-preserving, not as x0 + sigma noise": mixed(table[400]),
        "the noise is not added": X0,
        "only the noise": NOISE,
        "image and noise are exchanged": (
            math.sqrt(table[400]) * NOISE + math.sqrt(1.0 - table[400]) * X0
        ),
        "noise of the next training timestep": mixed(table[401]),
        "noise of the previous training timestep": mixed(table[399]),
    }
    assert changes.keys() == expected.keys()
    for text, x in expected.items():
        np.testing.assert_allclose(changes[text], x, rtol=1e-9, err_msg=text)
    ends = {999: ("next", 999), 0: ("previous", 0), 5000: ("next", 999), -3: ("previous", 0)}
    for t, (name, index) in ends.items():
        _, changes = added_noise._mix_of_diffusion(context, float(t), X0, NOISE)
        found = changes[f"noise of the {name} training timestep"]
        np.testing.assert_allclose(found, mixed(table[index]), rtol=1e-9)


def test_mixtures_are_fitted_by_channel():
    right = 0.7 * X0 + 0.3 * NOISE

    def text_of(got, x0=X0, noise=NOISE, expected=right):
        found = added_noise._fitted(got, x0, noise, expected)
        return next(iter(found), None)

    gain = np.array([1.5, 2.0, 2.5, 3.0])[:, None, None]
    assert text_of(0.7 * X0 + 0.6 * NOISE) == "the noise is multiplied by 2"
    assert text_of(0.35 * X0 + 0.3 * NOISE) == "the image is multiplied by 0.5"
    words = "the image is multiplied by 1.5 to 3 by channel"
    assert text_of(gain * 0.7 * X0 + 0.3 * NOISE) == words
    assert text_of(right + gain) == "1.5 to 3 is added"
    assert text_of(right) == "image and noise are mixed"
    both = text_of(1.4 * X0 + 0.9 * NOISE)
    assert both == "the image is multiplied by 2; the noise is multiplied by 3"
    assert text_of(0.7 * 1.0005 * X0 + 0.3 * NOISE) == "image and noise are mixed"
    assert text_of(0.7 * 1.002 * X0 + 0.3 * NOISE) == "the image is multiplied by 1.002"
    near = np.array([2.0, 2.001, 2.0, 2.0])[:, None, None]
    assert text_of(0.7 * near * X0 + 0.3 * NOISE) == "the image is multiplied by 2"
    exact = 1.3 * X0 + 0.1 * NOISE - 0.5
    (fit,) = added_noise._fitted(exact, X0, NOISE, right).values()
    np.testing.assert_allclose(fit, exact, atol=1e-12)
    assert text_of(right[0], X0[0], NOISE[0], right[0]) is None
    assert text_of(right * np.nan) is None
    cut = (..., slice(0, 5), slice(0, 3))
    assert text_of(right[cut], X0[cut], NOISE[cut], right[cut]) is None  # 15 numbers
    cut = (..., slice(0, 4), slice(0, 4))
    assert text_of(right[cut], X0[cut], NOISE[cut], right[cut]) is not None


def test_a_mixture_without_image_or_noise_has_no_ratios():
    """Nothing is a multiple of zero."""
    for zero in (X0 * 0.0, NOISE * 0.0):
        with np.errstate(all="raise"):
            assert [*added_noise._fitted(X0, X0, NOISE, zero)] == ["image and noise are mixed"]


@pytest.mark.parametrize("change", ["input.x0", "input.noise", "input.timestep", "output", "time"])
@pytest.mark.parametrize("place", range(3))
def test_noise_that_lacks_an_array_leaves_the_other_calls(place, change):
    """A time that is no number is not judged; what has no array has no row."""
    table = training_alphas_cumprod(context_of({}).config)
    right = math.sqrt(table[400]) * X0 + math.sqrt(1.0 - table[400]) * NOISE
    whole = {"input.x0": X0, "input.noise": NOISE, "input.timestep": np.array(400.0)}
    calls = {f"add_noise.00{i}": {**whole, "output": right} for i in range(3)}
    name = f"add_noise.00{place}"
    if change == "time":
        calls[name]["input.timestep"] = np.array(np.inf)
    else:
        del calls[name][change]
    context = context_of(calls, params={"steps": 4, "sampler": "ddim"})
    rows = [row for row in added_noise.judge_added_noise(context) if row.kind == "add_noise"]
    expected = dict.fromkeys(calls, "equal")
    if change == "time":
        expected[name] = "not judged"
    else:
        del expected[name]
    assert {row.call: row.verdict for row in rows} == expected


def noise_rows(calls):
    context = context_of(calls)
    entries = context.calls("add_noise")
    return [row.verdict for e in entries for row in added_noise._judge_noise(context, e)]


def test_noise_is_judged_once():
    one = {"input.noise": NOISE}
    assert noise_rows({"add_noise.000": one}) == ["equal"]
    assert noise_rows({"add_noise.000": one, "add_noise.001": one}) == ["equal"]
    other = {"input.noise": normal(2, *SHAPE)}
    assert noise_rows({"add_noise.000": one, "add_noise.001": other}) == ["equal"] * 2
    assert noise_rows({"add_noise.000": {"input.noise": 2 * NOISE}}) == ["differs"]
    given = {"inputs.000": {"input.latents": NOISE}, "add_noise.000": one}
    assert noise_rows(given) == []


# -- known parts ----------------------------------------------------------------------------------


def test_levels_of_other_numbers_of_tokens():
    dynamic = replace(FLOWS, dynamic_shift=True)
    made = make_schedule(FLOWS, SAMPLERS["euler"], FLOWS.spacing, 4, path=FLOW)
    for tokens, others in ((64, (256, 16)), (4, (16, 1)), (3, (12,))):
        found = [text for text, _ in scheduler_faults.other_levels(dynamic, made, tokens)]
        found = [text for text in found if text.startswith("the shift of")]
        assert found == [f"the shift of {n} image tokens instead of {tokens}" for n in others]


def test_a_jump_back_adds_noise():
    """x at sigma 4 becomes x at sigma 9 by noise of the variance 81 - 16."""
    state, noise = normal(0, *SHAPE), normal(1, *SHAPE)
    right = state + math.sqrt(65.0) * noise

    def rows_of(got=right, level=9.0, following=None):
        calls = {
            "sampler.000": {"input.sigma_next": np.array(4.0), "output": state},
            "jump.000": {"input.noise": noise, "input.sigma": np.array(level), "output": got},
            "sampler.001": {
                "input.sigma": np.array(9.0),
                "input.x": got if following is None else following,
            },
        }
        rows = [*judge_known_parts(context_of(calls))]
        return {row.kind: (row.verdict, row.cause) for row in rows}

    kinds = ("noise", "jump level", "jump", "state")
    assert rows_of() == dict.fromkeys(kinds, ("equal", ""))
    assert rows_of(state)["jump"] == ("differs", "the state before the jump")
    assert rows_of(math.sqrt(65.0) * noise)["jump"] == ("differs", "only the noise")
    for apart, verdict in ((0.9e-6, "equal"), (1.1e-6, "differs")):
        assert rows_of(level=9.0 * (1.0 + apart))["jump level"][0] == verdict
    for apart, verdict in ((0.9e-5, "equal"), (1.1e-5, "differs")):
        moved = right.copy()
        moved.flat[3] += apart * np.abs(right).max()
        rows = rows_of(moved)
        assert (rows["jump"][0], rows["state"][0]) == (verdict, "equal")
    assert rows_of(following=right + 1.0)["state"][0] == "differs"


@pytest.mark.parametrize("first", range(5))
def test_where_a_list_of_pndm_was_cut(first):
    """Its second timestep is there twice, so a time alone does not say it."""
    times = np.array([900.0, 600.0, 300.0, 0.0])
    calls = [0, 1, 1, 2, 3][first:]
    recorded = {f"sampler.{i:03}": {"input.timestep": times[k]} for i, k in enumerate(calls)}
    context = context_of(recorded)
    evaluations = [SimpleNamespace(entry=entry_of(context, name)) for name in recorded]
    assert steps._first_of_pndm(context, evaluations, times) == first
    before = {name: {"input.timestep": x["input.timestep"] - 1.0} for name, x in recorded.items()}
    near = context_of(before)
    moved = [SimpleNamespace(entry=entry_of(near, name)) for name in recorded]
    assert steps._first_of_pndm(near, moved, times) == first


def test_a_run_with_one_schedule_reads_it():
    calls = {"sampler.000": {"input.x": X0, "output": X0}}
    context = context_of(calls, params={"steps": 3})
    entry = entry_of(context, "sampler.000")
    assert steps._first_step(context, entry, np.arange(3), np.arange(4)[::-1]) == 0
    calls = {"sampler.000": {"input.x": X0, "input.sigma": np.array(1.9)}}
    context = context_of(calls)
    entry = entry_of(context, "sampler.000")
    sigmas = np.array([3.0, 2.0, 1.0, 0.0])
    assert steps._first_step(context, entry, np.arange(3), sigmas) == 1
    near = context_of({"sampler.000": {"input.sigma": np.array(0.1)}})
    assert steps._first_step(near, entry_of(near, "sampler.000"), np.arange(3), sigmas) == 2
    named = context_of(
        {"sampler.000": {"input.sigma": np.array(3.0)}}, attributes={"sampler.000": {"i": 2}}
    )
    assert steps._first_step(named, entry_of(named, "sampler.000"), np.arange(3), sigmas) == 2


# -- what is read of a step -----------------------------------------------------------------------


@pytest.mark.parametrize("names", [("sample", "model_output"), ("x", "prediction"), ("x", "x0")])
def test_a_step_is_read_with_its_noises_in_their_order(names):
    """A step has up to four noises; those that were not recorded are left out."""
    state, predicted, *noises = (normal(i, *SHAPE) for i in range(7))
    arrays = dict(zip((f"input.{name}" for name in names), (state, predicted), strict=True))
    calls = {"input.noise": noises[0]} | {f"input.noise.{i}": noises[i] for i in (1, 3, 4)}
    context = context_of({"sampler.000": {**arrays, **calls}})
    found = steps._read(context, entry_of(context, "sampler.000"))
    assert np.array_equal(found.state, state) and np.array_equal(found.prediction, predicted)
    for got, right in zip(found.noise, (noises[0], noises[1], noises[3]), strict=True):
        assert np.array_equal(got, right)
    for lacking in arrays:
        part = {name: x for name, x in arrays.items() if name != lacking}
        context = context_of({"sampler.000": {**part, **calls}})
        assert steps._read(context, entry_of(context, "sampler.000")) is None


@pytest.mark.parametrize(
    ("attributes", "params", "eta", "kind"),
    [
        ({}, {}, None, ""),
        ({"prediction_type": "v", "eta": 0.25}, {"eta": 0.5}, 0.25, "v"),
        ({}, {"eta": 0.5}, 0.5, ""),
    ],
)
def test_settings_of_steps_are_those_of_the_first_one(attributes, params, eta, kind):
    calls = {f"sampler.00{i}": {"input.x": X0, "input.prediction": X0} for i in (0, 1)}
    named = {"sampler.000": attributes, "sampler.001": {"prediction_type": "eps", "eta": 0.75}}
    given = {"steps": 2, "sampler": "ddim"} | params
    found = steps._settings(context_of(calls, attributes=named, params=given))
    assert (found.eta, found.prediction_type) == (eta, kind)


def test_x0_is_a_prediction_where_no_step_has_another():
    arrays = {"input.x": normal(0, *SHAPE), "input.x0": normal(1, *SHAPE)}
    alone = context_of({"sampler.000": arrays})
    assert steps._predictions(alone) == steps.X0
    other = {"input.x": arrays["input.x"], "input.prediction": normal(2, *SHAPE)}
    assert steps._settings(alone).prediction_type == "x0"
    both = context_of({"sampler.000": arrays, "sampler.001": other})
    assert steps._predictions(both) == steps.PREDICTIONS
    assert steps._read(both, entry_of(both, "sampler.000")) is None


def test_each_noise_of_a_step_is_judged():
    arrays = {"input.noise": normal(0, 1, 4, 32, 32), "input.noise.1": 2 * normal(1, 1, 4, 32, 32)}
    context = context_of({"sampler.000": {**arrays, "input.noisy": normal(2, *SHAPE)}})
    entry = entry_of(context, "sampler.000")
    found = [(row.kind, row.verdict) for row in steps._judge_noise(context, entry)]
    assert found == [("noise", "equal"), ("noise", "differs")]
    marked = [context.ledger.has(entry, role) for role in ("noise", "noise.1", "noisy")]
    assert marked == [True, True, False]


def test_steps_follow_each_other_so_one_without_its_arrays_leaves_all():
    whole = {"input.sample": normal(0, *SHAPE), "input.model_output": normal(2, *SHAPE)}
    calls = {
        "sampler.000": {**whole, "output": whole["input.sample"]},
        "sampler.001": {"input.x": normal(1, *SHAPE)},
    }
    context = context_of(calls, params={"steps": 2})
    rows = [row for row in steps.judge_steps(context) if row.kind == "step"]
    assert [(row.call, row.verdict, row.note) for row in rows] == [
        ("sampler.000", "not judged", "another step's state or prediction was not recorded"),
        ("sampler.001", "not judged", "its state or prediction was not recorded"),
    ]
