"""Gradients of flow maps, which consistency and flow-map distillation train through."""

from __future__ import annotations

import numpy as np

from ldmref.check.identity import Chapter, Functions, RandomInputs

chapter = Chapter("flow_maps")


@chapter.gradient("flow_map_step", 12)
def a_jump(f: Functions, rng: RandomInputs) -> tuple:
    xt, u = rng.normals(2, 3, 4)
    t, r = rng.uniform(0.5, 0.95, 3), rng.uniform(0.05, 0.45, 3)

    def formula(xt, average_velocity, t, r):
        return xt - (t - r)[:, None] * average_velocity

    return f.flow_map_step, {"xt": xt, "average_velocity": u, "t": t, "r": r}, formula, 16.0


@chapter.gradient("trigflow_step", 16)
def a_turn(f: Functions, rng: RandomInputs) -> tuple:
    xt, velocity = rng.normals(2, 3, 4)
    t, r = rng.uniform(0.8, 1.5, 3), rng.uniform(0.1, 0.7, 3)

    def formula(xt, velocity, t, r):
        turn = (t - r)[:, None]
        return np.cos(turn) * xt - np.sin(turn) * velocity

    return f.trigflow_step, {"xt": xt, "velocity": velocity, "t": t, "r": r}, formula, 16.0
