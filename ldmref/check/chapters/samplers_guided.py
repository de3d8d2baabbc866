"""Samplers with two predictions: CFG++ and Rectified-CFG++ against their published formulas."""

from __future__ import annotations

from ldmref.check.chapters.samplers import decreasing_sigmas, final_state, vp_scales
from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, to_host
from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import Guided, GuidedDenoiser
from ldmref.samplers.loop import sample
from ldmref.samplers.path import FLOW

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


# Roundings: 40 on each side, of data up to 4 and velocities up to 10, divided by a level of 0.3.
@chapter.identity("rectified_cfgpp", "algorithm 1 with velocities", 80)
def guidance_from_the_middle_of_the_conditional_step(f: Functions, rng: RandomInputs) -> Comparison:
    """Two denoisers linear in x, on the path of flow matching."""
    x = rng.normal(3, 2, 1, 2)
    s = rng.number(0.6, 0.9)
    s_next = rng.number(0.1, 0.5)
    strength = rng.number(0.0, 2.0)
    power = rng.number(0.0, 2.0)
    gains = rng.number(0.2, 0.9), rng.number(-0.5, 0.1)

    def velocity(gain: float, x: Array, at: float) -> Array:
        return x * (1.0 - gain * (1.0 - at)) / at

    def predict(x: Array, sigma: float, *arguments: object) -> Guided:
        cond, uncond = (gain * (1.0 - sigma) * x for gain in gains)
        return Guided(cond, uncond, (), strength)

    got = list(sample(GuidedDenoiser(predict), x, [s, s_next], f.rectified_cfgpp(power), path=FLOW))
    got = got[-1].x
    v = velocity(gains[0], to_host(x), s)
    middle = to_host(x) + 0.5 * (s_next - s) * v
    at = 0.5 * (s + s_next)
    change = velocity(gains[0], middle, at) - velocity(gains[1], middle, at)
    guided = v + strength * (1.0 - s) ** power * change
    return got, to_host(x) + (s_next - s) * guided, 10.0


# Roundings: 12 here, 8 in the oracle, of scores up to 60.
@chapter.identity("autoguidance", "powers of two Gaussians", 20)
def sharpened_against_a_blurred_model(f: Functions, rng: RandomInputs) -> Comparison:
    """N(m, v)^w N(m, v + b)^(1 - w) is Gaussian, with the weighted sum of the precisions."""
    x = rng.normal(3, 4)
    mean = rng.number(-1.0, 1.0)
    sigma = rng.number(0.5, 2.0)
    scale = rng.number(0.0, 4.0)
    variances = (v := rng.number(0.3, 1.0)), v + rng.number(0.5, 2.0)
    good, blurred = (
        lambda x, sigma, v=v: mean + v / (v + sigma**2) * (x - mean) for v in variances
    )
    x0 = f.autoguidance(good, blurred, scale)(x, sigma)
    precisions = [1.0 / (v + sigma**2) for v in variances]
    precision = scale * precisions[0] + (1.0 - scale) * precisions[1]
    score = (to_host(x0) - to_host(x)) / sigma**2
    return score, -precision * (to_host(x) - mean), 40.0
