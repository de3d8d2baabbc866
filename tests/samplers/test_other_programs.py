"""Grids of other programs: of diffusers against its schedulers, of the others against their code.

CompVis', k-diffusion's and the course's programs are not installed here; the lines that make their
timesteps are repeated below from the named files.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from other_programs import CONVENTIONS, FAMILIES, Grid, grid_of

from ldmref.differences import read_differences
from ldmref.errors import UsageError
from ldmref.samplers.config import SchedulerConfig
from ldmref.samplers.schedule import training_alphas_cumprod
from ldmref.samplers.spacings import sigma_grid

diffusers = pytest.importorskip("diffusers")
SD = training_alphas_cumprod(SchedulerConfig())
TABLE = np.sqrt((1 - SD) / SD)
STEPS = [1, 2, 3, 4, 5, 7, 10, 20, 28, 30, 50, 100, 333, 999]
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CONTINUOUS = {
    "karras": "use_karras_sigmas",
    "exponential": "use_exponential_sigmas",
    "beta_sigma": "use_beta_sigmas",
}


def scheduler(name, spacing, steps, **config):
    """One of diffusers' schedulers as configured for Stable Diffusion, its timesteps set."""
    config = BETAS | config
    if spacing in CONTINUOUS:
        config[CONTINUOUS[spacing]] = True
    else:
        config["timestep_spacing"] = spacing
    made = getattr(diffusers, name)(**config)
    made.set_timesteps(steps)
    return made


# -- diffusers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [*STEPS, 500])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_timesteps_of_diffusers_ddim(spacing, steps):
    theirs = scheduler("DDIMScheduler", spacing, steps, steps_offset=1, set_alpha_to_one=False)
    grid = grid_of(SD, steps, "diffusers", spacing, "ddim")
    assert grid.timesteps.tolist() == theirs.timesteps.tolist()
    levels = theirs.alphas_cumprod.double().numpy()[theirs.timesteps.numpy()]
    np.testing.assert_allclose(grid.sigmas[:-1], np.sqrt(1 / levels - 1), rtol=2e-5)
    final = float(theirs.final_alpha_cumprod)
    assert grid.sigmas[-1] == pytest.approx(np.sqrt(1 / final - 1), rel=2e-5)
    assert grid.sigmas[-1] == TABLE[0]


