"""Steps against diffusers' schedulers, call by call, with one analytic model.

The scheduler gets this grid's sigmas in float64 instead of its float32 ones. The difference that
remains is stated as the tolerance: `EXACT` where the scheduler computes in float64; `SINGLE` where
it casts the sample to float32 (Euler, Euler-ancestral, DPM-Solver multistep and LCM's table).
"""

from __future__ import annotations

import numpy as np
import pytest
from other_programs import grid_of

from ldmref import samplers
from ldmref.math import alphas_cumprod, exponential_sigmas, scaled_linear_betas
from ldmref.samplers import SAMPLERS, sample
from ldmref.testing.mixture import three_modes

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

# of data of order 1
EXACT = 1e-9
SINGLE = 2e-5
N = 20
GRID = exponential_sigmas(N + 1, 0.05, 8.0)
START = 8.0 * np.random.default_rng(0).standard_normal((4, 2))
NOISES = np.random.default_rng(1).standard_normal((2 * N, 4, 2))
MIXTURE = three_modes()
SD = alphas_cumprod(scaled_linear_betas(1000))
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def ours(step, grid=GRID, start=START):
    noises = iter(NOISES)
    step = SAMPLERS[step].make() if isinstance(step, str) else step
    return [s.x for s in sample(MIXTURE.denoise, start, grid, step, noise=lambda: next(noises))]


def eps_of(x, sigma):
    """Return the noise in x = x0 + sigma eps, of the analytic model."""
    x = x.double().numpy()
    return torch.from_numpy((x - MIXTURE.denoise(x, float(sigma))) / float(sigma))


@pytest.fixture
def same_noise(monkeypatch):
    """Return a function that makes diffusers use our noises, in order."""

    def use(name):
        noises = iter(NOISES)
        module = __import__(f"diffusers.schedulers.{name}", fromlist=["randn_tensor"])

        def draw(shape, **kwargs):
            return torch.from_numpy(next(noises)).to(kwargs["dtype"])

        monkeypatch.setattr(module, "randn_tensor", draw)

    return use


def prepared(name, grid=GRID, **config):
    """Return a scheduler that visits `grid`."""
    made = getattr(diffusers, name)(**(BETAS | config))
    made.set_timesteps(len(grid) - 1)
    made.sigmas = torch.from_numpy(np.asarray(grid, np.float64))
    return made


def in_noise_space(scheduler, start=START):
    """Walk of a scheduler whose samples are x0 + sigma eps (k-diffusion's)."""
    x = torch.from_numpy(start)
    states = []
    for i, t in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(x, t)
        x = scheduler.step(eps_of(x, scheduler.sigmas[i]), t, x).prev_sample
        states.append(x.double().numpy())
    return states


def in_signal_space(scheduler, start=START):
    """Walk of a scheduler whose samples are variance-preserving, x / sqrt(1 + sigma^2)."""
    scales = (1 + scheduler.sigmas**2).sqrt()
    x = torch.from_numpy(start) / scales[0]
    states = []
    for i, t in enumerate(scheduler.timesteps):
        model = eps_of(x * scales[i], scheduler.sigmas[i])
        x = scheduler.step(model, t, x).prev_sample
        states.append((x * scales[i + 1]).double().numpy())
    return states


def assert_same_trajectory(got, want, tolerance, count=None):
    assert len(got) == len(want)
    for i, (a, b) in enumerate(zip(got[:count], want[:count], strict=True)):
        worst = np.abs(a - b).max() / max(1.0, np.abs(b).max())
        assert worst < tolerance, (i, worst)


# -- k-diffusion's family -------------------------------------------------------------------------


def test_euler():
    assert_same_trajectory(
        ours("euler"), in_noise_space(prepared("EulerDiscreteScheduler")), SINGLE
    )


def test_euler_ancestral(same_noise):
    same_noise("scheduling_euler_ancestral_discrete")
    theirs = in_noise_space(prepared("EulerAncestralDiscreteScheduler"))
    assert_same_trajectory(ours("euler_a"), theirs, SINGLE)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms_with_an_euler_start(order):
    to_zero = np.append(GRID, 0.0)  # where the polynomial is integrated to sigma = 0, too
    scheduler = prepared("LMSDiscreteScheduler", to_zero)
    step = scheduler.step
    scheduler.step = lambda *a: step(*a, order=order)
    got = ours(samplers.lms(order, "euler"), to_zero)
    assert_same_trajectory(got, in_noise_space(scheduler), 1e-7)


