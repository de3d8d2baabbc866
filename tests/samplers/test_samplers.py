"""Samplers against problems whose answer is known: orders, identities, final distributions."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sampling import no_noise, solve, without_noise

from ldmref.errors import UsageError
from ldmref.math import karras_sigmas
from ldmref.samplers import ALIASES, SAMPLERS, Sampler, get_sampler, heun, sample
from ldmref.testing.mixture import Mixture, three_modes

STOCHASTIC = [name for name, entry in SAMPLERS.items() if entry.stochastic]
DETERMINISTIC = [name for name in SAMPLERS if name not in STOCHASTIC]
EVERY = list(SAMPLERS)
LOOKS_AHEAD = ("heunpp2",)  # it has fewer slopes in its last two steps
CHURN = ("euler_churn", "heun_churn")  # which add noise before each step, the last one too


def drawing(seed, shape):
    stream = np.random.default_rng(seed)
    return lambda: stream.standard_normal(shape)


@pytest.mark.parametrize("name", EVERY)
def test_a_single_point_is_reached_in_one_step(name):
    target = np.asarray([[0.3, -2.0]])
    noise = drawing(0, (1, 2)) if name in CHURN else no_noise
    step = solve(name, lambda x, s: target, np.asarray([[50.0, -7.0]]), [14.6, 0.0], noise)
    np.testing.assert_allclose(step.x, target, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(step.x0, target)
    assert (step.i, step.sigma) == (0, 0.0)


@pytest.mark.parametrize("name", [n for n in EVERY if without_noise(n) is not None])
def test_a_gaussian_follows_its_closed_form(name):
    """x(s) = m + (x_T - m) sqrt((tau^2 + s^2) / (tau^2 + s_T^2)) is the exact flow."""
    problem = Mixture(np.ones(1), np.full((1, 2), 1.5), np.asarray([0.7]))
    x = 8.0 * np.random.default_rng(1).standard_normal((16, 2))
    end = solve(without_noise(name), problem.denoise, x, karras_sigmas(400, 0.05, 8.0)).x
    error = np.abs(end - problem.flow(x, 8.0, 0.05)).max()
    assert error < (0.05 if SAMPLERS[name].order == 1 else 1e-3)


@pytest.mark.parametrize("name", EVERY)
def test_declared_evaluations_and_draws_are_the_counted_ones(name):
    """The last step goes to 0, which costs one evaluation and no noise, except for churn.

    A step that guides itself needs its second evaluation there, too.
    """
    calls = []
    draws = []
    entry = SAMPLERS[name]
    x = np.ones((1, 2))
    sigmas = [9.0, 5.0, 4.0, 3.0, 2.5, 2.0, 0.0]

    def denoise(x, sigma):
        calls.append(sigma)
        return 0.5 * x

    def noise():
        draws.append(1)
        return 0.0 * x

    per_step = []
    for _ in sample(denoise, x, sigmas, entry.make(), noise=noise):
        per_step.append((len(calls), len(draws)))
    calls_of = np.diff([0, *(c for c, _ in per_step)]).tolist()
    draws_of = np.diff([0, *(d for _, d in per_step)]).tolist()
    expected = [*entry.start_nfe, *[entry.nfe] * 5][:5]
    if name in LOOKS_AHEAD:
        expected[-1] -= 1
    if entry.adaptive:
        assert all(n >= entry.nfe and (n - entry.nfe) % 6 == 0 for n in calls_of[:5])
    else:
        assert calls_of[:5] == expected
    assert calls_of[5] == (entry.nfe if entry.own_guidance else 1)
    assert draws_of == [entry.draws if entry.stochastic else 0] * 5 + [int(name in CHURN)]


@pytest.mark.parametrize("name", EVERY)
def test_declared_eta_is_the_default(name):
    entry = SAMPLERS[name]
    if entry.eta is None:
        with pytest.raises(TypeError):
            entry.make(eta=0.5, order=9, nonsense=1)
        return
    problem = three_modes()
    x = np.ones((2, 2))
    ends = [
        solve(make(), problem.denoise, x, [4.0, 2.0, 1.0], noise=drawing(0, (2, 2))).x
        for make in (entry.make, lambda: entry.make(eta=entry.eta))
    ]
    np.testing.assert_array_equal(*ends)
    assert entry.stochastic == (entry.eta > 0)
    solve(entry.make(eta=0.0), problem.denoise, x, [4.0, 2.0, 1.0], noise=no_noise)


def test_every_sampler_tells_its_source():
    for name, entry in SAMPLERS.items():
        assert len(entry.source) > 10, name
        assert entry.order in range(6) and entry.nfe >= 1 and entry.draws in (1, 2, 3)
    sources = {name: entry.source for name, entry in SAMPLERS.items()}
    assert sources["dpm_solver_3"] == "arXiv:2206.00927, algorithm 2"
    assert sources["dpmpp_2s"] == "arXiv:2211.01095, algorithm 1"


TABLE = {  # order, evaluations, stochastic, eta
    "ddpm": (1, 1, True, None),
    "ddim": (1, 1, False, 0.0),
    "euler": (1, 1, False, None),
    "euler_a": (1, 1, True, 1.0),
    "heun": (2, 2, False, None),
    "midpoint": (2, 2, False, None),
    "rk4": (4, 4, False, None),
    "rk45": (5, 7, False, None),
    "lms": (4, 1, False, None),
    "pndm": (2, 1, False, None),
    "deis": (2, 1, False, None),
    "deis_3": (3, 1, False, None),
    "dpm_solver_2": (2, 2, False, None),
    "dpm_solver_2_a": (2, 2, True, 1.0),
    "dpm_solver_3": (3, 3, False, None),
    "dpmpp_2s": (2, 2, False, None),
    "dpmpp_2s_a": (2, 2, True, 1.0),
    "dpmpp_sde": (2, 2, True, 1.0),
    "dpmpp_2m": (2, 1, False, None),
    "dpmpp_2m_sde": (2, 1, True, 1.0),
    "dpmpp_2m_sde_heun": (2, 1, True, 1.0),
    "dpmpp_3m_sde": (2, 1, True, 1.0),
    "unipc": (3, 1, False, None),
    "unipc_3": (3, 1, False, None),
    "lcm": (0, 1, True, None),
    "ddim_cfgpp": (1, 1, False, 0.0),
    "euler_cfgpp": (1, 1, False, None),
    "rectified_cfgpp": (1, 2, False, None),
    "lms_euler": (2, 1, False, None),
    "dpmpp_2m_sigma": (2, 1, False, None),
    "dpmpp_2m_heun": (2, 1, False, None),
    "dpmpp_3m": (2, 1, False, None),
    "dpmpp_1": (1, 1, False, None),
    "dpmpp_1_sde": (1, 1, True, 1.0),
    "dpm_solver_2m": (2, 1, False, None),
    "dpm_solver_3m": (2, 1, False, None),
    "dpm_solver_1_sde": (1, 1, True, 1.0),
    "dpm_solver_2m_sde": (2, 1, True, 1.0),
    "unipc_1": (2, 1, False, None),
    "euler_churn": (1, 1, True, None),
    "heun_churn": (2, 2, True, None),
    "gradient_estimation": (1, 1, False, None),
    "ipndm": (2, 1, False, None),
    "deis_3_euler": (2, 1, False, None),
    "dpmpp_2_singlestep": (2, 1, False, None),
    "dpmpp_3_singlestep": (2, 1, False, None),
    "heunpp2": (1, 3, False, None),
    "ipndm_v": (2, 1, False, None),
    "seeds_2": (2, 2, True, 1.0),
    "seeds_3": (3, 3, True, 1.0),
    "exp_heun_2_x0": (2, 2, False, None),
    "exp_heun_2_x0_sde": (2, 2, True, 1.0),
    "er_sde": (1, 1, True, None),
    "tcd": (0, 1, True, 0.3),
}


def test_the_table_of_samplers():
    """What is declared of these stays; of further samplers it is measured by the tests above."""
    declared = {n: (s.order, s.nfe, s.stochastic, s.eta) for n, s in SAMPLERS.items() if n in TABLE}
    assert declared == TABLE
    assert [n for n in TABLE if SAMPLERS[n].adaptive] == ["rk45"]
    assert [n for n in TABLE if SAMPLERS[n].draws != 1] == ["dpmpp_sde", "seeds_2", "seeds_3"]
    two = {"ddim_cfgpp", "euler_cfgpp", "rectified_cfgpp"}
    assert {n for n in TABLE if SAMPLERS[n].unconditional} == two
    assert [n for n in TABLE if SAMPLERS[n].own_guidance] == ["rectified_cfgpp"]


@pytest.mark.parametrize("name", EVERY)
def test_the_page_lists_what_is_declared(name):
    """docs/math/samplers.md has a row for each sampler."""
    page = Path(__file__).parents[2] / "docs" / "math" / "samplers.md"
    sampler = SAMPLERS[name]
    evaluations = f"{sampler.nfe} or more" if sampler.adaptive else sampler.nfe
    noise = f"eta = {sampler.eta:g}" if sampler.eta is not None else "no"
    noise = "yes" if sampler.stochastic and sampler.eta is None else noise
    row = f"| `{name}` | {sampler.order} | {evaluations} | {noise}"
    assert any(line.startswith(row) for line in page.read_text().splitlines()), row


def test_what_a_sampler_declares_by_default():
    entry = Sampler(heun, 2, 2, False, "mine")
    assert (entry.eta, entry.start_nfe, entry.draws, entry.adaptive) == (None, (), 1, False)


def test_default_arguments_of_the_makers():
    from ldmref import samplers as s

    makers = [
        s.ancestral,
        s.with_noise,
        s.dpm_solver,
        s.dpmpp_sde,
        s.dpmpp_2m,
        s.dpmpp_3m,
        s.lms,
        s.deis,
        s.unipc,
        s.rk45,
        s.dpm_solver_multistep,
    ]
    defaults = {
        m.__name__: {
            name: p.default
            for name, p in inspect.signature(m).parameters.items()
            if p.default is not p.empty
        }
        for m in makers
    }
    assert defaults == {
        "ancestral": {"eta": 0.0},
        "with_noise": {"eta": 1.0},
        "dpm_solver": {"order": 2},
        "dpmpp_sde": {"eta": 1.0, "r": 0.5},
        "dpmpp_2m": {"eta": 0.0, "solver": "midpoint"},
        "dpmpp_3m": {
            "eta": 1.0,
            "solver": "heun",
        },
        "lms": {"order": 4, "start": "runge_kutta"},
        "deis": {"order": 2, "start": "euler"},
        "unipc": {
            "order": 2,
            "variant": "bh2",
            "corrector": True,
            "lower_order_final": False,
            "noise_prediction": False,
            "disable_corrector": (),
        },
        "dpm_solver_multistep": {"order": 2, "eta": 0.0, "solver": "midpoint"},
        "rk45": {"rtol": 1e-5, "atol": 1e-5},
    }


@pytest.mark.parametrize("name", [n for n in EVERY if n not in LOOKS_AHEAD])
def test_a_trajectory_can_be_split(name):
    """0..k and then k..n, with the history passed along, equals 0..n."""
    problem = three_modes()
    x = np.random.default_rng(4).standard_normal((4, 2)) * 5
    sigmas = karras_sigmas(9, 0.1, 5.0).tolist()
    step = SAMPLERS[name].make()
    for cut in (1, 2, 4):
        noise = drawing(5, x.shape)
        whole = solve(step, problem.denoise, x, sigmas, noise)
        noise = drawing(5, x.shape)
        middle = solve(step, problem.denoise, x, sigmas[: cut + 1], noise)
        end = solve(step, problem.denoise, middle.x, sigmas[cut:], noise, history=middle.history)
        np.testing.assert_array_equal(end.x, whole.x)


@pytest.mark.parametrize("name", EVERY)
def test_constrain_keeps_known_entries_bit_for_bit(name):
    problem = three_modes()
    known = np.asarray([[0.1, 0.2]])
    keep = np.asarray([[1.0, 0.0]])
    levels = []

    def constrain(x, interval):
        levels.append(interval.sigma_next)
        return np.where(keep == 1.0, known + interval.sigma_next * 0.5, x)

    sigmas = [5.0, 3.0, 2.0, 1.0, 0.0]
    noise = drawing(6, (1, 2))
    x = np.ones((1, 2))
    end = solve(name, problem.denoise, x, sigmas, noise, constrain=constrain).x
    assert end[0, 0] == known[0, 0] and np.isfinite(end).all()
    assert levels == sigmas[1:]


def test_samplers_do_not_write_into_their_arguments():
    problem = three_modes()
    for name in EVERY:
        x = np.ones((2, 2))
        solve(name, problem.denoise, x, [5.0, 3.0, 1.0, 0.0], drawing(7, (2, 2)))
        assert (x == 1.0).all()


def test_unknown_sampler_names_the_nearest():
    with pytest.raises(UsageError, match="eular") as caught:
        get_sampler("eular")
    assert caught.value.code == "E-SAMPLER" and "'euler'" in caught.value.hint


def test_aliases_lead_to_samplers():
    assert len(ALIASES) == 26
    for alias, name in ALIASES.items():
        assert alias == alias.lower() and alias not in SAMPLERS
        assert get_sampler(alias) is get_sampler(alias.upper()) is SAMPLERS[name]
    assert get_sampler("DPM++ 2S a") is SAMPLERS["dpmpp_2s_a"]
    assert get_sampler("DPM++ 3M SDE") is SAMPLERS["dpmpp_3m_sde"]
    assert get_sampler("PLMS") is SAMPLERS["pndm"] and get_sampler("Heun") is SAMPLERS["heun"]


def test_families_are_those_of_the_classes_in_diffusers():
    """DPMSolverMultistep, UniPC and DEIS drop the last of n + 1 points; DDIM's family rounds."""
    families = ("ddim", "euler", "multistep")
    named = {family: {n for n, s in SAMPLERS.items() if s.family == family} for family in families}
    assert set().union(*named.values()) == set(SAMPLERS)
    assert named["ddim"] == {"ddim", "ddim_cfgpp", "ddpm", "pndm", "lcm", "tcd"}
    starts = ("dpmpp_1", "dpmpp_2m", "dpmpp_3m", "unipc", "deis", "dpm_solver_2m", "dpm_solver_3m")
    others = {"dpmpp_2s", "dpm_solver_1_sde", "dpmpp_2_singlestep", "dpmpp_3_singlestep"}
    assert named["multistep"] == {n for n in SAMPLERS if n.startswith(starts)} | others


