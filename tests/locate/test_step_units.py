"""Judges of schedules, added noise and steps, on arrays that are built by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, normal

from ldmref.locate.parts import scheduler_faults
from ldmref.locate.parts.step_faults import StepSettings, step_faults
from ldmref.locate.pipeline import added_noise, schedule
from ldmref.samplers import SAMPLERS, SchedulerConfig, make_schedule
from ldmref.samplers.path import FLOW
from ldmref.samplers.schedule import training_alphas_cumprod

CONFIG = SchedulerConfig()
FLOWS = SchedulerConfig(prediction_type="flow", spacing="flow", shift=3.0)
SHAPE = (1, 4, 8, 8)


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
        if x is not right.sampler and not (x.own_guidance or x.stochastic or x.adaptive)
    }  # fmt: skip
    assert kinds.keys() == expected and all(SAMPLERS[name] is x for name, x in kinds.items())
    assert all(x.eta is None for text, x in found.items() if text.startswith("a step of"))


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


# -- what is read of a step -----------------------------------------------------------------------
