"""Samplers: each step against its published formula, in another form than the step computes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np

from ldmref.check.identity import (
    Chapter,
    Comparison,
    Functions,
    KnownMistake,
    RandomInputs,
    spread,
    to_host,
)
from ldmref.math.arrays import Array
from ldmref.samplers import FLOW, sample
from ldmref.samplers.interfaces import Denoiser, Step
from ldmref.samplers.runge_kutta import RK4

chapter = Chapter("samplers")


def decreasing_sigmas(rng: RandomInputs, steps: int) -> list[float]:
    """Return steps + 1 decreasing sigmas with different ratios."""
    sigmas = [rng.number(2.0, 6.0)]
    for _ in range(steps):
        sigmas.append(sigmas[-1] * rng.number(0.4, 0.8))
    return sigmas


def final_state(
    step: Step, denoise: Denoiser, x: Array, sigmas: list[float], noises: Iterable = ()
) -> Array:
    """Return the last x of `sample`; every call of its noise takes the next of `noises`."""
    remaining = iter(noises)
    return list(sample(denoise, x, sigmas, step, noise=lambda: next(remaining)))[-1].x


def linear_denoiser(rng: RandomInputs) -> tuple[Denoiser, Denoiser]:
    """Return a denoiser linear in x, for the arrays under test and for the host."""
    gain = rng.number(0.1, 0.9)
    shift = rng.normal(3, 2, 1, 2)

    def with_shift(shift: Array) -> Denoiser:
        return lambda x, sigma: (gain / (1.0 + sigma)) * x + shift

    return with_shift(shift), with_shift(to_host(shift))


def vp_scales(sigma: float) -> tuple[float, float]:
    """(alpha, sigma) of the variance-preserving process: their squares sum to 1."""
    alpha = 1.0 / math.hypot(1.0, sigma)
    return alpha, sigma * alpha


# Roundings: 15 of means up to 4, divided by 0.2, and 6 of states up to 24, of a scale of 10.
@chapter.identity("ancestral", "Bayes' rule", 44, uses=("q_posterior",), amplified=2.4)
def eta_one_is_the_posterior_of_ddpm(f: Functions, rng: RandomInputs) -> Comparison:
    (s, t) = decreasing_sigmas(rng, 1)
    (x0, xt, eps) = rng.normals(3, 3, 2, 1, 2)
    now = vp_scales(s)[0] ** 2
    before = vp_scales(t)[0] ** 2
    mean, variance = f.q_posterior(x0, xt, now, before)
    got = final_state(f.ancestral(1.0), lambda x, sigma: x0, xt / now**0.5, [s, t], [eps])
    noise = np.sqrt(spread(variance, x0)) * to_host(eps)
    return got, (to_host(mean) + noise) / before**0.5, 10.0


def ddim(rng: RandomInputs, make_step: Callable[[float], Step]) -> Comparison:
    """Equation 12 in alpha-bar, divided by its root."""
    eta = rng.number(0.0, 1.0)
    (s, t) = decreasing_sigmas(rng, 1)
    x0, x, eps = rng.normals(3, 3, 2, 1, 2)
    (a, b) = vp_scales(s)
    (a_next, b_next) = vp_scales(t)
    up = eta * (b_next / b) * math.sqrt(1 - (a / a_next) ** 2)
    noise = (a / b) * (to_host(x) - to_host(x0))
    expected = to_host(x0) + (math.sqrt(b_next**2 - up**2) * noise + up * to_host(eps)) / a_next
    return final_state(make_step(eta), lambda y, sigma: x0, x, [s, t], [eps]), expected, 4.0


# Roundings: 16 of noise up to 19 here; what up leaves of sigma amplifies 8 in the oracle 3
# times.
@chapter.identity("ancestral", "the paper's form", 40, amplified=4.8)
def equation_12_of_ddim_for_any_eta(f: Functions, rng: RandomInputs) -> Comparison:
    return ddim(rng, f.ancestral)


# Roundings: 16 of noise up to 19 here; what up leaves of sigma amplifies 8 in the oracle 3
# times.
@chapter.identity("with_noise", "DDIM", 40, uses=("ancestral",), amplified=4.8)
def straight_line_becomes_ddim_for_any_eta(f: Functions, rng: RandomInputs) -> Comparison:
    return ddim(rng, lambda eta: f.with_noise(f.ancestral(0.0), eta))


# Roundings: z = x / alpha is up to 10 times x, and 20 of the step on it; both are scaled back.
@chapter.identity("on_ratio", "Bayes' rule on the path of flow matching", 60, amplified=10.0)
def eta_one_is_the_posterior_of_a_flow(f: Functions, rng: RandomInputs) -> Comparison:
    """q(x_t | x_s, x0) of x_s = (1 - s) x0 + s eps, whose step adds the rest of the noise."""
    s = rng.number(0.4, 0.9)
    t = s * rng.number(0.4, 0.8)
    x0, xs, eps = rng.normals(3, 3, 2, 1, 2)
    step = f.on_ratio(f.ancestral(1.0))
    *_, last = sample(lambda x, sigma: x0, xs, [s, t], step, noise=lambda: eps, path=FLOW)
    keep = (1 - s) / (1 - t)
    added = s**2 - (keep * t) ** 2  # variance of x_s given x_t
    mean = (t**2 * keep * to_host(xs) + added * (1 - t) * to_host(x0)) / s**2
    return last.x, mean + (t * math.sqrt(added) / s) * to_host(eps), 4.0


def linear_problem(rng: RandomInputs) -> tuple[float, float, Array, Denoiser, Denoiser]:
    """(sigma, next sigma, x, denoiser, slope (y - D(y; sigma)) / sigma on the host)."""
    (s, t) = decreasing_sigmas(rng, 1)
    x = rng.normal(3, 2, 1, 2)
    denoise, on_host = linear_denoiser(rng)
    return s, t, x, denoise, lambda y, sigma: (y - on_host(y, sigma)) / sigma


# Roundings: 6 on each side.
@chapter.identity("heun", "slopes", 12)
def heun_in_terms_of_slopes(f: Functions, rng: RandomInputs) -> Comparison:
    s, t, x, denoise, slope = linear_problem(rng)
    start = to_host(x)
    h = t - s
    first = slope(to_host(x), s)
    expected = start + 0.5 * h * (first + slope(start + h * first, t))
    return final_state(f.heun(), denoise, x, [s, t]), expected, 4.0


def churned(rng: RandomInputs, make: Callable[[dict[str, float]], Step], solver: str) -> Comparison:
    """Compare a step with churn in terms of slopes, as EDM's algorithm 2 writes it."""
    s, t, x, denoise, slope = linear_problem(rng)
    eps = rng.normal(3, 2, 1, 2)
    s_churn = rng.number(0.05, 0.6)
    s_noise = rng.number(0.9, 1.1)
    raised = s * (1.0 + min(s_churn, math.sqrt(2.0) - 1.0))  # of a run of a single step
    start = to_host(x) + s_noise * math.sqrt((raised - s) * (raised + s)) * to_host(eps)
    first = slope(start, raised)
    expected = start + (t - raised) * first
    if solver == "heun":
        expected = start + 0.5 * (t - raised) * (first + slope(expected, t))
    step = make({"s_churn": s_churn, "s_noise": s_noise})
    return final_state(step, denoise, x, [s, t], [eps]), expected, 10.0


