"""ComfyUI's samplers on flows, which keep sigma as the coordinate: how far the names are apart.

`ENDS` was printed by the functions of `comfy/k_diffusion/sampling.py` (a125cd84, torch, float64)
for the runs below: the first of the 2,000 points at the end. The steps here are written anew.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import integrate
from test_original_programs import denoise

from ldmref.differences import read_differences
from ldmref.models import preset
from ldmref.samplers import configured_step, get_sampler, make_schedule, sample

START = np.random.default_rng(0).standard_normal((2000, 2))
NOISES = np.random.default_rng(1).standard_normal((60, 2000, 2))
SCHEDULER = preset("sd35-medium").scheduler
STEPS = 28


def ours(name):
    """Return the levels and the end of ldmref's run of a name."""
    sampler = get_sampler(name)
    schedule = make_schedule(SCHEDULER, sampler, SCHEDULER.spacing, STEPS)
    step, _ = configured_step(SCHEDULER, sampler, schedule)
    noises = iter(NOISES)
    path, levels = schedule.path, schedule.sigmas.tolist()
    *_, last = sample(denoise, START, levels, step, path=path, noise=lambda: next(noises))
    return levels, last.x


def toward(x, x0, s, to):
    """A straight line to another level."""
    return x0 + (to / s) * (x - x0)


def lower(s, to):
    """The level below s' from which an ancestral step renoises, and its noise and its scale."""
    down = to * to / s
    scale = (1 - to) / (1 - down)
    return down, scale, math.sqrt(to**2 - (scale * down) ** 2)


def halfway(x, s, to):
    """DPM-Solver-2 in log sigma: the velocity at the geometric mean of both levels."""
    middle = math.sqrt(s * to)
    point = toward(x, denoise(x, s), s, middle)
    return x + (to - s) * (point - denoise(point, middle)) / middle


def dpm_2(levels):
    x = START
    for s, to in itertools.pairwise(levels):
        x = halfway(x, s, to) if to else denoise(x, s)
    return x


def ancestral(levels, advance):
    x = START
    for i, (s, to) in enumerate(itertools.pairwise(levels)):
        if not to:
            return denoise(x, s)
        down, scale, noise = lower(s, to)
        x = scale * advance(x, s, down) + noise * NOISES[i]
    return x


def single_step(x, s, to):
    """DPM-Solver++(2S): the prediction at the mean of log((1 - s) / s), or at 0.9999 from noise."""
    odds = math.sqrt((1 - s) / s * (1 - to) / to)
    middle = 0.9999 if s == 1 else 1 / (1 + odds)
    point = toward(x, denoise(x, s), s, middle)
    return toward(x, denoise(point, middle), s, to)


def res_multistep(levels, eta):
    """Exponential Adams-Bashforth of order 2 in -log sigma; noise as on x0 + sigma eps."""
    x = START
    before = None
    for i, (s, to) in enumerate(itertools.pairwise(levels)):
        x0 = denoise(x, s)
        up = eta * to * math.sqrt(1 - (to / s) ** 2)
        down = math.sqrt(to**2 - up**2)
        if before is None or not down:
            x = toward(x, x0, s, down)
        else:
            older, old_s, old_down = before
            h = math.log(s / down)
            ratio = math.log(old_down / old_s) / h
            phi_1 = -math.expm1(-h) / h
            phi_2 = (1 - phi_1) / h
            x = math.exp(-h) * x + h * ((phi_1 - phi_2 / ratio) * x0 + phi_2 / ratio * older)
        x = x + up * NOISES[i]
        before = x0, s, down
    return x


def edm_time(sigma):
    """t of the linear VP process with sigma 0.002 at t = 0.001 and 80 at t = 1."""
    low, high = math.log1p(0.002**2), math.log1p(80.0**2)
    slope = 2 * (low / 1e-3 - high) / (1e-3 - 1)
    start = high - slope / 2
    return (math.sqrt(start**2 + 2 * slope * math.log1p(sigma**2)) - start) / slope


def deis(levels):
    """Order 3: slopes at earlier levels, by polynomials in `edm_time`."""
    x = START
    slopes = []
    for s, to in itertools.pairwise(levels):
        slopes = [(s, (x - denoise(x, s)) / s), *slopes[:2]]
        if not to:
            return toward(x, denoise(x, s), s, to)
        for j, (level, slope) in enumerate(slopes):
            others = [other for i, (other, _) in enumerate(slopes) if i != j]

            def basis(sigma, level=level, others=others):
                t = edm_time(sigma)
                places = [edm_time(other) for other in others]
                return math.prod((t - p) / (edm_time(level) - p) for p in places)

            x = x + slope * integrate.quad(basis, s, to)[0]
    return x


RUNS = {
    "dpm_2": dpm_2,
    "deis": deis,
    "res_multistep": lambda levels: res_multistep(levels, 0.0),
    "euler_ancestral": lambda levels: ancestral(
        levels, lambda x, s, to: toward(x, denoise(x, s), s, to)
    ),
    "dpm_2_ancestral": lambda levels: ancestral(levels, halfway),
    "dpmpp_2s_ancestral": lambda levels: ancestral(levels, single_step),
    "res_multistep_ancestral": lambda levels: res_multistep(levels, 1.0),
}
ENDS = {
    "dpm_2": (0.7055942, 0.23905543),
    "deis": (0.70511227, 0.2412189),
    "res_multistep": (0.68353998, 0.21951147),
    "euler_ancestral": (-1.57896294, 1.16149204),
    "dpm_2_ancestral": (-1.70474892, 1.39842837),
    "dpmpp_2s_ancestral": (-1.65377558, 1.29299907),
    "res_multistep_ancestral": (-2.82590649, 3.3189973),
}


def row_of(name):
    """The row of `ldmref differences` about a name of ComfyUI on flows."""
    start = f"ComfyUI's `{name}` on a flow"
    (row,) = [row for row in read_differences() if row.difference.startswith(start)]
    return row


@pytest.mark.parametrize("name", RUNS)
def test_names_of_comfyui_on_flows(name):
    levels, end = ours(name)
    theirs = RUNS[name](levels)
    np.testing.assert_allclose(theirs[0], ENDS[name], rtol=0, atol=1e-5 if name == "deis" else 1e-8)
    apart = np.sqrt(np.mean((theirs - end) ** 2))
    assert f"samples {apart:.2g} apart" in row_of(name).number


def test_variance_of_res_multistep_ancestral_on_a_flow():
    """It adds the noise of x0 + sigma eps and keeps the data unscaled, so noise is left over."""
    levels, end = ours("res_multistep_ancestral")
    theirs = res_multistep(levels, 1.0)
    told = row_of("res_multistep_ancestral").number
    assert f"deviation {theirs.std():.2f} instead of {end.std():.2f}" in told