def test_fields_of_families_of_samplers():
    """A sampler derived from another keeps what is declared about it."""

    def named(predicate):
        return {name for name, sampler in SAMPLERS.items() if predicate(sampler)}

    assert named(lambda s: s.on_timesteps) == {"tcd"}
    assert named(lambda s: s.clean_end) == {"ddpm", "lcm"}
    assert named(lambda s: s.block == 2) == {"dpmpp_2_singlestep"}
    assert named(lambda s: s.block == 3) == {"dpmpp_3_singlestep"}
    third_order = {"dpmpp_3m", "dpmpp_3m_sde", "dpm_solver_3m"}
    assert named(lambda s: s.lower_orders == "always") == third_order
    solvers = {"dpm_solver_2m", "dpm_solver_2m_sde", "dpmpp_2_singlestep", "dpmpp_3_singlestep"}
    assert named(lambda s: s.configurable == ("solver",)) == third_order | solvers
    assert named(lambda s: "variant" in s.configurable) == {"unipc_1", "unipc", "unipc_3"}
    limited = named(lambda s: s.lower_orders == "configured")
    assert limited == {n for n in SAMPLERS if n.startswith("dpmpp_2m")} | {
        "deis",
        "deis_3_euler",
        "dpm_solver_2m",
        "dpm_solver_2m_sde",
    }
    for sampler in SAMPLERS.values():
        assert set(sampler.configurable) <= set(inspect.signature(sampler.make).parameters)


@pytest.mark.parametrize(
    ("name", "eta", "draws"),
    [
        ("euler", None, False),
        ("ddpm", None, True),
        ("ddpm", 0.0, True),  # has no eta
        ("ddim", None, False),
        ("ddim", 0.0, False),
        ("ddim", 0.3, True),
        ("euler_a", None, True),
        ("euler_a", 0.0, False),
        ("euler_a", 0.3, True),
    ],
)
def test_which_eta_draws_noise(name, eta, draws):
    assert SAMPLERS[name].draws_noise(eta) is draws


def test_the_former_name_of_own_guidance_is_taken():
    arguments = (SAMPLERS["euler"].make, 1, 2, False, "a test")
    with pytest.warns(DeprecationWarning, match=r"Sampler\(guides=\) is Sampler\(own_guidance=\)"):
        mine = Sampler(*arguments, guides=True)
    assert replace(mine, name="another") == Sampler(*arguments, own_guidance=True, name="another")
