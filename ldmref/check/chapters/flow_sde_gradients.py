"""Gradients of the densities that reinforcement learning trains through."""

from __future__ import annotations

import numpy as np

from ldmref.check.identity import Chapter, Functions, RandomInputs

chapter = Chapter("flow_sde")


@chapter.gradient("transition_log_density", 24)
def a_gaussian_step(f: Functions, rng: RandomInputs) -> tuple:
    x_next, mean = rng.normals(2, 3, 4)
    std = rng.uniform(0.3, 1.5, 3)

    def formula(x_next, mean, std):
        z = (x_next - mean) / std[:, None]
        return (-0.5 * z * z - np.log(std[:, None]) - 0.5 * np.log(2 * np.pi)).sum(axis=1)

    return f.transition_log_density, {"x_next": x_next, "mean": mean, "std": std}, formula, 20.0


@chapter.gradient("transition_kl", 24)
def the_divergence_of_two_steps(f: Functions, rng: RandomInputs) -> tuple:
    mean, other_mean = rng.normals(2, 3, 4)
    std, other_std = (rng.uniform(0.5, 1.5, 3) for _ in range(2))

    def formula(mean, std, other_mean, other_std):
        z = (mean - other_mean) / other_std[:, None]
        ratio = (std / other_std)[:, None]
        return (0.5 * z * z + 0.5 * ratio * ratio - 0.5 - np.log(ratio)).sum(axis=1)

    inputs = {"mean": mean, "std": std, "other_mean": other_mean, "other_std": other_std}
    return f.transition_kl, inputs, formula, 40.0