# Roundings: 21 on each side: 2 of the raised sigma, 4 of the root, 2 of the noisy state, 3 in each
# of two slopes, 2 of their mean, and 5 of the two updates.
@chapter.identity("churn", "EDM's algorithm 2", 42, uses=("heun",))
def churn_around_heun(f: Functions, rng: RandomInputs) -> Comparison:
    return churned(rng, lambda options: f.churn(f.heun(), **options), "heun")


# Roundings: as `churn`.
@chapter.identity("heun_churn", "EDM's algorithm 2", 42)
def heun_with_churn(f: Functions, rng: RandomInputs) -> Comparison:
    return churned(rng, lambda options: f.heun_churn(**options), "heun")


# Roundings: 14 on each side: as `churn` with one slope and one update.
@chapter.identity("euler_churn", "EDM's algorithm 2", 28)
def euler_with_churn(f: Functions, rng: RandomInputs) -> Comparison:
    return churned(rng, lambda options: f.euler_churn(**options), "euler")


# Roundings: 6 on each side.
@chapter.identity("midpoint", "slopes", 12)
def midpoint_in_terms_of_slopes(f: Functions, rng: RandomInputs) -> Comparison:
    s, t, x, denoise, slope = linear_problem(rng)
    start = to_host(x)
    h = t - s
    expected = start + h * slope(start + 0.5 * h * slope(start, s), 0.5 * (s + t))
    return final_state(f.midpoint(), denoise, x, [s, t]), expected, 4.0