def test_heun():
    """diffusers lists every level but the ends twice and calls Euler's step and the correction."""
    scheduler = diffusers.HeunDiscreteScheduler(**BETAS)
    scheduler.set_timesteps(N)
    levels = [GRID[0], *np.repeat(GRID[1:-1], 2), GRID[-1], GRID[-1]]
    scheduler.sigmas = torch.tensor(levels, dtype=torch.float64)
    scheduler.timesteps = torch.arange(2 * N - 1, 0, -1)
    x = torch.from_numpy(START)
    states = []
    for i, t in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(x, t)
        x = scheduler.step(eps_of(x, levels[i]), t, x).prev_sample
        if i % 2:
            states.append(x.double().numpy())
    assert len(states) == N - 1
    assert_same_trajectory(ours("heun")[:-1], states, EXACT)


# -- exponential integrators ----------------------------------------------------------------------

DPM = "DPMSolverMultistepScheduler"


@pytest.mark.parametrize("solver", ["midpoint", "heun"])
def test_dpmpp_2m(solver):
    scheduler = prepared(DPM, solver_type=solver, final_sigmas_type="sigma_min")
    assert_same_trajectory(ours(samplers.dpmpp_2m(0.0, solver)), in_signal_space(scheduler), SINGLE)


@pytest.mark.parametrize("solver", ["midpoint", "heun"])
def test_dpmpp_2m_sde(solver, same_noise):
    same_noise("scheduling_dpmsolver_multistep")
    config = {"algorithm_type": "sde-dpmsolver++", "final_sigmas_type": "sigma_min"}
    theirs = in_signal_space(prepared(DPM, solver_type=solver, **config))
    assert_same_trajectory(ours(samplers.dpmpp_2m(1.0, solver)), theirs, SINGLE)


def test_dpmpp_3m_without_noise():
    """The second step of diffusers is the midpoint form by default, k-diffusion's the heun form."""
    config = {"solver_order": 3, "solver_type": "heun", "final_sigmas_type": "sigma_min"}
    assert_same_trajectory(
        ours(samplers.dpmpp_3m(0.0)), in_signal_space(prepared(DPM, **config)), SINGLE
    )


def test_dpmpp_3m_sde_of_diffusers_has_a_wrong_sign(same_noise):
    """Its coefficient of D_2 is -1/2 - phi_2 / k; k-diffusion's and ours is 1/2 - phi_2 / k."""
    same_noise("scheduling_dpmsolver_multistep")
    config = {
        "solver_order": 3,
        "solver_type": "heun",
        "final_sigmas_type": "sigma_min",
        "algorithm_type": "sde-dpmsolver++",
    }
    theirs = in_signal_space(prepared(DPM, **config))
    right = ours("dpmpp_3m_sde")
    assert_same_trajectory(right, theirs, SINGLE, count=2)  # the sign is in the third step
    assert np.abs(right[2] - theirs[2]).max() > 1e-2  # over whole runs: test_differences.py
    # the whole difference of that step is D_2, half the second difference on this even grid
    x0s = [MIXTURE.denoise(x, s) for x, s in zip([START, *right], GRID[:3], strict=False)]
    d2 = ((x0s[2] - x0s[1]) - (x0s[1] - x0s[0])) / 2
    np.testing.assert_allclose(right[2] - theirs[2], d2, rtol=0, atol=1e-4)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc(order, variant):
    config = {"solver_order": order, "solver_type": variant, "lower_order_final": False}
    theirs = in_signal_space(prepared("UniPCMultistepScheduler", **config))
    assert_same_trajectory(ours(samplers.unipc(order, variant)), theirs, EXACT)


