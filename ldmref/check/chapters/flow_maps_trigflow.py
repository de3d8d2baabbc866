"""Flow maps on the circle of TrigFlow, and the same maps on the line of flow matching."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, to_host
from ldmref.math.arrays import Array

chapter = Chapter("flow_maps")


def angles(rng: RandomInputs) -> tuple[Array, Array, np.ndarray, np.ndarray]:
    """(t, r on the backend, (3,); and on the host, (3, 1)), with r < t."""
    t, r = rng.uniform(0.8, 1.5, 3), rng.uniform(0.1, 0.7, 3)
    return t, r, to_host(t)[:, None], to_host(r)[:, None]


# Roundings: 6 of the function, 6 of the inputs, of terms up to 8.
@chapter.identity("trigflow_step", "complex multiplication", 24)
def turn_of_one_pair_of_data_and_noise(f: Functions, rng: RandomInputs) -> Comparison:
    """x_t - i F = (x0 - i z) exp(i t): a step multiplies by exp(i (r - t))."""
    t, r, at, to = angles(rng)
    x0, z = rng.numpy.standard_normal((2, 3, 4))
    state = (x0 - 1j * z) * np.exp(1j * at)
    xt, velocity = rng.array(state.real), rng.array(-state.imag)
    turned = (state * np.exp(1j * (to - at))).real
    return (
        [f.trigflow_step(xt, velocity, t, r), f.trigflow_step(xt, velocity, t)],
        [turned, x0],
        8.0,
    )


# Roundings: 4 of the function, 6 of each state up to 4, divided by a sine of at least 0.09: 48.
@chapter.identity("trigflow_average_velocity", "complex multiplication", 12)
def chord_of_one_pair_of_data_and_noise(f: Functions, rng: RandomInputs) -> Comparison:
    """One pair turns with a constant speed: the velocity of the whole arc is that at its start."""
    t, r, at, to = angles(rng)
    x0, z = rng.numpy.standard_normal((2, 3, 4))
    start, end = ((x0 - 1j * z) * np.exp(1j * angle) for angle in (at, to))
    got = f.trigflow_average_velocity(rng.array(start.real), rng.array(end.real), t, r)
    return got, -start.imag, 96.0


# Roundings: 5 of the target, 5 of the step, of terms up to 4, divided by a sine of at least 0.09.
@chapter.identity(
    "trigflow_average_velocity", "the step that it is for", 12, uses=("trigflow_step",)
)
def step_arrives_at_the_stored_state(f: Functions, rng: RandomInputs) -> Comparison:
    """Any two states, not only those of one pair."""
    start, end = rng.normals(2, 3, 4)
    t, r, _, _ = angles(rng)
    velocity = f.trigflow_average_velocity(start, end, t, r)
    return f.trigflow_step(start, velocity, t, r), end, 96.0


# Roundings: 8 of u, 8 of either step, of terms up to 8; the division by cos + sin of at least 0.7.
@chapter.identity(
    "trigflow_renoise_step",
    "the straight path of flow matching",
    48,
    uses=("flow_map_renoise_step", "flow_time_from_angle", "trigflow_velocity"),
    amplified=8,
)
def consistency_steps_on_the_line_and_on_the_circle(f: Functions, rng: RandomInputs) -> Comparison:
    """Divide a flow model's step to s' by the length of (s', 1 - s')."""
    t, r, _, _ = angles(rng)
    xs, u, noise = rng.normals(3, 3, 4)
    s, s_next = f.flow_time_from_angle(t), f.flow_time_from_angle(r)
    at, to = to_host(s)[:, None], to_host(s_next)[:, None]
    on_line = to_host(f.flow_map_renoise_step(xs, u, noise, s, s_next))
    xt = rng.array(to_host(xs) / np.hypot(at, 1 - at))
    got = f.trigflow_renoise_step(xt, f.trigflow_velocity(xs, u, s), noise, t, r)
    return got, on_line / np.hypot(to, 1 - to), 8.0


# Roundings: 8 of the function, 6 of the inputs, of terms up to 8.
@chapter.identity("trigflow_velocity", "the pair of data and noise", 24)
def velocity_of_one_pair_of_data_and_noise(f: Functions, rng: RandomInputs) -> Comparison:
    """F = cos(t) eps - sin(t) x0 at the angle with tan t = s / (1 - s)."""
    s = rng.uniform(0.05, 0.95, 3)
    at = to_host(s)[:, None]
    x0, eps = rng.numpy.standard_normal((2, 3, 4))
    angle = np.arctan2(at, 1 - at)
    got = f.trigflow_velocity(rng.array((1 - at) * x0 + at * eps), rng.array(eps - x0), s)
    return got, np.cos(angle) * eps - np.sin(angle) * x0, 8.0


# Roundings: 4 of the function, 2 of the angle, which tan amplifies by up to 2.
@chapter.identity("flow_time_from_angle", "Pythagorean triples", 12, amplified=2)
def time_of_the_angle_of_a_right_triangle(f: Functions, rng: RandomInputs) -> Comparison:
    """Legs a, b of a triangle make the angle arctan(a / b) and the time a / (a + b)."""
    legs = [(3, 4), (4, 3), (5, 12), (12, 5), (8, 15), (21, 20), (0, 1)]
    t = rng.array([[float(np.arctan2(a, b)) for a, b in legs]])
    return f.flow_time_from_angle(t), [[float(Fraction(a, a + b)) for a, b in legs]], 1.0
