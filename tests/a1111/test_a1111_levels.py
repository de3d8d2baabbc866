"""A1111's noise levels, written again from its formulas, and what its DDIM, PLMS and UniPC do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ldmref.apps.a1111.levels import (
    AUTOMATIC,
    COMPVIS,
    DISCARDING,
    SCHEDULES,
    Levels,
    Options,
    a1111_levels,
)
from ldmref.models.presets import preset
from ldmref.samplers import SAMPLERS, sample
from ldmref.samplers.schedule import sampling_sigmas
from ldmref.samplers.unipc import unipc

TABLE = sampling_sigmas(preset("sd15").scheduler)
LOGS = [math.log(s) for s in TABLE]
T = len(TABLE)
CLOSE = {"rtol": 1e-12, "atol": 0.0}  # both are float64; beta's inverse has 1e-12

# -- A1111's formulas, independent of ldmref ------------------------------------------------------


def t_to_sigma(t):
    low = math.floor(t)
    high = math.ceil(t)
    w = t - low
    return math.exp((1 - w) * LOGS[low] + w * LOGS[high])


def evenly(start, end, n):
    return [start] if n == 1 else [start + (end - start) * i / (n - 1) for i in range(n)]


def theirs_uniform(n):
    return [t_to_sigma(t) for t in evenly(T - 1, 0, n)] + [0.0]


def theirs_sgm_uniform(n):
    return [t_to_sigma(t) for t in evenly(T - 1, 0, n + 1)[:-1]] + [0.0]


def theirs_simple(n):
    return [TABLE[-(1 + int(x * (T / n)))] for x in range(n)] + [0.0]


def theirs_ddim(n):
    levels = []
    x = 1
    while x < T:
        levels.append(TABLE[x])
        x += max(T // n, 1)
    return [*levels[::-1], 0.0]


def theirs_karras(n):
    low = TABLE[0] ** (1 / 7)
    high = TABLE[-1] ** (1 / 7)
    return [(high + u * (low - high)) ** 7 for u in evenly(0, 1, n)] + [0.0]


def theirs_exponential(n):
    return [math.exp(u) for u in evenly(LOGS[-1], LOGS[0], n)] + [0.0]


def theirs_polyexponential(n):
    return [math.exp(r * (LOGS[-1] - LOGS[0]) + LOGS[0]) for r in evenly(1, 0, n)] + [0.0]


def theirs_kl_optimal(n):
    low = math.atan(TABLE[0])
    high = math.atan(TABLE[-1])
    return [math.tan(i / n * low + (1.0 - i / n) * high) for i in range(n + 1)]


def theirs_beta(n):
    p = [stats.beta.ppf(1 - u, 0.6, 0.6) for u in evenly(0, 1, n)]
    return [TABLE[0] + x * (TABLE[-1] - TABLE[0]) for x in p] + [0.0]


def theirs_turbo(n):
    timesteps = [round(k * (1000 / n) - 1) for k in range(n, 0, -1)]
    return [TABLE[min(max(t, 0), 999)] for t in timesteps] + [0.0]


def theirs_align_your_steps(n, sdxl=False):
    levels = (
        [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029]
        if sdxl
        else [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029]
    )
    if n == 11:
        return [*levels, 0.0]
    x = np.linspace(0, 1, 11)
    new = np.interp(np.linspace(0, 1, n), x, np.log(levels[::-1]))
    return [*np.exp(new)[::-1], 0.0]


THEIRS = {
    "uniform": theirs_uniform, "normal": theirs_uniform, "karras": theirs_karras,
    "exponential": theirs_exponential, "polyexponential": theirs_polyexponential,
    "sgm uniform": theirs_sgm_uniform, "sgmuniform": theirs_sgm_uniform,
    "kl optimal": theirs_kl_optimal, "align your steps": theirs_align_your_steps,
    "simple": theirs_simple, "ddim": theirs_ddim, "beta": theirs_beta, "turbo": theirs_turbo,
}  # fmt: skip
PLAIN = """
    euler euler_a heun lms_euler dpmpp_2s_a dpmpp_2m dpmpp_sde dpmpp_2m_sde dpmpp_2m_sde_heun