def polynomial_slope(
    function: str, law: str, roundings: float, degree: int, steps: int, *tableau: object
) -> None:
    """For a slope that is a polynomial in sigma, the sampler adds its antiderivative."""

    def case(f: Functions, rng: RandomInputs) -> Comparison:
        sigmas = decreasing_sigmas(rng, steps)
        x, *c = rng.normals(degree + 2, 3, 2, 1, 2)
        top = sigmas[0]  # the unit of sigma in the polynomial

        def denoise(y: Array, sigma: float) -> Array:
            return y - sigma * sum((sigma / top) ** k * a for k, a in enumerate(c))

        change = [top * ((sigmas[-1] / top) ** (k + 1) - 1) / (k + 1) for k in range(degree + 1)]
        expected = to_host(x) + sum(d * to_host(a) for d, a in zip(change, c, strict=True))
        step = getattr(f, function)(*tableau)
        return final_state(step, denoise, x, sigmas), expected, 4.0 * top

    chapter.add(function, law, "antiderivatives", roundings, case)


# Roundings: 2 for each of the slopes, which are weighted by 1 in all in each step, 6 in the sums of
# a step and 4 in the oracle; the first step is the longest.
polynomial_slope("runge_kutta", "classical method is exact for cubic slopes", 24, 3, 2, RK4)
polynomial_slope("rk4", "simpsons rule for cubic slopes", 24, 3, 2)
polynomial_slope("rk45", "exact for slopes of degree four", 36, 4, 2)
polynomial_slope("lms", "exact for cubic slopes", 36, 3, 6)


# Roundings: three stages of 4 roundings, half of the scale, on each side.
@chapter.identity("dpm_solver", "the paper's form", 12)
def algorithms_in_the_noise_prediction(f: Functions, rng: RandomInputs) -> Comparison:
    """DPM-Solver-2 and -3 in variance-preserving coordinates, as the paper writes them."""
    s, t, x, denoise, slope = linear_problem(rng)
    h = math.log(s / t)

    def eps(y: np.ndarray, sigma: float) -> np.ndarray:
        return slope(y / vp_scales(sigma)[0], sigma)

    def advance(y: np.ndarray, eps: np.ndarray, low: float) -> np.ndarray:
        (a, _) = vp_scales(s)
        (a_low, b_low) = vp_scales(low)
        return (a_low / a) * y - b_low * math.expm1(math.log(s / low)) * eps

    def curvature(r: float) -> float:
        return math.expm1(r * h) / (r * h) - 1.0

    y = vp_scales(s)[0] * to_host(x)
    first = eps(y, s)
    half = s * math.exp(-h / 2)
    s1 = s * math.exp(-h / 3)
    s2 = t * math.exp(h / 3)
    second = advance(y, eps(advance(y, first, half), half), t)
    d1 = eps(advance(y, first, s1), s1) - first
    u2 = advance(y, first, s2) - 2.0 * vp_scales(s2)[1] * curvature(2 / 3) * d1
    d2 = eps(u2, s2) - first
    third = advance(y, first, t) - 1.5 * vp_scales(t)[1] * curvature(1.0) * d2
    got = [final_state(f.dpm_solver(order), denoise, x, [s, t]) for order in (2, 3)]
    return got, [second / vp_scales(t)[0], third / vp_scales(t)[0]], 10.0


def data_step(y: np.ndarray, s: float, t: float, x0: np.ndarray) -> np.ndarray:
    """(sigma'/sigma) x - alpha' (e^-h - 1) x0, with the sigmas of the VP process."""
    (_, b) = vp_scales(s)
    (a_next, b_next) = vp_scales(t)
    return (b_next / b) * y - a_next * math.expm1(-math.log(s / t)) * x0


# Roundings: 7 on each side.
@chapter.identity("dpmpp_2s", "the paper's form", 14)
def algorithm_1_in_the_data_prediction(f: Functions, rng: RandomInputs) -> Comparison:
    (s, t) = decreasing_sigmas(rng, 1)
    x = rng.normal(3, 2, 1, 2)
    denoise, on_host = linear_denoiser(rng)
    y = vp_scales(s)[0] * to_host(x)
    middle = math.sqrt(s * t)
    u = data_step(y, s, middle, on_host(to_host(x), s)) / vp_scales(middle)[0]
    expected = data_step(y, s, t, on_host(u, middle)) / vp_scales(t)[0]  # for r = 1/2 without x0
    return final_state(f.dpmpp_2s(), denoise, x, [s, t]), expected, 4.0


# Roundings: 10 on each side, of noise up to 24.
@chapter.identity("dpmpp_sde", "k-diffusion's form", 20, amplified=2.4)
def two_noises_as_in_k_diffusion(f: Functions, rng: RandomInputs) -> Comparison:
    eta = rng.number(0.0, 1.0)
    r = rng.number(0.3, 1.0)
    (s, t) = decreasing_sigmas(rng, 1)
    (x, *noises) = rng.normals(3, 3, 2, 1, 2)
    (denoise, on_host) = linear_denoiser(rng)
    start = to_host(x)
    middle = s * (t / s) ** r
    expected = np.zeros(())
    x0 = mixed = on_host(start, s)
    for sigma, noise in zip((middle, t), noises, strict=True):
        up = min(sigma, eta * math.sqrt(sigma**2 * (s**2 - sigma**2) / s**2))
        down = math.sqrt(sigma**2 - up**2)
        expected = (down / s) * start + (1.0 - down / s) * mixed + up * to_host(noise)
        mixed = (1.0 - 0.5 / r) * x0 + (0.5 / r) * on_host(expected, middle)
    return final_state(f.dpmpp_sde(eta, r), denoise, x, [s, t], noises), expected, 10.0


