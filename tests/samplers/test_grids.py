"""Grids: the facts of the field, and properties that every grid has."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldmref.errors import UsageError
from ldmref.math import sigma_from_alpha_bar
from ldmref.samplers import ClassifierFree
from ldmref.samplers.config import SchedulerConfig
from ldmref.samplers.denoiser import guided_denoiser
from ldmref.samplers.schedule import training_alphas_cumprod
from ldmref.samplers.spacings import SPACINGS, sigma_grid, spaced_timesteps, timesteps_at

SD = training_alphas_cumprod(SchedulerConfig())
TABLE = sigma_from_alpha_bar(SD)


def test_stable_diffusion_ends_of_the_table():
    grid = sigma_grid(TABLE, "karras", 10)
    assert grid[0] == pytest.approx(14.6146, abs=1e-3)
    assert grid[-2] == pytest.approx(0.0291675, abs=1e-6)
    assert grid[-1] == 0.0


def test_leading_with_offset_as_diffusers_documents_it():
    assert spaced_timesteps("leading", 1000, 5, 1).tolist() == [801, 601, 401, 201, 1]
    assert spaced_timesteps("leading", 1000, 50, 1)[[0, -1]].tolist() == [981, 1]


def test_trailing_and_linspace_as_diffusers_documents_them():
    assert spaced_timesteps("trailing", 1000, 4).tolist() == [999, 749, 499, 249]
    assert spaced_timesteps("linspace", 1000, 4).tolist() == [999, 666, 333, 0]


@pytest.mark.parametrize("steps", [3, 9, 27, 36, 37, 101, 333, 501, 1000])
def test_step_counts_that_fall_off_the_end_elsewhere(steps):
    """CompVis' DDIM raises an IndexError for these, or makes more steps than asked."""
    found = spaced_timesteps("leading", 1000, steps, 1)
    assert len(found) == steps and found.max() <= 999 and found.min() >= 0


@given(
    st.sampled_from(SPACINGS),
    st.integers(1, 1000),
    st.sampled_from(["zero", "sigma_min"]),
    st.sampled_from(["linear", "scaled_linear", "cosine"]),
    st.integers(0, 1),
)
def test_every_grid_has_exactly_n_decreasing_steps(spacing, steps, final, betas, offset):
    alpha_bar = training_alphas_cumprod(SchedulerConfig(beta_schedule=betas))
    steps = steps % 50 + 1 if spacing == "lcm" else steps
    grid = sigma_grid(sigma_from_alpha_bar(alpha_bar), spacing, steps, final, offset)
    assert grid.shape == (steps + 1,) and np.isfinite(grid).all()
    assert (np.diff(grid) < 0).all() and grid[-1] >= 0


@pytest.mark.parametrize("bad", [("karas", 5, "zero"), ("karras", 0, "zero"), ("karras", 5, "nil")])
def test_bad_grids_are_refused(bad):
    with pytest.raises(UsageError):
        sigma_grid(TABLE, *bad)


@given(st.integers(0, 999))
def test_sigma_to_timestep_is_exact_on_the_table(t):
    sigma = np.sqrt((1 - SD[t]) / SD[t])
    assert timesteps_at(TABLE, sigma) == pytest.approx(t, abs=1e-6)


@pytest.mark.parametrize("kind", ["eps", "v", "x0"])
def test_every_prediction_type_gives_the_same_denoiser(kind):
    """A network that knows the truth, whatever it predicts, denoises to the truth."""
    stream = np.random.default_rng(0)
    x0, eps = stream.standard_normal((2, 3, 4))
    sigma = 2.5
    a = 1 / (1 + sigma**2)
    truth = {"eps": eps, "v": np.sqrt(a) * eps - np.sqrt(1 - a) * x0, "x0": x0}[kind]
    denoise = guided_denoiser(lambda xt, s, names, i: [truth], kind, ClassifierFree(), 1.0)
    np.testing.assert_allclose(denoise(x0 + sigma * eps, sigma), x0, atol=1e-12)


@pytest.mark.parametrize("scale,count", [(0.0, 1), (1.0, 1), (3.0, 2)])
def test_guidance_costs_one_call_of_the_network(scale, count):
    seen = []

    def network(xt, sigma, names, interval):
        seen.append(len(names))
        return [np.full((2, 5), {"uncond": 0.0, "cond": 1.0}[name]) for name in names]

    denoise = guided_denoiser(network, "x0", ClassifierFree(), scale)
    np.testing.assert_allclose(denoise(np.zeros((2, 5)), 1.0), np.full((2, 5), scale))
    assert seen == [count]