""".split()
KARRAS = ("dpmpp_2m", "dpmpp_sde", "dpmpp_2s_a", "dpm_solver_2", "dpm_solver_2_a")
EXPONENTIAL = ("dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde")


def theirs(sampler, schedule, n):
    """k-diffusion's levels, after A1111's `get_sigmas`."""
    if schedule == "automatic":
        schedule = "uniform"
        schedule = "karras" if sampler in KARRAS else schedule
        schedule = "exponential" if sampler in EXPONENTIAL else schedule
    if sampler in ("dpm_solver_2", "dpm_solver_2_a", "dpmpp_3m_sde"):
        levels = THEIRS[schedule](n + 1)
        return levels[:-2] + levels[-1:]
    return THEIRS[schedule](n)


@pytest.mark.parametrize("n", [1, 2, 7, 10, 11, 20, 30, 999])
@pytest.mark.parametrize("schedule", [*THEIRS, "automatic"])
@pytest.mark.parametrize("sampler", [*PLAIN, *DISCARDING])
def test_levels_are_those_of_a1111(sampler, schedule, n):
    levels = a1111_levels(TABLE, sampler, schedule, n)
    np.testing.assert_allclose(levels.sigmas, theirs(sampler, schedule, n), **CLOSE)
    assert (np.diff(levels.sigmas) < 0).all() and levels.first == 0


def test_the_tables_name_everything():
    assert set(SCHEDULES) == set(THEIRS)
    assert {*AUTOMATIC, *DISCARDING, *COMPVIS} <= set(SAMPLERS)
    assert set(AUTOMATIC) == {*KARRAS, *EXPONENTIAL}
    assert a1111_levels(TABLE, "euler", "ays 32", 20) is None
    assert a1111_levels(TABLE, "lcm", "uniform", 4) is None


@pytest.mark.parametrize("n", [1, 10, 11, 20, 32])
def test_sdxl_has_a_table_of_its_own(n):
    levels = a1111_levels(TABLE, "euler", "align your steps", n, options=Options(sdxl=True))
    np.testing.assert_allclose(levels.sigmas, theirs_align_your_steps(n, sdxl=True), **CLOSE)


def test_recorded_options():
    levels = a1111_levels(TABLE, "euler", "karras", 20, options=Options(discard=True))
    karras = theirs_karras(21)
    np.testing.assert_allclose(levels.sigmas, karras[:-2] + karras[-1:], **CLOSE)
    levels = a1111_levels(TABLE, "euler", "beta", 5, options=Options(beta=(0.3, 0.9)))
    want = TABLE[0] + stats.beta.ppf(1 - np.linspace(0, 1, 5), 0.3, 0.9) * (TABLE[-1] - TABLE[0])
    np.testing.assert_allclose(levels.sigmas[:-1], want, rtol=1e-9)
    few = a1111_levels(TABLE, "ddim", "automatic", 9, options=Options(discard=True))
    np.testing.assert_array_equal(few.sigmas, a1111_levels(TABLE, "ddim", "karras", 10).sigmas)


@pytest.mark.parametrize("strength", [0.0, 0.05, 0.3, 0.5, 0.75, 0.95, 1.0])
@pytest.mark.parametrize("n", [1, 7, 20, 30])
@pytest.mark.parametrize("schedule", ["karras", "ddim", "uniform"])
@pytest.mark.parametrize("sampler", ["euler", "dpm_solver_2"])
def test_img2img_starts_where_a1111_does(sampler, schedule, n, strength):
    levels = a1111_levels(TABLE, sampler, schedule, n, strength)
    encoded = int(min(strength, 0.999) * n)
    want = theirs(sampler, schedule, n)[n - encoded - 1 :]
    np.testing.assert_allclose(levels.sigmas[levels.first :], want, **CLOSE)
    steps = len(levels.sigmas) - 1
    assert steps - min(int(steps * levels.strength), steps) == levels.first  # as in `Request`
    assert 0.0 < levels.strength <= 1.0


@pytest.mark.parametrize("steps", [*range(1, 60), 333, 999])
def test_strengths_lead_to_their_first_step(steps):
    for first in range(steps):
        strength = Levels(np.linspace(2.0, 1.0, steps + 1), first).strength
        assert steps - min(int(steps * strength), steps) == first


# -- DDIM, PLMS and UniPC in A1111's own coordinates, x = sqrt(abar) x0 + sqrt(1 - abar) eps ------

ABAR = 1.0 / (1.0 + TABLE**2)


def eps_of(x, t):
    """A smooth noise prediction of nothing in particular, at a timestep that need not be whole."""
    return np.tanh(0.7 * x + 0.3) * (0.9 + 0.1 * np.cos(t / 200.0))


def abar_at(t):
    return np.exp(np.interp(t, np.arange(T), np.log(ABAR)))


def denoise(x, sigma):
    """Return the same as a prediction of x0 in x0 + sigma eps."""
    abar = 1.0 / (1.0 + sigma**2)
    t = np.interp(-np.log(abar), np.arange(T) * 0 - np.log(ABAR), np.arange(T))
    return x - sigma * eps_of(np.sqrt(abar) * x, t)


def compvis_timesteps(n):
    return [min(t + 1, 999) for t in range(0, 1000, 1000 // n)]


def their_ddim(x, timesteps):
    for i in range(len(timesteps) - 1):
        index = len(timesteps) - 1 - i
        a = ABAR[timesteps[index]]
        before = ABAR[timesteps[index - 1]]
        eps = eps_of(x, timesteps[index])
        x = np.sqrt(before) * (x - np.sqrt(1 - a) * eps) / np.sqrt(a) + np.sqrt(1 - before) * eps
    return x


def their_plms(x, timesteps):
    def moved(x, eps, index):
        a = ABAR[timesteps[index]]
        before = ABAR[timesteps[index - 1]]
        return np.sqrt(before) * (x - np.sqrt(1 - a) * eps) / np.sqrt(a) + np.sqrt(1 - before) * eps

    old = []
    for i in range(len(timesteps) - 1):
        index = len(timesteps) - 1 - i
        eps = eps_of(x, timesteps[index])
        if len(old) == 0:
            used = (eps + eps_of(moved(x, eps, index), timesteps[index - 1])) / 2
        elif len(old) == 1:
            used = (3 * eps - old[-1]) / 2
        elif len(old) == 2:
            used = (23 * eps - 16 * old[-1] + 5 * old[-2]) / 12
        else:
            used = (55 * eps - 59 * old[-1] + 37 * old[-2] - 9 * old[-3]) / 24
        old = [*old, eps][-3:]
        x = moved(x, used, index)
    return x


def ours(sampler_step, z, levels):
    """From unit noise to latents in A1111's scale, as `modes.generate` does."""
    sigmas = levels.sigmas.tolist()
    x = z * math.hypot(1.0, sigmas[0])
    for state in sample(denoise, x, sigmas, sampler_step):
        x = state.x
    return x / math.hypot(1.0, sigmas[-1])


