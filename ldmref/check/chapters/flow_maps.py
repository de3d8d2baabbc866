"""Flow maps: average velocities, their targets, and the exact map of Gaussian data."""

from __future__ import annotations

import numpy as np

from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, to_host
from ldmref.math.arrays import Array

chapter = Chapter("flow_maps")


def times(rng: RandomInputs) -> tuple[Array, Array, np.ndarray, np.ndarray]:
    """(t, r on the backend, (3,); and on the host, (3, 1)), with r < t."""
    t, r = rng.uniform(0.5, 0.95, 3), rng.uniform(0.05, 0.45, 3)
    return t, r, to_host(t)[:, None], to_host(r)[:, None]


# Roundings: 3 of the function, 6 of the oracle, of terms up to 10.
@chapter.identity("flow_map_step", "the straight path of one pair", 18)
def step_along_one_pair_of_data_and_noise(f: Functions, rng: RandomInputs) -> Comparison:
    """If the velocity is eps - x0 all the way, the step leads to (1 - r) x0 + r eps."""
    x0, eps = rng.numpy.standard_normal((2, 3, 4))
    t, r, at, to = times(rng)
    xt = rng.array((1 - at) * x0 + at * eps)
    got = f.flow_map_step(xt, rng.array(eps - x0), t, r)
    return got, (1 - to) * x0 + to * eps, 8.0


# Roundings: 4 of the function, 8 of the oracle, of terms up to 16.
@chapter.identity("mean_flow_target", "the average of a polynomial", 24, amplified=2)
def average_of_a_velocity_that_is_a_polynomial_of_time(
    f: Functions, rng: RandomInputs
) -> Comparison:
    """v = a + b t + c t^2: u is its mean over [r, t], du/dt the derivative of that mean."""
    t, r, at, to = times(rng)
    a, b, c = rng.numpy.standard_normal((3, 3, 4))
    velocity = rng.array(a + b * at + c * at**2)
    derivative = rng.array(b / 2 + c * (2 * at + to) / 3)
    average = a + b * (at + to) / 2 + c * (at**2 + at * to + to**2) / 3
    return f.mean_flow_target(velocity, derivative, t, r), average, 16.0


# Roundings: 4 of the function, 8 of the two displacements, which 1 / (t - r) amplifies by up to 20.
@chapter.identity("shortcut_target", "the sum of two displacements", 40, amplified=20)
def two_steps_add_up(f: Functions, rng: RandomInputs) -> Comparison:
    """Add the displacements of both parts to that of the whole step."""
    first, second = rng.normals(2, 3, 4)
    share = rng.uniform(0.1, 0.9, 3)
    lengths = to_host(share)[:, None], 1 - to_host(share)[:, None]
    moved = lengths[0] * to_host(first) + lengths[1] * to_host(second)
    halves = (to_host(first) + to_host(second)) / 2
    got = [f.shortcut_target(first, second, share), f.shortcut_target(first, second)]
    return got, [moved, halves], 4.0


# Roundings: 12 of each term up to 8, 10 of the oracle.
@chapter.identity(
    "flow_map_renoise_step", "the path conditioned on an earlier state", 48, amplified=4
)
def state_below_r_and_fresh_noise_by_the_ratio_of_signal(
    f: Functions, rng: RandomInputs
) -> Comparison:
    """x_r = (1 - r) (x_d / (1 - d) + noise of the variance sigma_r^2 - sigma_d^2)."""
    t, r, at, to = times(rng)
    xt, u, noise = rng.normals(3, 3, 4)
    eta = rng.uniform(0.2, 1.0, 3)
    low = (1 - to_host(eta)[:, None]) * to
    jumped = to_host(xt) - (at - low) * to_host(u)
    added = (to / (1 - to)) ** 2 - (low / (1 - low)) ** 2
    expected = (1 - to) * (jumped / (1 - low) + np.sqrt(added) * to_host(noise))
    return f.flow_map_renoise_step(xt, u, noise, t, r, eta), expected, 8.0


# Roundings: 24 of the function, of terms up to 20; 80 nodes err below 1e-15.
@chapter.identity("gaussian_flow_map", "quadrature of the linear ODE", 48, amplified=8)
@chapter.identity("gaussian_average_velocity", "quadrature of the linear ODE", 48, amplified=8)
def solution_of_the_probability_flow(f: Functions, rng: RandomInputs) -> Comparison:
    """Integrate the slope of E[eps - x0 | x], which is linear in x, from r to t."""
    xt = rng.normal(3, 4)
    t, r, at, to = times(rng)
    mean, variance = rng.number(-2.0, 2.0), rng.number(0.25, 3.0)

    nodes, weights = np.polynomial.legendre.leggauss(80)
    at_nodes = (at + to) / 2 + (at - to) / 2 * nodes
    moving = at_nodes - (1 - at_nodes) * variance  # Cov(eps - x0, x)
    slopes = moving / ((1 - at_nodes) ** 2 * variance + at_nodes**2)
    growth = ((at - to) / 2 * (slopes * weights)).sum(axis=1, keepdims=True)
    moved = (1 - to) * mean + np.exp(-growth) * (to_host(xt) - (1 - at) * mean)
    got = [
        f.gaussian_flow_map(xt, t, r, mean, variance),
        f.gaussian_average_velocity(xt, t, r, mean, variance),
    ]
    return got, [moved, (to_host(xt) - moved) / (at - to)], 20.0


# Roundings: 24 of u, 4 of the step; each term up to 20.
@chapter.identity(
    "gaussian_average_velocity",
    "the closed form of the map",
    56,
    uses=("flow_map_step", "gaussian_flow_map", "gaussian_flow_velocity"),
    amplified=8,
)
def step_is_the_map_and_at_r_equal_t_the_velocity(f: Functions, rng: RandomInputs) -> Comparison:
    xt = rng.normal(3, 4)
    t, r, _, _ = times(rng)
    mean, variance = rng.number(-2.0, 2.0), rng.number(0.25, 3.0)
    u = f.gaussian_average_velocity(xt, t, r, mean, variance)
    got = [
        f.flow_map_step(xt, u, t, r),
        f.gaussian_average_velocity(xt, t, t, mean, variance),
    ]
    expected = [
        to_host(f.gaussian_flow_map(xt, t, r, mean, variance)),
        to_host(f.gaussian_flow_velocity(xt, t, mean, variance)),
    ]
    return got, expected, 20.0
