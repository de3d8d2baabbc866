"""Flow maps: average velocities, their targets, the exact map of Gaussian data, TrigFlow's circle.

Also batches of images, and the gradients which consistency and flow-map distillation train through.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from ldmref.check.batches import NormalImages, PerExample, batch_law
from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, to_host
from ldmref.math.arrays import Array, along

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


# -- TrigFlow's circle -----------------------------------------------------------------------------


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


# -- batches ---------------------------------------------------------------------------------------

image = NormalImages()
time = PerExample(0.5, 0.95)
next_time = PerExample(0.05, 0.45)

# Roundings: 3 of each term, twice.
batch_law(
    chapter, "flow_map_step", 12, size=8.0, xt=image, average_velocity=image, t=time, r=next_time
)
batch_law(
    chapter, "mean_flow_target", 12, size=8.0, velocity=image, derivative=image, t=time, r=next_time
)
batch_law(chapter, "shortcut_target", 12, first=image, second=image, share=PerExample(0.1, 0.9))
# Roundings: 12 of each term up to 8, twice.
batch_law(
    chapter,
    "flow_map_renoise_step",
    48,
    size=8.0,
    xt=image,
    average_velocity=image,
    noise=image,
    t=time,
    r=next_time,
    eta=PerExample(0.2, 1.0),
)
for function in ("gaussian_flow_map", "gaussian_average_velocity"):
    batch_law(
        chapter, function, 48, size=16.0, xt=image, t=time, r=next_time, mean=0.5, variance=2.0
    )
batch_law(chapter, "trigflow_step", 24, xt=image, velocity=image, t=time, r=next_time)
batch_law(
    chapter,
    "trigflow_renoise_step",
    24,
    xt=image,
    velocity=image,
    noise=image,
    t=time,
    r=next_time,
)
# Roundings: 4 of each term up to 4, divided by a sine of at least 0.05, twice.
batch_law(
    chapter, "trigflow_average_velocity", 8, size=96.0, xt=image, xr=image, t=time, r=next_time
)
batch_law(chapter, "trigflow_velocity", 24, xs=image, velocity=image, s=time)


# -- mistakes --------------------------------------------------------------------------------------


def map_of_a_gaussian(
    xt: Array,
    t: Array,
    r: Array,
    mean: float,
    ratio: Callable[[Array, Array], Array],
    *,
    moves: bool = True,
) -> Array:
    """Return the mean at r plus a ratio of deviations times the distance from the mean at t."""
    t, r = along(t, xt), along(r, xt)
    before, after = ((1 - t) * mean, (1 - r) * mean) if moves else (mean, mean)
    return after + ratio(t, r) * (xt - before)


def square(t: Array, variance: float) -> Array:
    """Return the variance of x_t."""
    return (1 - t) ** 2 * variance + t**2


# fmt: off
MAP_MISTAKES = {
    "the distance from the mean is not divided by the deviation at t":
        lambda xt, t, r, m, v: map_of_a_gaussian(xt, t, r, m, lambda t, r: square(r, v) ** 0.5),
    "a ratio of variances stands for the ratio of deviations: the root is missing":
        lambda xt, t, r, m, v: map_of_a_gaussian(
            xt, t, r, m, lambda t, r: square(r, v) / square(t, v)),
    "variance is squared, as if it were a deviation":
        lambda xt, t, r, m, v: map_of_a_gaussian(
            xt, t, r, m, lambda t, r: (square(r, v * v) / square(t, v * v)) ** 0.5),
    "the mean does not move: it is (1 - t) mean at t and (1 - r) mean at r":
        lambda xt, t, r, m, v: map_of_a_gaussian(
            xt, t, r, m, lambda t, r: (square(r, v) / square(t, v)) ** 0.5, moves=False),
    "the velocity at the start stands for the mean velocity: this is one step of Euler's method":
        lambda xt, t, r, m, v: xt + along(r - t, xt) * (
            -m + (along(t, xt) - (1 - along(t, xt)) * v) / square(along(t, xt), v)
            * (xt - (1 - along(t, xt)) * m)),
}
TARGET_MISTAKES = {
    "the derivative is added; it is subtracted: u - (t - r) du/dt":
        lambda u, derivative, t, r: u + along(t - r, u) * derivative,
    "the derivative is multiplied by t; by t - r is meant":
        lambda u, derivative, t, r: u - along(t, u) * derivative,
    "half of the derivative is subtracted; all of it is meant":
        lambda u, derivative, t, r: u - 0.5 * along(t - r, u) * derivative,
}
ARC_MISTAKES = {
    "the states are joined by a straight line, (xt - xr) / (t - r); on the circle by a rotation":
        lambda xt, xr, t, r: (xt - xr) / along(t - r, xt),
    "the sign is the opposite":
        lambda xt, xr, t, r: (xr - np.cos(along(t - r, xt)) * xt) / np.sin(along(t - r, xt)),
    "the cosine multiplies xr; it belongs to xt":
        lambda xt, xr, t, r: (xt - np.cos(along(t - r, xt)) * xr) / np.sin(along(t - r, xt)),
}
# fmt: on
chapter.known_mistakes("gaussian_flow_map", MAP_MISTAKES)
chapter.known_mistakes("mean_flow_target", TARGET_MISTAKES)
chapter.known_mistakes("trigflow_average_velocity", ARC_MISTAKES)


# -- gradients -------------------------------------------------------------------------------------


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