@pytest.mark.parametrize("n", [2, 3, 7, 20, 30, 50])
@pytest.mark.parametrize(("name", "loop"), [("ddim", their_ddim), ("pndm", their_plms)])
def test_ddim_and_plms_end_where_those_of_a1111_do(name, loop, n):
    z = np.random.default_rng(3).standard_normal(50)
    levels = a1111_levels(TABLE, name, "karras", n)  # which they ignore
    assert len(levels.sigmas) - 1 == len(compvis_timesteps(n)) - 1
    want = loop(z, compvis_timesteps(n))
    np.testing.assert_allclose(ours(SAMPLERS[name].make(), z, levels), want, rtol=0, atol=1e-11)


def their_unipc(x, n):
    """UniPC of order 3, bh1, data prediction, time_uniform, lower orders at the end."""
    t = np.linspace(1.0, 0.001, n + 1)
    index = (t - 0.001) * 1000
    alpha = np.sqrt(abar_at(index))
    sigma = np.sqrt(1 - alpha**2)
    lam = np.log(alpha / sigma)

    def x0_of(x, k):
        return (x - sigma[k] * eps_of(x, index[k])) / alpha[k]

    def update(x, past, k, order, corrects):
        h = lam[k] - lam[k - 1]
        m0 = past[-1]
        rks = [(lam[k - 1 - i] - lam[k - 1]) / h for i in range(1, order)]
        d1s = [(past[-1 - i] - m0) / rks[i - 1] for i in range(1, order)]
        rks = np.asarray([*rks, 1.0])
        hh = -h
        phi = math.expm1(hh) / hh - 1
        factorial = 1
        rows = []
        b = []
        for i in range(1, order + 1):
            rows.append(rks ** (i - 1))
            b.append(phi * factorial / hh)
            factorial *= i + 1
            phi = phi / hh - 1 / factorial
        rows = np.asarray(rows)
        b = np.asarray(b)
        base = sigma[k] / sigma[k - 1] * x - alpha[k] * math.expm1(hh) * m0
        predictor = [0.5] if order == 2 else np.linalg.solve(rows[:-1, :-1], b[:-1])
        x_new = base - alpha[k] * hh * sum(r * d for r, d in zip(predictor, d1s, strict=True))
        if not corrects:
            return x_new, None
        corrector = [0.5] if order == 1 else np.linalg.solve(rows, b)
        m = x0_of(x_new, k)
        change = sum(r * d for r, d in zip(corrector[:-1], d1s, strict=True))
        return base - alpha[k] * hh * (change + corrector[-1] * (m - m0)), m

    past = [x0_of(x, 0)]
    for k in range(1, n + 1):
        order = min(k, 3, n + 1 - k) if k >= 3 else k
        x, m = update(x, past, k, order, k < n)
        past.append(m)
    return x