FAMILY = {
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler",
    "LMSDiscreteScheduler": "euler",
    "DPMSolverMultistepScheduler": "multistep",
    "UniPCMultistepScheduler": "multistep",
}
NO_CONTINUOUS = ("EulerAncestralDiscreteScheduler",)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("name", FAMILY)
def test_timesteps_and_sigmas_of_diffusers(name, spacing, steps):
    extra = {"final_sigmas_type": "zero"} if FAMILY[name] == "multistep" else {}
    theirs = scheduler(name, spacing, steps, steps_offset=1, **extra)
    grid = grid_of(SD, steps, "diffusers", spacing, FAMILY[name])
    np.testing.assert_allclose(grid.timesteps, theirs.timesteps.numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(grid.sigmas, theirs.sigmas.numpy(), rtol=3e-5, atol=0)


@pytest.mark.parametrize("steps", [2, 5, 20, 50])
@pytest.mark.parametrize("spacing", CONTINUOUS)
@pytest.mark.parametrize("name", [n for n in FAMILY if n not in NO_CONTINUOUS])
def test_karras_exponential_and_beta_of_diffusers(name, spacing, steps):
    extra = {"final_sigmas_type": "zero"} if FAMILY[name] == "multistep" else {}
    theirs = scheduler(name, spacing, steps, **extra)
    grid = grid_of(SD, steps, "diffusers", spacing, FAMILY[name])
    np.testing.assert_allclose(grid.sigmas, theirs.sigmas.numpy(), rtol=3e-5, atol=0)
    # float32 log sigmas: 0.01 of a timestep; one whole timestep where they are cut to whole ones
    whole = FAMILY[name] == "multistep"
    off = np.abs(grid.timesteps - theirs.timesteps.numpy())
    assert (off <= (1.0 if whole else 0.01)).all()
    if whole:
        assert (off > 0).sum() <= 2 and (grid.timesteps == np.rint(grid.timesteps)).all()


def test_whole_timesteps_are_rounded_for_karras_and_cut_for_others():
    exact = grid_of(SD, 20, "diffusers", "karras", "euler").timesteps
    got = grid_of(SD, 20, "diffusers", "karras", "multistep").timesteps
    np.testing.assert_array_equal(got, np.rint(exact))
    exact = grid_of(SD, 20, "diffusers", "exponential", "euler").timesteps
    got = grid_of(SD, 20, "diffusers", "exponential", "multistep").timesteps
    np.testing.assert_array_equal(got[1:], np.floor(exact)[1:])
    assert (got[0], exact[0]) == (998, 999)  # single precision: a last bit below the whole number


def test_spacings_of_one_name_differ_by_family():
    """20 steps of `leading`: 951 for DDIM and Euler, 941 for DPM-Solver and UniPC."""
    of = {f: grid_of(SD, 20, "diffusers", "leading", f).timesteps for f in FAMILIES}
    assert [of[f][0] for f in FAMILIES] == [951, 951, 941]
    assert of["multistep"][[1, -1]].tolist() == [894, 48]
    linspace = grid_of(SD, 20, "diffusers", "linspace", "euler").timesteps
    assert linspace[1] == pytest.approx(999 * 18 / 19) and linspace[1] % 1 > 0.4


def test_trailing_of_diffusers_may_add_a_timestep_of_minus_one():
    """np.arange with a step that is not a binary fraction ends one too late for some n."""
    bad = []
    for steps in range(1, 1001):
        t = np.rint(np.arange(1000, 0, -1000 / steps)) - 1
        if t[-1] < 0:
            bad.append(steps)
            theirs = scheduler("DDIMScheduler", "trailing", steps)
            assert theirs.timesteps[-1] == -1 and len(theirs.timesteps) == steps + 1
            with pytest.raises(UsageError, match="leave the table"):
                grid_of(SD, steps, "diffusers", "trailing", "ddim")
    assert (len(bad), bad[:3]) == (62, [61, 103, 121])


def test_one_step_of_linspace_starts_at_the_wrong_end_in_diffusers():
    """np.linspace(0, 999, 1) is 0: nearly no noise. k-diffusion's, from 999 to 0, is 999."""
    assert scheduler("DDIMScheduler", "linspace", 1).timesteps.tolist() == [0]
    assert grid_of(SD, 1, "diffusers", "linspace").timesteps.tolist() == [0.0]
    assert grid_of(SD, 1, "kdiffusion", "linspace").timesteps.tolist() == [999.0]
    assert sigma_grid(TABLE, "linspace", 1)[0] == TABLE[-1]


def test_beta_of_diffusers_is_not_beta_of_the_paper():
    """The same quantiles, of the sigmas or of the timesteps: the middle of 21 levels."""
    paper = sigma_grid(TABLE, "beta", 20)
    theirs = sigma_grid(TABLE, "beta_sigma", 21)
    assert paper[10] == pytest.approx(np.sqrt(TABLE[499] * TABLE[500]), rel=1e-9)
    assert theirs[10] == pytest.approx((TABLE[0] + TABLE[-1]) / 2, rel=1e-9)
    (row,) = [row for row in read_differences() if "test_beta_of_diffusers_is_not" in row.test]
    told = re.findall(r"\d+\.\d+", row.number)
    assert told == [f"{theirs[10]:.2f}", f"{paper[10]:.2f}"]


# -- CompVis --------------------------------------------------------------------------------------


def compvis(steps, method):
    """ldm/modules/diffusionmodules/util.py, make_ddim_timesteps, make_ddim_sampling_parameters."""
    if method == "uniform":
        c = 1000 // steps
        ddim_timesteps = np.asarray(list(range(0, 1000, c)))
    else:
        ddim_timesteps = ((np.linspace(0, np.sqrt(1000 * 0.8), steps)) ** 2).astype(int)
    steps_out = ddim_timesteps + 1
    alphas = SD[steps_out]
    alphas_prev = np.asarray([SD[0], *SD[steps_out[:-1]].tolist()])
    return steps_out, alphas, alphas_prev


@pytest.mark.parametrize("method", ["uniform", "quad"])
@pytest.mark.parametrize("steps", [1, 2, 5, 10, 20, 30, 50, 100, 200, 250, 500])
def test_grids_of_compvis(method, steps):
    t, alphas, alphas_prev = compvis(steps, method)
    grid = grid_of(SD, steps, "compvis", {"uniform": "leading"}.get(method, method))
    np.testing.assert_array_equal(grid.timesteps, t[::-1])
    np.testing.assert_allclose(grid.sigmas[:-1], np.sqrt((1 - alphas) / alphas)[::-1], rtol=1e-12)
    below = np.sqrt((1 - alphas_prev) / alphas_prev)[::-1]
    np.testing.assert_allclose(grid.sigmas[1:], below, rtol=1e-12)


def test_compvis_makes_more_steps_than_asked_or_none():
    assert len(grid_of(SD, 30, "compvis", "leading").timesteps) == 31
    assert len(grid_of(SD, 50, "compvis", "leading").timesteps) == 50
    for steps in (3, 9, 27, 36, 37, 111, 333, 501):
        with pytest.raises(IndexError):
            compvis(steps, "uniform")
        with pytest.raises(UsageError, match="leave the table") as caught:
            grid_of(SD, steps, "compvis", "leading")
        assert caught.value.code == "E-STEPS"


def test_compvis_and_diffusers_ddim_agree_where_the_number_divides():
    for steps in (5, 10, 20, 50, 100):
        theirs = grid_of(SD, steps, "compvis", "leading")
        ours = grid_of(SD, steps, "diffusers", "leading", "ddim")
        np.testing.assert_array_equal(theirs.sigmas, ours.sigmas)
        plain = sigma_grid(TABLE, "leading", steps, "sigma_min", 1)
        np.testing.assert_array_equal(plain, ours.sigmas)


# -- k-diffusion and the course -------------------------------------------------------------------


@pytest.mark.parametrize("steps", STEPS)
def test_linspace_of_k_diffusion(steps):
    """external.py, DiscreteSchedule.get_sigmas and t_to_sigma."""
    t = np.linspace(len(TABLE) - 1, 0, steps)
    low = np.floor(t).astype(int)
    high = np.ceil(t).astype(int)
    w = t % 1
    log_sigma = (1 - w) * np.log(TABLE)[low] + w * np.log(TABLE)[high]
    grid = grid_of(SD, steps, "kdiffusion", "linspace")
    np.testing.assert_allclose(grid.sigmas, [*np.exp(log_sigma), 0.0], rtol=1e-12)
    np.testing.assert_allclose(grid.timesteps, t, rtol=1e-12)


@pytest.mark.parametrize("steps", [2, 10, 33])
def test_karras_and_exponential_of_k_diffusion(steps):
    """sampling.py, get_sigmas_karras and get_sigmas_exponential; t as in sigma_to_t."""
    low = TABLE[0]
    high = TABLE[-1]
    ramp = np.linspace(0, 1, steps)
    karras = (high ** (1 / 7.0) + ramp * (low ** (1 / 7.0) - high ** (1 / 7.0))) ** 7.0
    exponential = np.exp(np.linspace(np.log(high), np.log(low), steps))
    for spacing, want in [("karras", karras), ("exponential", exponential)]:
        grid = grid_of(SD, steps, "kdiffusion", spacing)
        np.testing.assert_allclose(grid.sigmas, [*want, 0.0], rtol=1e-12)
        back = np.exp(np.interp(grid.timesteps, np.arange(1000), np.log(TABLE)))
        np.testing.assert_allclose(back, want, rtol=1e-9)


@pytest.mark.parametrize("steps", STEPS)
def test_grid_of_the_course(steps):
    """hkproj/pytorch-stable-diffusion, sd/ddpm.py, set_inference_timesteps and step."""
    ratio = 1000 // steps
    t = (np.arange(0, steps) * ratio).round()[::-1].copy().astype(np.int64)
    before = t - ratio
    alpha = np.where(before >= 0, SD[before], 1.0)
    grid = grid_of(SD, steps, "course", "leading")
    np.testing.assert_array_equal(grid.timesteps, t)
    np.testing.assert_allclose(grid.sigmas[:-1], TABLE[t], rtol=1e-12)
    np.testing.assert_allclose(grid.sigmas[1:], np.sqrt((1 - alpha) / alpha), rtol=1e-12)


# -- names ----------------------------------------------------------------------------------------


def test_grids_are_arrays_of_one_length_more_than_their_timesteps():
    for convention, spacing, family in [
        ("compvis", "quad", "ddim"),
        ("diffusers", "leading", "multistep"),
        ("diffusers", "karras", "euler"),
        ("kdiffusion", "linspace", "ddim"),
        ("course", "leading", "ddim"),
    ]:
        grid = grid_of(SD, 10, convention, spacing, family)
        assert isinstance(grid, Grid) and len(grid.timesteps) == len(grid.sigmas) - 1
        assert grid.timesteps.dtype == grid.sigmas.dtype == np.float64
    default = grid_of(SD, 10, "diffusers", "leading")
    assert default.sigmas[-1] == TABLE[0]  # the family is ddim


@pytest.mark.parametrize(
    "arguments",
    [
        (10, "comvis", "leading"),
        (10, "compvis", "karras"),
        (10, "kdiffusion", "leading"),
        (10, "course", "linspace"),
        (10, "diffusers", "quad", "ddim"),
        (10, "diffusers", "karras", "ddim"),
        (10, "diffusers", "leading", "heun"),
        (0, "course", "leading"),
        (1001, "kdiffusion", "linspace"),
        (1000, "diffusers", "leading", "ddim"),
    ],
)
def test_what_no_program_makes_is_refused(arguments):
    with pytest.raises(UsageError):
        grid_of(SD, *arguments)


def test_conventions_are_the_known_ones():
    assert CONVENTIONS == ("compvis", "diffusers", "kdiffusion", "course")
    assert tuple(FAMILIES) == ("ddim", "euler", "multistep")
    assert grid_of(SD, 1000, "course", "leading").timesteps.tolist() == list(range(999, -1, -1))
