"""Numbers of docs/math/differences.md: one name, two methods."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from test_measured_differences import N, assert_stated, rms, run
from test_schedulers import GRID, MIXTURE

from ldmref import samplers
from ldmref.math import karras_sigmas, perturbed_attention_guidance
from ldmref.samplers import ALIASES, SAMPLERS, LimitedInterval, get_guidance, guided_denoiser
from ldmref.samplers.multistep import linear_multistep


def apart(name, other):
    return rms(run(SAMPLERS[name].make(), GRID)[-1].x - run(other, GRID)[-1].x)


def comfyui_time(sigma):
    """Return t of a linear VP process from sigma 0.002 at t = 0.001 to 80 at t = 1 (`edm2t`)."""
    low = math.log1p(0.002**2)
    high = math.log1p(80.0**2)
    slope = 2.0 * (low / 1e-3 - high) / (1e-3 - 1.0)
    start = high - 0.5 * slope
    return (math.sqrt(start**2 + 2.0 * slope * math.log1p(sigma**2)) - start) / slope


def comfyui_deis_rule(past, sigma, sigma_next):
    """Return the integrals of Lagrange's polynomials in that t, by Gauss-Legendre quadrature."""
    places = [comfyui_time(s) for s in (sigma, *past)]
    nodes, weights = np.polynomial.legendre.leggauss(20)
    half = 0.5 * (sigma_next - sigma)
    times = [comfyui_time(s) for s in half * nodes + 0.5 * (sigma_next + sigma)]
    integrals = []
    for j in range(1, len(places)):
        others = [p for i, p in enumerate(places) if i != j]
        values = [math.prod((t - p) / (places[j] - p) for p in others) for t in times]
        integrals.append(half * float(np.dot(weights, values)))
    return integrals


def test_unipc_of_comfyui_is_of_order_3_with_bh1():
    """`uni_pc` there: sample_unipc with variant bh1 and order min(3, steps - 1); bh2 has a name."""
    assert ALIASES["uni_pc"] == "unipc"
    assert_stated(
        "20 steps: samples 0.00096 apart", 0.00096, apart("unipc", samplers.unipc(3, "bh1"))
    )


def test_deis_of_comfyui_is_of_order_3_in_the_time_of_edm():
    step = linear_multistep(3, comfyui_deis_rule)
    assert_stated("20 steps: samples 0.004 apart", 0.004, apart("deis", step))


def test_lms_of_comfyui_starts_with_lower_orders():
    assert_stated("20 steps: samples 0.0009 apart", 0.0009, apart("lms", samplers.lms(4, "euler")))


def heun_with_interval(by_index):
    """Return (final states, evaluations whose guidance differs from that by sigma)."""
    sigmas = karras_sigmas(33, 0.05, 10.0).tolist()
    guidance = LimitedInterval(low=0.28, high=5.42)
    odd = 0

    def network(xt, sigma, names, interval):
        x = xt * math.hypot(1.0, sigma)
        uncond = MIXTURE.denoise(x, sigma)
        return [uncond + (0.2 if name == "cond" else 0.0) for name in names]

    denoise = guided_denoiser(network, "x0", guidance, 3.0)
    plain = guided_denoiser(network, "x0", get_guidance("cfg"), 1.0)
    full = guided_denoiser(network, "x0", get_guidance("cfg"), 3.0)
    x = sigmas[0] * np.random.default_rng(0).standard_normal((2000, 2))
    for s, t in itertools.pairwise(sigmas):

        def at(x, sigma, step=s):
            nonlocal odd
            inside = 0.28 < step <= 5.42
            odd += inside != (0.28 < sigma <= 5.42)
            return (full if inside else plain)(x, sigma) if by_index else denoise(x, sigma)

        slope = (x - at(x, s)) / s
        end = x + (t - s) * slope
        x = x + (t - s) * 0.5 * (slope + (end - at(end, t)) / t)
    return x, odd


def test_the_guidance_interval_of_its_authors_holds_for_whole_steps():
    """Their sampler decides once a step, by its index; here every evaluation has its own sigma."""
    ours, _ = heun_with_interval(False)
    theirs, odd = heun_with_interval(True)
    assert odd == 2
    assert_stated("2 of 64 evaluations, samples 0.034 apart", 0.034, rms(ours - theirs))


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_the_scale_of_pag_in_its_authors_code_is_one_more(scale):
    """Without classifier-free guidance it is eps_perturbed + w (eps - eps_perturbed) there."""
    cond, perturbed = np.random.default_rng(0).standard_normal((2, 4, 2))
    theirs = perturbed + (scale + 1.0) * (cond - perturbed)
    ours = perturbed_attention_guidance(cond, cond, perturbed, scale)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_the_grid_has_the_number_of_steps_that_the_page_says():
    assert len(GRID) - 1 == N == 20