# Roundings: 2 here, 10 in the oracle.
@chapter.identity("lcm", "the forward process", 12, uses=("q_sample",))
def jump_is_the_forward_process(f: Functions, rng: RandomInputs) -> Comparison:
    (s, t) = decreasing_sigmas(rng, 1)
    (x0, eps, x) = rng.normals(3, 3, 2, 1, 2)
    alpha_bar = vp_scales(t)[0] ** 2
    got = final_state(f.lcm(), lambda x, sigma: x0, x, [s, t], [eps])
    return got, f.q_sample(x0, alpha_bar, eps) / alpha_bar**0.5, 4.0


# Roundings: 6 in each of 4 steps: slopes are differences of states over sigma.
@chapter.identity("invert", "a straight path", 24, amplified=2.8)
def constant_slope_gives_a_straight_path(f: Functions, rng: RandomInputs) -> Comparison:
    sigmas = decreasing_sigmas(rng, 4)[::-1]
    (x, eps) = rng.normals(2, 3, 2, 1, 2)
    got = list(f.invert(lambda y, sigma: y - sigma * eps, x, sigmas))[-1].x
    return got, to_host(x) + (sigmas[-1] - sigmas[0]) * to_host(eps), 10.0


# -- mistakes --------------------------------------------------------------------------------------

Mixed = Callable[[float, float, float], float]


def ancestral_step(eta: float, down: Mixed, *, always: bool = False, ends: bool = True) -> Step:
    """Return a step to the level `down(sigma, sigma_next, up)`, with noise on top."""

    def step(denoise, x, interval, history, noise):
        sigma, sigma_next = interval.sigma, interval.sigma_next
        x0 = denoise(x, sigma)
        if sigma_next == 0 and not ends:
            return x, x0, ()
        up = eta * sigma_next * math.sqrt(1 - (sigma_next / sigma) ** 2)
        x_next = x0 + down(sigma, sigma_next, up) / sigma * (x - x0)
        return (x_next + up * noise() if up > 0 or always else x_next), x0, ()

    return step


def lower_level(sigma: float, sigma_next: float, up: float) -> float:
    """Return the level below sigma_next to which noise of the deviation `up` is added."""
    return math.sqrt(sigma_next**2 - up**2)


def heun_step(level: Mixed, divisor: Mixed) -> Step:
    """Return Heun's step whose second slope is at another level, or over another one."""

    def step(denoise, x, interval, history, noise):
        sigma, sigma_next = interval.sigma, interval.sigma_next
        x0 = denoise(x, sigma)
        if sigma_next == 0:
            return x0, x0, ()
        slope = (x - x0) / sigma
        guess = x + (sigma_next - sigma) * slope
        second = guess - denoise(guess, level(sigma, sigma_next, 0.0))
        slope = 0.5 * (slope + second / divisor(sigma, sigma_next, 0.0))
        return x + (sigma_next - sigma) * slope, x0, ()

    return step


# fmt: off
chapter.known_mistakes("ancestral", {
    "the step goes to sigma_next and noise is added on top; sigma_down lies below it":
        lambda eta=0.0: ancestral_step(eta, lambda sigma, sigma_next, up: sigma_next),
    "sigma_down + sigma_up is sigma_next; their squares add up to its square":
        lambda eta=0.0: ancestral_step(eta, lambda sigma, sigma_next, up: sigma_next - up),
    "the step to sigma_next = 0 returns x; it returns x0":
        lambda eta=0.0: ancestral_step(eta, lower_level, ends=False),
})
chapter.mistakes.append(KnownMistake(
    "ancestral", "noise() is called where none is needed: for eta = 0, or in the step to 0",
    lambda eta=0.0: ancestral_step(eta, lower_level, always=True), raises=RuntimeError))
chapter.known_mistakes("heun", {
    "the second slope asks the network at sigma; at sigma_next is meant":
        lambda: heun_step(lambda s, r, up: s, lambda s, r, up: r),
    "the second slope is divided by sigma; by sigma_next is meant":
        lambda: heun_step(lambda s, r, up: r, lambda s, r, up: s),
})
# fmt: on
