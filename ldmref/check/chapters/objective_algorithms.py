"""DDPM's two algorithms: training and sampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ldmref.check.chapters.objective import TYPES, two_alpha_bars
from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, spread, to_host
from ldmref.math.arrays import Array, along

chapter = Chapter("objective")


# Roundings: 7 of values up to 4, divided by 0.22, of a scale of 10.
@chapter.identity("training_pair", "the inverse rotation", 11)
def every_target_recovers_the_data(f: Functions, rng: RandomInputs) -> Comparison:
    (x0, eps) = rng.normals(2, 3, 4)
    alpha_bar = rng.uniform(0.05, 0.95, 3)
    pairs = [f.training_pair(x0, alpha_bar, eps, k) for k in TYPES]
    (_, clean), (xt, e), (_, v) = (map(to_host, pair) for pair in pairs)
    signal = np.sqrt(to_host(alpha_bar))[:, None]
    noise = np.sqrt(1 - to_host(alpha_bar))[:, None]
    got = {
        "target x0": clean,
        "x_t or target eps": (xt - noise * e) / signal,
        "x_t or target v": signal * xt - noise * v,
    }
    return got, [x0, x0, x0], 10.0


# Roundings: 4 of x_t, 3 of the square and 5 of the mean on each side.
@chapter.identity("training_loss", "a loop in NumPy", 24)
def a_loop_over_the_batch(f: Functions, rng: RandomInputs) -> Comparison:
    (x0, eps) = rng.normals(2, 3, 4)
    alpha_bars = rng.uniform(0.05, 0.95, 5)
    steps = [rng.integer(0, 4) for _ in range(3)]
    t = rng.xp.asarray(steps, dtype=rng.xp.int64, device=rng.device)
    expected = []
    for a, e, abar in zip(to_host(x0), to_host(eps), to_host(alpha_bars)[steps], strict=True):
        xt = math.sqrt(abar) * a + math.sqrt(1 - abar) * e
        expected.append(np.mean((0.5 * xt - e) ** 2))
    return f.training_loss(lambda xt, t: 0.5 * xt, x0, t, eps, alpha_bars), expected


# Roundings: 5 of a step of terms up to 6; 12 of means of terms up to 4, of a scale of 2.
@chapter.identity(
    "ddpm_step", "the posterior, eq. 7", 40, uses=("q_posterior", "x0_from_eps"), amplified=3
)
def posterior_at_the_data_that_eps_implies(f: Functions, rng: RandomInputs) -> Comparison:
    (xt, eps, z) = rng.normals(3, 3, 4)
    (now, before) = two_alpha_bars(rng)
    mean, variance = f.q_posterior(f.x0_from_eps(xt, eps, now), xt, now, before)
    sigma = math.sqrt((1 - before) / (1 - now) * (1 - now / before))
    noise = np.sqrt(spread(variance, xt)) * to_host(z)
    return f.ddpm_step(xt, eps, 1 - now / before, now, sigma, z), to_host(mean) + noise, 2.0


# Roundings: 6 in each of 5 steps, doubled by the square, of noise that enters halfway on
# average; 6 of the betas.
@chapter.identity("ddpm_sample", "the exact variance", 36, amplified=2)
def marginals_of_standard_normal_data_stay(f: Functions, rng: RandomInputs) -> Comparison:
    """eps = sqrt(1 - abar) x_t there; states are written as coefficients of independent noises."""
    betas = rng.betas(5)
    alpha_bars = np.cumprod(1 - betas)
    unit = iter(np.eye(6)[1:])
    states = f.ddpm_sample(
        lambda xt, t: math.sqrt(1 - alpha_bars[t]) * xt,
        rng.array(np.eye(6)[:1]),
        betas,
        lambda: rng.array(next(unit)[None, :]),
        "fixed_large",
    )
    variances = [float((to_host(x) ** 2).sum()) for x in states]
    return variances, [1.0, 1.0, 1.0, 1.0, 1 - betas[0]]


# -- mistakes --------------------------------------------------------------------------------------


def stepping(
    coefficient: Any = lambda beta, kept: beta / np.sqrt(1 - kept),
    divisor: Any = lambda beta: np.sqrt(1 - beta),
) -> Callable[..., Array]:
    """Return a step with another coefficient of the noise, or another divisor."""

    def step(
        xt: Array, eps: Array, beta: Array, kept: Array, sigma: Array = 0.0, z: Array | None = None
    ) -> Array:
        beta, kept = along(beta, xt), along(kept, xt)
        mean = (xt - coefficient(beta, kept) * eps) / divisor(beta)
        return mean if z is None else mean + along(sigma, xt) * z

    return step


# fmt: off
chapter.known_mistakes("ddpm_step", {
    "all of eps is subtracted, without its coefficient, and the bracket is not divided by its root":
        stepping(coefficient=lambda b, a: 1.0, divisor=lambda b: 1.0),
    "the bracket is not divided by the root of 1 - beta":
        stepping(divisor=lambda b: 1.0),
    "eps has no coefficient; it is beta over the root of 1 - alpha_bar":
        stepping(coefficient=lambda b, a: 1.0),
    "the coefficient of eps is beta / (1 - alpha_bar): the root is missing":
        stepping(coefficient=lambda b, a: b / (1 - a)),
})
# fmt: on
