"""The schedule of a run: timesteps at its sigmas, the initial scale, and diffusers' tables."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ldmref.errors import CorruptModelError, UsageError
from ldmref.io.diffusers.scheduler import convert_scheduler_config
from ldmref.samplers import (
    ClassifierFree,
    ancestral,
    configured_step,
    get_sampler,
    guided_denoiser,
    heun,
    make_schedule,
    sample,
)
from ldmref.samplers.config import SchedulerConfig
from ldmref.samplers.diffusers.configure import make_options, order_limit
from ldmref.samplers.diffusers.schedule import single_precision_sigmas
from ldmref.samplers.interfaces import Interval
from ldmref.samplers.schedule import sampling_sigmas, training_alphas_cumprod
from ldmref.testing.mixture import three_modes

PLAIN = SchedulerConfig()
DIFFUSERS = replace(PLAIN, convention="diffusers", final_sigma="zero")
BETAS = {"beta_start": 0.00085, "beta_end": 0.012}


@pytest.mark.parametrize("spacing", ["leading", "karras", "beta", "ays"])
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_timesteps_at_and_between_the_sigmas(sampler, spacing):
    """The network's timestep is linear in log sigma over the training table."""
    schedule = make_schedule(PLAIN, get_sampler(sampler), spacing, 8)
    table = sampling_sigmas(PLAIN)
    timesteps = np.arange(1000.0)
    for i, t in enumerate(schedule.timesteps):
        a, b = schedule.sigmas[i : i + 2].tolist()
        interval = Interval(i, i + 1, 8, a, b)
        own = schedule.timestep(a, interval)
        assert own == t == pytest.approx(np.interp(a, table, timesteps), abs=0.5)
        middle = math.sqrt(a * b) if b else a / 2
        want = np.interp(math.log(middle), np.log(table), timesteps)
        assert schedule.timestep(middle, interval) == pytest.approx(want, rel=1e-12)
        assert schedule.timestep(middle) == schedule.timestep(middle, interval)
    assert schedule.init_noise_sigma == pytest.approx(math.sqrt(1.0 + schedule.sigmas[0] ** 2))


def timesteps_seen(schedule, step):
    """Return the timestep of every evaluation in a run."""
    seen = []

    def network(xt, sigma, names, interval):
        seen.append(schedule.timestep(sigma, interval))
        return [0.5 * xt]

    denoise = guided_denoiser(network, "x0", ClassifierFree(), 1.0)
    list(sample(denoise, np.ones(1), schedule.sigmas, step))
    return seen


def test_the_network_sees_diffusers_whole_timesteps_at_the_grids_own_sigmas():
    schedule = make_schedule(DIFFUSERS, get_sampler("dpmpp_2m"), "karras", 8)
    seen = timesteps_seen(schedule, ancestral())
    assert seen == schedule.timesteps.tolist() == np.rint(seen).tolist()
    exact = np.interp(np.log(schedule.sigmas[:-1]), np.log(sampling_sigmas(PLAIN)), range(1000))
    assert 0.0 < np.abs(exact - seen).max() <= 0.5
    own = schedule.timesteps.tolist()
    both = timesteps_seen(schedule, heun())  # also at the upper and lower end of each interval
    assert both == [own[0], *(t for t in own[1:] for _ in range(2))]


def test_the_timestep_is_that_of_the_index_where_a_sigma_occurs_twice():
    schedule = make_schedule(PLAIN, get_sampler("ddim"), "leading", 4)
    twice = schedule.sigmas[[0, 1, 1, 2, 3]]
    schedule = schedule._replace(sigmas=twice, timesteps=np.array([900.0, 500.0, 400.0, 300.0]))
    assert timesteps_seen(schedule, ancestral()) == [900.0, 500.0, 400.0, 300.0]


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("EulerDiscreteScheduler", "euler"),
        ("EulerAncestralDiscreteScheduler", "euler_a"),
        ("LMSDiscreteScheduler", "lms_euler"),
    ],
)
def test_the_initial_scale_is_diffusers(name, sampler, spacing):
    diffusers = pytest.importorskip("diffusers")
    options = dict(beta_schedule="scaled_linear", timestep_spacing=spacing, steps_offset=1)
    theirs = getattr(diffusers, name)(**BETAS, **options)
    theirs.set_timesteps(10)
    ours = make_schedule(DIFFUSERS, get_sampler(sampler), spacing, 10)
    assert ours.init_noise_sigma == pytest.approx(float(theirs.init_noise_sigma), rel=1e-5)


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("betas", ["scaled_linear", "linear", "squaredcos_cap_v2", "own"])
def test_single_precision_sigmas_are_those_of_diffusers(betas, zero_snr):
    """Up to the last bits of alpha-bar, of which one decides which timestep the network sees."""
    diffusers = pytest.importorskip("diffusers")
    own = np.linspace(0.01, 0.0002, 300)[::-1]
    options = {"trained_betas": own.tolist()} if betas == "own" else {"beta_schedule": betas}
    theirs = diffusers.DPMSolverMultistepScheduler(
        **BETAS,
        **options,
        num_train_timesteps=len(own) if betas == "own" else 1000,
        rescale_betas_zero_snr=zero_snr,
    )
    config = replace(
        PLAIN,
        num_train_timesteps=theirs.config.num_train_timesteps,
        beta_schedule="cosine" if betas == "squaredcos_cap_v2" else betas,
        trained_betas=tuple(own.tolist()) if betas == "own" else (),
        rescale_betas_zero_snr=zero_snr,
    )
    got = single_precision_sigmas(config)
    assert got.dtype == np.float32
    alpha_bar = 1.0 / (1.0 + got.astype(np.float64) ** 2)
    ulps = 4 if zero_snr else 1
    want = theirs.alphas_cumprod.double().numpy()
    np.testing.assert_allclose(alpha_bar, want, rtol=1e-6, atol=ulps * 2.0**-24)
    exact = training_alphas_cumprod(config)
    np.testing.assert_allclose(alpha_bar, exact, rtol=1e-3, atol=1e-6)


