"""Samplers with two predictions: CFG++ against its published formula."""

from __future__ import annotations

from ldmref.check.chapters.samplers import decreasing_sigmas, final_state, vp_scales
from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, to_host
from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import Guided, GuidedDenoiser

chapter = Chapter("samplers")


def two_predictions(x0: Array, uncond: Array) -> GuidedDenoiser:
    """Return a guided denoiser with constant predictions."""
    return GuidedDenoiser(lambda *arguments: Guided(x0, uncond, ()))


# Roundings: 5 here, 14 in the oracle, of noise up to 5.
@chapter.identity("cfgpp", "algorithm 2 in alpha-bar", 19)
def guided_data_and_unconditional_noise(f: Functions, rng: RandomInputs) -> Comparison:
    """Compare with x_s = alpha' x0 + sqrt(1 - alpha'^2) eps_uncond, where x_t = alpha x."""
    (s, t) = decreasing_sigmas(rng, 1)
    x0, uncond, x = rng.normals(3, 3, 2, 1, 2)
    (a, b) = vp_scales(s)
    (a_next, b_next) = vp_scales(t)
    eps = (a * to_host(x) - a * to_host(uncond)) / b
    expected = (a_next * to_host(x0) + b_next * eps) / a_next
    return final_state(f.cfgpp(), two_predictions(x0, uncond), x, [s, t]), expected, 4.0
