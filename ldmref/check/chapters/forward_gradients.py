"""Gradients of the forward process and of the predictions, through which losses are trained."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ldmref.check.identity import Chapter, Functions, RandomInputs, to_host

chapter = Chapter("forward")

# Roundings: 5 of each coefficient and its product with a weight on each side, over a scale of the
# largest coefficient, 1 / sqrt(0.05).


@chapter.gradient("q_sample", 10)
def noisy_data(f: Functions, rng: RandomInputs) -> tuple:
    (x0, eps) = rng.normals(2, 3, 4)
    alpha_bar = rng.uniform(0.05, 0.95, 3)
    a = to_host(alpha_bar)[:, None]

    def call(x0, eps):
        return f.q_sample(x0, alpha_bar, eps)

    return call, {"x0": x0, "eps": eps}, lambda x0, eps: np.sqrt(a) * x0 + np.sqrt(1 - a) * eps


Formula = Callable[..., np.ndarray]  # of two arrays, and the amplitudes of signal and noise


def prediction(function: str, names: tuple[str, str], formula: Formula) -> None:
    """Add the gradients of a conversion from two arrays at one alpha-bar per example."""

    def the_prediction(f: Functions, rng: RandomInputs) -> tuple:
        arrays = rng.normals(2, 3, 4)
        alpha_bar = rng.uniform(0.05, 0.95, 3)
        a = to_host(alpha_bar)[:, None]

        def call(x, y):
            return getattr(f, function)(x, y, alpha_bar)

        inputs = dict(zip(names, arrays, strict=True))
        return call, inputs, lambda x, y: formula(x, y, np.sqrt(a), np.sqrt(1 - a)), 4.5

    chapter.gradient(function, 10)(the_prediction)


prediction("x0_from_eps", ("xt", "eps"), lambda x, eps, signal, noise: (x - noise * eps) / signal)
prediction("eps_from_x0", ("xt", "x0"), lambda x, x0, signal, noise: (x - signal * x0) / noise)
prediction("v_from_x0_eps", ("x0", "eps"), lambda x0, e, signal, noise: signal * e - noise * x0)
prediction("x0_from_v", ("xt", "v"), lambda x, v, signal, noise: signal * x - noise * v)
prediction("eps_from_v", ("xt", "v"), lambda x, v, signal, noise: noise * x + signal * v)


@chapter.gradient("flow_velocity", 2)
def the_velocity(f: Functions, rng: RandomInputs) -> tuple:
    x0, eps = rng.normals(2, 3, 4)
    return f.flow_velocity, {"x0": x0, "eps": eps}, lambda x0, eps: eps - x0


def line(function: str, names: tuple[str, str], formula: Formula) -> None:
    """Add the gradients of a function of two arrays at one flow time per example."""

    def the_line(f: Functions, rng: RandomInputs) -> tuple:
        arrays = rng.normals(2, 3, 4)
        s = rng.uniform(0.05, 0.95, 3)
        time = to_host(s)[:, None]

        def call(x, y):
            return getattr(f, function)(x, y, s)

        return call, dict(zip(names, arrays, strict=True)), lambda x, y: formula(x, y, time)

    chapter.gradient(function, 6)(the_line)


line("flow_sample", ("x0", "eps"), lambda x0, eps, s: (1 - s) * x0 + s * eps)
line("x0_from_velocity", ("x", "velocity"), lambda x, u, s: x - s * u)
line("eps_from_velocity", ("x", "velocity"), lambda x, u, s: x + (1 - s) * u)


@chapter.gradient("edm_denoise", 16)
def the_denoiser_for_its_network(f: Functions, rng: RandomInputs) -> tuple:
    """Differentiate for the weights w of the network w y, and for x."""
    sigma = rng.number(0.1, 5.0)
    sigma_data = rng.number(0.3, 2.0)
    total = sigma**2 + sigma_data**2
    inputs = {"weights": rng.normal(4, 3), "x": rng.normal(4, 3)}
    gain = sigma * sigma_data / total  # c_out c_in

    def formula(w, x):
        return sigma_data**2 / total * x + gain * w * x

    def call(w, x):
        return f.edm_denoise(lambda y, c: w * y, x, sigma, sigma_data)

    return call, inputs, formula, math.sqrt(10.0)