def test_zero_terminal_snr_ends_where_float16_would():
    """As in diffusers: 2^-24, the smallest float16. Sigma stays finite, at 4096."""
    config = replace(PLAIN, rescale_betas_zero_snr=True, sigma_max=1e5)
    alpha_bar = training_alphas_cumprod(config)
    assert alpha_bar[-1] == 2.0**-24 < alpha_bar[-2]
    assert sampling_sigmas(config)[-1] == pytest.approx(4096.0, rel=1e-6)
    assert float(single_precision_sigmas(config)[-1]) == pytest.approx(4096.0, rel=1e-6)
    assert len(sampling_sigmas(config)) == 1000 == len(sampling_sigmas(PLAIN))
    assert len(sampling_sigmas(replace(config, sigma_max=4000.0))) == 999
    for table in (alpha_bar, sampling_sigmas(config)):
        with pytest.raises(ValueError, match="read-only"):
            table[0] = 0.0  # they are shared


def test_the_first_noise_is_larger_than_that_of_a1111():
    """docs/random.md states the factor: the root of 1 + sigma^2 instead of sigma."""
    schedule = make_schedule(PLAIN, get_sampler("euler"), "karras", 20)
    more = schedule.init_noise_sigma / schedule.sigmas[0] - 1.0
    assert f"{100 * more:.2f} % more" == "0.23 % more"
    assert "0.23 % more" in (Path(__file__).parents[2] / "docs" / "random.md").read_text()


def test_samplers_start_no_higher_than_they_may():
    """A sigma of the table is itself allowed."""
    table = sampling_sigmas(PLAIN)
    limited = sampling_sigmas(replace(PLAIN, sigma_max=float(table[600])))
    np.testing.assert_array_equal(limited, table[:601])


@pytest.mark.parametrize(
    ("n", "options", "orders"),
    [
        (14, {}, [3, 2, 1]),
        (15, {}, [3, 3, 3]),
        (14, {"lower_order_final": False}, [3, 3, 3]),
        (15, {"euler_at_final": True}, [3, 3, 1]),
        (14, {"lower_order_final": False, "euler_at_final": True}, [3, 3, 1]),
    ],
)
def test_the_order_of_the_last_steps(n, options, orders):
    """diffusers' DPM-Solver lowers it below 15 steps, or in the last step if it is told to."""
    limit = order_limit(replace(DIFFUSERS, **options))
    assert [limit(Interval(i, i + 1, n, 2.0, 1.0)) for i in range(n)] == [3] * (n - 3) + orders


@pytest.mark.parametrize(
    ("sampler", "solver_type", "options"),
    [
        ("dpm_solver_2m", "heun", {"solver": "heun"}),
        ("dpmpp_3m", "", {"solver": "midpoint"}),
        ("dpmpp_3m_sde", "midpoint", {"solver": "midpoint"}),
        ("euler", "heun", {}),
        ("dpmpp_2m", "heun", {}),
    ],
)
def test_what_the_configuration_decides_about_a_solver(sampler, solver_type, options):
    config = replace(DIFFUSERS, solver_type=solver_type)
    assert make_options(config, get_sampler(sampler), 10) == options


@pytest.mark.parametrize(
    ("solver_type", "variant"), [("", "bh2"), ("bh1", "bh1"), ("bh2", "bh2"), ("midpoint", "bh2")]
)
@pytest.mark.parametrize("sampler", ["unipc_1", "unipc", "unipc_3"])
def test_what_the_configuration_decides_about_unipc(sampler, solver_type, variant):
    more = {"noise_prediction": True, "lower_order_final": False, "disable_corrector": (1, 2)}
    config = replace(DIFFUSERS, solver_type=solver_type, **more)
    assert make_options(config, get_sampler(sampler), 10) == {"variant": variant, **more}


