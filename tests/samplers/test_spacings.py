"""Each spacing of this package's own grids, by name, against the formula it stands for."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref import math as lm
from ldmref.errors import UsageError
from ldmref.samplers.config import SchedulerConfig
from ldmref.samplers.schedule import sampling_sigmas, training_alphas_cumprod
from ldmref.samplers.spacings import FINAL_SIGMAS, SPACINGS, sigma_grid, sigmas_at, spaced_timesteps

SD = training_alphas_cumprod(SchedulerConfig())
TABLE = np.sqrt((1 - SD) / SD)
LOW = TABLE[0]
HIGH = TABLE[-1]
AYS = [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]
AYS_XL = [999, 845, 730, 587, 443, 310, 193, 116, 53, 13]


def at(t):
    return np.exp(np.interp(t, np.arange(1000), np.log(TABLE)))


@pytest.mark.parametrize("steps", [2, 10, 21])
def test_continuous_spacings(steps):
    want = {
        "karras": lm.karras_sigmas(steps, LOW, HIGH),
        "exponential": lm.exponential_sigmas(steps, LOW, HIGH),
        "beta_sigma": lm.beta_sigmas(steps, LOW, HIGH),
        "beta": at(lm.beta_timesteps(steps, 1000)),
    }
    for spacing, levels in want.items():
        np.testing.assert_allclose(sigma_grid(TABLE, spacing, steps), [*levels, 0.0], rtol=1e-12)


@pytest.mark.parametrize("spacing,t", [("ays", AYS), ("ays_sdxl", AYS_XL)])
def test_align_your_steps(spacing, t):
    np.testing.assert_allclose(sigma_grid(TABLE, spacing, 10), [*TABLE[t], 0.0], rtol=1e-12)
    twice = sigma_grid(TABLE, spacing, 20)
    np.testing.assert_allclose(twice[:-1:2], TABLE[t], rtol=1e-12)
    np.testing.assert_allclose(twice[1:-2:2], np.sqrt(TABLE[t[:-1]] * TABLE[t[1:]]), rtol=1e-12)
    assert twice[19] == pytest.approx(np.sqrt(TABLE[t[-1]] * LOW))


def test_align_your_steps_of_a_shorter_table_has_the_same_places():
    short = SD[::10]  # timesteps are made for 1000, and scaled to the table's end
    table = np.sqrt((1 - short) / short)
    grid = sigma_grid(table, "ays", 10)
    places = np.asarray(AYS) * 99 / 999
    want = np.exp(np.interp(places, np.arange(100), np.log(table)))
    np.testing.assert_allclose(grid[:-1], want, rtol=1e-12)
    assert grid[0] == pytest.approx(table[-1], rel=1e-12)


@pytest.mark.parametrize("steps", [1, 3, 10, 28, 1000])
def test_whole_timesteps(steps):
    stride = 1000 // steps
    assert spaced_timesteps("leading", 1000, steps).tolist() == [
        i * stride for i in range(steps - 1, -1, -1)
    ]
    trailing = [round(1000 - i * 1000 / steps) - 1 for i in range(steps)]
    assert spaced_timesteps("trailing", 1000, steps).tolist() == trailing
    linspace = spaced_timesteps("linspace", 1000, steps)
    assert linspace[0] == 999 and (steps == 1 or linspace[-1] == 0)
    for spacing in ("leading", "trailing", "linspace"):
        t = spaced_timesteps(spacing, 1000, steps)
        np.testing.assert_array_equal(sigma_grid(TABLE, spacing, steps), [*TABLE[t], 0.0])
        assert t.dtype == np.int64


def test_offset_moves_leading_alone_and_never_past_the_end():
    assert spaced_timesteps("leading", 1000, 4, 1).tolist() == [751, 501, 251, 1]
    assert spaced_timesteps("leading", 1000, 4, 5000).tolist() == [999, 749, 499, 249]
    assert spaced_timesteps("leading", 1000, 1000, 1).tolist() == list(range(999, -1, -1))
    assert spaced_timesteps("trailing", 1000, 4, 1).tolist() == [999, 749, 499, 249]
    np.testing.assert_array_equal(
        sigma_grid(TABLE, "leading", 4, offset=1)[:-1], TABLE[[751, 501, 251, 1]]
    )
    np.testing.assert_array_equal(sigma_grid(TABLE, "leading", 4)[:-1], TABLE[[750, 500, 250, 0]])


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_final_level(spacing, steps):
    """Zero; or the smallest of the table, unless sigma is there already (to rounding)."""
    assert sigma_grid(TABLE, spacing, steps)[-1] == 0.0
    grid = sigma_grid(TABLE, spacing, steps, "sigma_min")
    assert grid[-1] == (LOW if grid[-2] > LOW * (1 + 1e-6) else 0.0)
    np.testing.assert_array_equal(grid[:-1], sigma_grid(TABLE, spacing, steps)[:-1])


def test_tables():
    for name, betas in [
        ("linear", lm.linear_betas(1000, 0.00085, 0.012)),
        ("scaled_linear", lm.scaled_linear_betas(1000, 0.00085, 0.012)),
        ("cosine", lm.cosine_betas(1000)),
    ]:
        config = SchedulerConfig(beta_schedule=name, beta_start=0.00085, beta_end=0.012)
        table = training_alphas_cumprod(config)
        np.testing.assert_allclose(table, np.cumprod(1 - betas), rtol=1e-12)
        used = sampling_sigmas(config)
        sigma = np.sqrt((1 - table) / table)
        np.testing.assert_allclose(used, sigma[sigma <= config.sigma_max], rtol=1e-12)
        assert sampling_sigmas(config) is used and not used.flags.writeable  # made once
    assert len(used) < 1000  # cosine goes on to 2e4
    assert used[-1] <= config.sigma_max


def test_sigma_at_is_linear_in_log_sigma():
    assert sigmas_at(np.asarray([1.0, 4.0, 8.0]), np.asarray([0.5, 1.0])).tolist() == pytest.approx(
        [2.0, 4.0]
    )


def test_names_and_numbers_out_of_range():
    assert FINAL_SIGMAS == ("zero", "sigma_min") and len(SPACINGS) == 11
    for arguments, code, text in [
        (("karas", 5), "E-SCHEDULE", "'karas'"),
        (("karras", 5, "nil"), "E-SCHEDULE", "'nil'"),
        (("karras", 0), "E-STEPS", "from 1 to 1000, not 0"),
        (("leading", 1001), "E-STEPS", "not 1001"),
        (("lcm", 51), "E-STEPS", "at most 50 steps, not 51"),
    ]:
        with pytest.raises(UsageError, match=text) as caught:
            sigma_grid(TABLE, *arguments)
        assert caught.value.code == code
    assert "karras" in caught.value.hint or caught.value.code == "E-STEPS"