def test_unipc_of_diffusers_lowers_the_order_at_the_end():
    """By default the last steps are of order 2 and 1; ours goes straight to 0, if at all."""
    theirs = in_signal_space(prepared("UniPCMultistepScheduler", solver_order=3))
    got = ours("unipc_3")
    assert_same_trajectory(got, theirs, EXACT, count=N - 2)
    assert np.abs(got[-1] - theirs[-1]).max() > 1e-6


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(order):
    scheduler = prepared("DEISMultistepScheduler", solver_order=order)
    assert_same_trajectory(ours(samplers.deis(order)), in_signal_space(scheduler), EXACT)


# -- schedulers of the training table -------------------------------------------------------------


def on_table(name, steps, **config):
    """Return a scheduler of whole timesteps, with the table in float64."""
    made = getattr(diffusers, name)(**(BETAS | config))
    made.alphas_cumprod = torch.from_numpy(SD)
    made.final_alpha_cumprod = made.alphas_cumprod[0]
    made.one = torch.tensor(1.0, dtype=torch.float64)
    made.set_timesteps(steps)
    return made


def trajectory(scheduler, grid, **extra):
    x = torch.from_numpy(START) * float(grid[0] / 8.0)
    x = x / (1 + grid[0] ** 2) ** 0.5
    states = []
    for i, t in enumerate(scheduler.timesteps):
        sigma = float(((1 - SD[int(t)]) / SD[int(t)]) ** 0.5)
        model = eps_of(x * (1 + sigma**2) ** 0.5, sigma)
        x = scheduler.step(model, int(t), x, **extra).prev_sample
        below = grid[min(i + 1, len(grid) - 1)]
        states.append((x * (1 + below**2) ** 0.5).double().numpy())
    return states


LATENT = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim(eta, same_noise):
    same_noise("scheduling_ddim")
    scheduler = on_table("DDIMScheduler", N, **LATENT)
    grid = grid_of(SD, N, "diffusers", "leading", "ddim").sigmas
    got = ours(samplers.ancestral(eta), grid, START * (grid[0] / 8.0))
    assert_same_trajectory(got, trajectory(scheduler, grid, eta=eta), EXACT)


def test_ddpm(same_noise):
    """With the posterior's variance; ends at 0 whatever the configuration."""
    same_noise("scheduling_ddpm")
    scheduler = on_table("DDPMScheduler", N, clip_sample=False, steps_offset=0)
    grid = np.append(grid_of(SD, N, "course", "leading").sigmas, [])
    got = ours("ddpm", grid, START * (grid[0] / 8.0))
    assert_same_trajectory(got, trajectory(scheduler, grid), EXACT)


def test_pndm():
    """Its second timestep is repeated: calls 1 and 2 together are our first step of Heun."""
    scheduler = on_table("PNDMScheduler", N, skip_prk_steps=True, steps_offset=1)
    grid = grid_of(SD, N, "diffusers", "leading", "ddim").sigmas
    assert scheduler.timesteps[:3].tolist() == [951, 901, 901]
    theirs = trajectory(scheduler, np.insert(grid, 1, grid[1]))
    got = ours("pndm", grid, START * (grid[0] / 8.0))
    assert_same_trajectory(got, theirs[1:], EXACT)


def test_lcm(same_noise):
    """To the boundary coefficients that are left out, below 1e-5 of the sample."""
    same_noise("scheduling_lcm")
    scheduler = diffusers.LCMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False)
    scheduler.alphas_cumprod = torch.from_numpy(SD)
    scheduler.set_timesteps(4)
    levels = np.sqrt((1 - SD) / SD)[scheduler.timesteps.numpy()]
    grid = np.append(levels, 0.0)
    got = ours("lcm", grid, START * (grid[0] / 8.0))
    assert_same_trajectory(got, trajectory(scheduler, grid), 1e-4)


def test_ddim_of_diffusers_agrees_where_its_timesteps_are_next():
    for spacing, steps in [("leading", 30), ("trailing", 20)]:
        scheduler = on_table("DDIMScheduler", steps, timestep_spacing=spacing, **LATENT)
        grid = grid_of(SD, steps, "diffusers", spacing, "ddim").sigmas
        got = ours("ddim", grid, START * (grid[0] / 8.0))
        assert_same_trajectory(got, trajectory(scheduler, grid), EXACT)