def test_timesteps_beyond_the_table_are_refused():
    """DDIM's are whole and must exist; the last that does is allowed."""
    ddim = get_sampler("ddim")
    last = make_schedule(replace(DIFFUSERS, steps_offset=199), ddim, "leading", 5)
    assert last.timesteps.tolist() == [999.0, 799.0, 599.0, 399.0, 199.0]
    with pytest.raises(UsageError) as caught:
        make_schedule(replace(DIFFUSERS, steps_offset=200), ddim, "leading", 5)
    assert caught.value.code == "E-STEPS" and "200 to 1000" in str(caught.value)


@pytest.mark.parametrize("steps", [10, 20])
@pytest.mark.parametrize("lower_order_final", [True, False])
def test_the_last_step_of_the_third_order_reaches_the_prediction(steps, lower_order_final):
    """At sigma 0 nothing is left to extrapolate, whatever order diffusers' scheduler has there."""
    config = replace(DIFFUSERS, sampler="dpmpp_3m_sde", lower_order_final=lower_order_final)
    sampler = get_sampler(config.sampler)
    mixture = three_modes()
    schedule = make_schedule(config, sampler, "linspace", steps)
    assert schedule.sigmas[-1] == 0.0
    step, visits = configured_step(config, sampler, schedule, bug_compatible=True)
    draw = np.random.default_rng(0).standard_normal
    x = schedule.init_noise_sigma * draw((8, 2))
    states = list(
        sample(mixture.denoise, x, schedule.sigmas, step, visits=visits, noise=lambda: draw((8, 2)))
    )
    assert len(states) == steps and np.isfinite(states[-1].x).all()
    np.testing.assert_allclose(states[-1].x, states[-1].x0, rtol=1e-12)


SCHEDULERS = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddim",
    "PNDMScheduler": "ddim",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler",
    "HeunDiscreteScheduler": "euler",
    "LMSDiscreteScheduler": "euler",
    "DPMSolverMultistepScheduler": "multistep",
    "UniPCMultistepScheduler": "multistep",
}
ALGORITHMS = ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver")


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_sampler_of_a_scheduler_has_its_timesteps(name):
    """Whatever order, algorithm or solver the scheduler is configured with."""
    found = 0
    for order in (1, 2, 3):
        for algorithm in ALGORITHMS:
            for solver in ("midpoint", "heun", "bh2"):
                options = dict(
                    solver_order=order,
                    algorithm_type=algorithm,
                    solver_type=solver,
                    final_sigmas_type="sigma_min",
                )
                try:
                    config = convert_scheduler_config(
                        {"_class_name": name, "skip_prk_steps": True, **options}
                    )
                except CorruptModelError:
                    continue  # no such scheduler
                found += 1
                assert get_sampler(config.sampler).family == SCHEDULERS[name], config.sampler
    assert found >= 12


@pytest.mark.parametrize("first_step", [0, 1, 2, 3])
def test_pndm_evaluates_its_first_step_twice_unless_it_is_the_last(first_step):
    schedule = make_schedule(DIFFUSERS, get_sampler("pndm"), "leading", 4)
    step, visits = configured_step(DIFFUSERS, get_sampler("pndm"), schedule, first_step=first_step)
    seen = []

    def denoise(x, sigma):
        seen.append(float(sigma))
        return 0.5 * x

    x = schedule.sigmas[first_step] * np.ones(3)
    list(sample(denoise, x, schedule.sigmas, step, visits=visits))
    sigmas = schedule.sigmas[first_step:4].tolist()
    assert seen == [*sigmas[:2], *sigmas[1:]]


@pytest.mark.parametrize("bug_compatible", [True, False])
def test_what_is_known_is_put_back_before_a_second_evaluation(bug_compatible):
    """In diffusers' inpainting, each evaluation counts as a separate step."""
    heun = get_sampler("heun")
    schedule = make_schedule(DIFFUSERS, heun, "leading", 3)
    put_back = []

    def constrain(x, interval):
        put_back.append(interval.sigma_next)
        return x

    step, visits = configured_step(
        DIFFUSERS, heun, schedule, constrain=constrain, bug_compatible=bug_compatible
    )
    x = schedule.sigmas[0] * np.ones(3)
    list(sample(lambda x, sigma: 0.5 * x, x, schedule.sigmas, step, visits=visits))
    after_steps = [] if not bug_compatible else [*schedule.sigmas[[1, 1, 2, 2]]]
    assert put_back == after_steps
    plain, visits = configured_step(DIFFUSERS, heun, schedule, bug_compatible=bug_compatible)
    list(sample(lambda x, sigma: 0.5 * x, x, schedule.sigmas, plain, visits=visits))
    assert put_back == after_steps