@pytest.mark.parametrize("n", [4, 10, 20])
def test_unipc_has_the_levels_of_a1111_and_its_method_is_here(n):
    """Its method is `unipc(3, "bh1", lower_order_final=True)`, which no sampler's name stands for.

    The replay takes `unipc_3` and says so.
    """
    z = np.random.default_rng(4).standard_normal(50)
    levels = a1111_levels(TABLE, "unipc_3", "automatic", n)
    want = their_unipc(z, n)
    method = unipc(3, "bh1", lower_order_final=True)
    np.testing.assert_allclose(ours(method, z, levels), want, rtol=0, atol=1e-10)
    assert np.abs(ours(SAMPLERS["unipc_3"].make(), z, levels) - want).max() > 1e-6


@pytest.mark.parametrize("sampler", ["ddim", "pndm"])
@pytest.mark.parametrize(("n", "strength"), [(20, 0.5), (30, 0.75), (7, 0.3), (50, 1.0)])
def test_compvis_samplers_start_below_the_noised_timestep(sampler, n, strength):
    levels = a1111_levels(TABLE, sampler, "automatic", n, strength)
    timesteps = compvis_timesteps(n)[: int(min(strength, 0.999) * n)]
    np.testing.assert_array_equal(levels.sigmas[levels.first :], TABLE[timesteps[::-1]])


def test_unipc_in_img2img_and_too_few_steps():
    levels = a1111_levels(TABLE, "unipc_3", "automatic", 20, 0.5)
    timesteps = compvis_timesteps(20)
    assert levels.first == 1 and len(levels.sigmas) == 10 + 2
    want = np.sqrt(1.0 / abar_at([timesteps[10], *np.linspace(timesteps[9], 0, 11)]) - 1.0)
    np.testing.assert_allclose(levels.sigmas, want, rtol=1e-9)
    for sampler in COMPVIS:
        assert a1111_levels(TABLE, sampler, "automatic", 1) is None
        for few in (0.0, 0.05):
            assert a1111_levels(TABLE, sampler, "automatic", 20, few) is None
    assert a1111_levels(TABLE, "ddim", "automatic", 600).sigmas[0] == TABLE[-1]  # 999 once
