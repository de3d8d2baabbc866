"""The displayed formulas of docs/course/15-few-steps.md, computed in a second way."""

import math
from itertools import pairwise

import numpy as np
import sympy as sp
from scipy.integrate import quad, solve_ivp
from scipy.special import ndtri

from ldmref import math as lm
from ldmref.testing.mixture import Mixture

MIXTURE = Mixture(
    np.array([0.5, 0.3, 0.2]), np.array([[1.0], [-1.2], [0.2]]), np.array([0.25, 0.4, 0.1])
)
NOISE = ndtri((np.arange(400) + 0.5) / 400)


def velocity(x, t, data=MIXTURE):
    """Return the mean velocity of the straight path at states (n,)."""
    if t == 1.0:
        return x - data.mean()[0]
    return (x - data.denoise(x[:, None] / (1 - t), t / (1 - t))[:, 0]) / t


def follow(x, t, s, data=MIXTURE):
    """Return a function of time with the states of the flow from t to s, to 10 digits."""
    solved = solve_ivp(
        lambda time, x: velocity(x, float(time), data), (t, s), x, "DOP853",
        rtol=1e-10, atol=1e-10, dense_output=True,
    )  # fmt: skip
    return solved.sol


def test_mean_velocity_makes_the_step_exact():
    """By quadrature of the velocity along paths of a mixture, which no closed form has."""
    start = np.asarray([-1.4, -0.2, 0.9])
    path = follow(start, 1.0, 0.2)
    for i, x in enumerate(start):
        mean = quad(lambda t: velocity(path(t), t)[i], 0.2, 1.0, epsabs=1e-9)[0] / 0.8  # noqa: B023
        step = float(lm.flow_map_step(np.asarray([[x]]), np.asarray([[mean]]), 1.0, 0.2)[0, 0])
        assert math.isclose(step, path(0.2)[i], abs_tol=1e-7)
        assert abs(step - (x - 0.8 * velocity(start, 1.0)[i])) > 0.05  # Euler's step is another


def test_velocity_of_a_gaussian():
    """By the regression of eps - x0 on x_t, from covariances, and by Bayes' rule."""
    t, mu, var, x = sp.symbols("t mu Sigma x", positive=True)
    square = (1 - t) ** 2 * var + t**2
    covariance = t - (1 - t) * var  # Cov(eps - x0, (1 - t) x0 + t eps)
    line = -mu + covariance / square * (x - (1 - t) * mu)
    rho = sp.sqrt(square)
    assert sp.simplify(line - (-mu + sp.diff(rho, t) / rho * (x - (1 - t) * mu))) == 0
    data = Mixture(np.ones(1), np.asarray([[1.5]]), np.asarray([0.5]))
    for time, state in ((0.3, 0.4), (0.9, -1.0)):
        exact = float(line.subs({t: time, mu: 1.5, var: 0.25, x: state}))
        assert math.isclose(velocity(np.asarray([state]), time, data)[0], exact, rel_tol=1e-12)


def test_the_distance_in_deviations_stays_constant():
    data = Mixture(np.ones(1), np.asarray([[1.5]]), np.asarray([0.5]))
    start = np.asarray([-1.0, 0.0, 2.0])
    path = follow(start, 1.0, 0.01, data)
    for t in (0.7, 0.3, 0.01):
        rho = math.hypot((1 - t) * 0.5, t)
        np.testing.assert_allclose((path(t) - (1 - t) * 1.5) / rho, start, atol=1e-8)
        got = lm.gaussian_flow_map(start, 1.0, t, 1.5, 0.25)
        np.testing.assert_allclose(got, path(t), atol=1e-8)


def test_ways_add_up():
    """Semigroup law and shortcut target along paths of a mixture; zero obeys the law also."""
    start = np.asarray([-1.4, 0.9])
    path = follow(start, 1.0, 0.2)
    again = follow(path(0.6), 0.6, 0.2)
    np.testing.assert_allclose(again(0.2), path(0.2), atol=1e-8)

    def mean(t, s):
        return (path(t) - path(s)) / (t - s)

    whole = lm.shortcut_target(mean(1.0, 0.6)[:, None], mean(0.6, 0.2)[:, None])[:, 0]
    np.testing.assert_allclose(whole, mean(1.0, 0.2), atol=1e-12)
    assert float(lm.shortcut_target(np.zeros((1, 1)), np.zeros((1, 1)))[0, 0]) == 0.0


def test_the_rate_of_the_mean_velocity():
    """u - (t - s) du/dt along a path, whose derivative is a difference quotient."""
    path, s, t, step = follow(np.asarray([-1.4, 0.9]), 1.0, 0.2), 0.2, 0.7, 1e-4

    def mean(time):
        return (path(time) - path(s)) / (time - s)

    rate = (mean(t + step) - mean(t - step)) / (2 * step)
    target = lm.mean_flow_target(velocity(path(t), t)[:, None], rate[:, None], t, s)[:, 0]
    np.testing.assert_allclose(target, mean(t), atol=1e-5)
    ends = [follow(path(at), at, s)(s) for at in (0.5, 0.9)]
    np.testing.assert_allclose(*ends, atol=1e-7)  # consistency: the end does not change


def test_regression_on_trajectories_has_no_noise():
    """Neighbours have neighbouring ends; random data of neighbours differ as all data do."""
    noise = np.sort(np.random.default_rng(0).standard_normal(4000))
    ends = follow(noise, 1.0, 1e-3)(1e-3)
    random = MIXTURE.sample(4000, np.random.default_rng(1))[:, 0]

    def within(values):
        """Return the variance among 20 neighbours, over that of all."""
        return np.mean(values.reshape(-1, 20).var(axis=1)) / values.var()

    assert within(ends) < 0.02
    assert within(random) > 0.9


def test_the_target_on_the_circle():
    """From the state that the target leads to, and its two limits on a path of a Gaussian."""
    data = Mixture(np.ones(1), np.asarray([[0.5]]), np.asarray([0.3]))

    def to_circle(x, t):
        """Return the angle and the state of the circle for a state of the line."""
        return math.atan2(t, 1 - t), x / math.hypot(t, 1 - t)

    start = np.asarray([[-1.0], [0.4]])
    states = {t: lm.gaussian_flow_map(start, 1.0, t, 0.5, 0.09) for t in (1.0, 0.6, 0.599, 0.0)}
    circle = {t: to_circle(x, t) for t, x in states.items()}
    (angle, x), (after, near), (_, data_end) = circle[0.6], circle[0.599], circle[0.0]
    v = lm.trigflow_average_velocity(x, data_end, angle, 0.0)
    np.testing.assert_allclose(np.cos(angle) * x - np.sin(angle) * v, data_end, atol=1e-14)
    whole = lm.trigflow_average_velocity(circle[1.0][1], data_end, math.pi / 2, 0.0)
    np.testing.assert_allclose(whole, -data_end, atol=1e-14)
    u = velocity(states[0.6][:, 0], 0.6, data)[:, None]
    short = lm.trigflow_average_velocity(x, near, angle, after)
    np.testing.assert_allclose(short, lm.trigflow_velocity(states[0.6], u, 0.6), atol=2e-3)
    wrong = np.cos(angle) * x - np.sin(angle) * (v + 0.01)
    np.testing.assert_allclose(np.abs(wrong - data_end), 0.01 * np.sin(angle), rtol=1e-9)


def test_guided_states_are_not_noised_data_and_guidance_counts_once():
    """The claims of the section, with exact flows of two Gaussians."""
    given = Mixture(np.ones(1), np.asarray([[1.0]]), np.asarray([0.5]))
    empty = Mixture(np.ones(1), np.asarray([[0.0]]), np.asarray([1.0]))

    def guided(t, x):
        return lm.classifier_free_guidance(
            velocity(x, float(t), empty), velocity(x, float(t), given), 2.5
        )

    solved = solve_ivp(guided, (1.0, 1e-4), NOISE, rtol=1e-8, atol=1e-8, dense_output=True).sol
    middle, end = solved(0.5), solved(1e-4)
    assert abs(middle.mean() - 0.5) > 0.1 and middle.std() < 0.9 * math.hypot(0.25, 0.5)
    maps = [
        NOISE - lm.gaussian_flow_map(NOISE, 1.0, 0.0, *law) for law in ((0.0, 1.0), (1.0, 0.25))
    ]
    twice = NOISE - lm.classifier_free_guidance(maps[0], NOISE - end, 2.5)
    of_maps = NOISE - lm.classifier_free_guidance(*maps, 2.5)
    assert 1.2 < end.mean() < 2.0 < of_maps.mean() < 3.0 < twice.mean()


def test_jumps_of_a_denoiser_lose_half_of_the_variance():
    """The exact recursion of the page, against ldmref's chain and a simulation of the steps."""
    steps, rng = 64, np.random.default_rng(0)
    times = np.linspace(1, 0, steps + 1)
    x = {"map": rng.standard_normal((40_000, 1)), "denoiser": rng.standard_normal((40_000, 1))}
    for t, s in pairwise(times):
        fresh = rng.standard_normal((40_000, 1))
        u = {
            "map": lm.gaussian_average_velocity(x["map"], t, 0.0, 1.5, 0.25),
            "denoiser": lm.gaussian_flow_velocity(x["denoiser"], t, 1.5, 0.25),
        }
        x = {name: lm.flow_map_renoise_step(x[name], u[name], fresh, t, s) for name in x}
    relative = 5 * math.sqrt(2 / 40_000)
    assert math.isclose(x["map"].var(), 0.25, rel_tol=relative)
    assert 0.11 < x["denoiser"].var() < 0.125
    chain = lm.flow_chain_moments(
        lambda x, u, s, t: lm.flow_renoise_transition(x, u, s, t, t), times.tolist(), 1.5, 0.25
    )
    assert math.isclose(x["denoiser"].var(), chain[1], rel_tol=relative)


def test_how_many_prompts_a_difference_needs():
    """At n prompts a difference of that size is two standard deviations, by simulation."""
    p, delta = 0.75, 0.05
    n = 8 * p * (1 - p) / delta**2
    assert math.isclose(n, 600)
    rng = np.random.default_rng(0)
    differences = (rng.binomial(600, p, 100_000) - rng.binomial(600, p, 100_000)) / 600
    assert math.isclose(2 * differences.std(), delta, rel_tol=5 / math.sqrt(2 * 100_000))


def test_a_rate_is_passed_by_a_constant():
    drawn = lm.gaussian_flow_map(NOISE, 1.0, 0.0, 1.0, 0.25)

    def rate(x):
        return np.mean(np.abs(x - 1.0) < 1.0)

    assert rate(np.full_like(NOISE, 1.4)) == 1.0 > rate(drawn) > 0.94
    assert rate(NOISE - lm.gaussian_flow_velocity(NOISE, 1.0, 1.0, 0.25)) == 1.0


def test_a_converged_guided_run_is_further_from_the_data_than_four_steps():
    """With the exact velocities of the page's two Gaussians, by Euler's method."""
    empty, given = (0.0, 1.0), (1.0, 0.25)
    exact = lm.gaussian_flow_map(NOISE, 1.0, 0.0, *given)

    def run(steps, weight):
        x = NOISE
        for t, s in pairwise(np.linspace(1, 0, steps + 1)):
            pair = [lm.gaussian_flow_velocity(x, t, *law) for law in (empty, given)]
            x = x + (s - t) * lm.classifier_free_guidance(*pair, weight)
        return np.sqrt(np.mean((x - exact) ** 2))

    assert run(4, 1.0) < 0.4 < run(400, 2.5)


def test_what_the_table_of_mistakes_says():
    x = np.asarray([[0.8], [-0.3]])
    law = (1.5, 0.25)
    middle = lm.gaussian_flow_map(x, 1.0, 0.5, *law)
    halves = [
        lm.gaussian_average_velocity(start, 0.5, 0.0, *law) for start in (middle, x)
    ]  # the second starts at x_t
    first = lm.gaussian_average_velocity(x, 1.0, 0.5, *law)
    whole = lm.gaussian_average_velocity(x, 1.0, 0.0, *law)
    np.testing.assert_allclose(lm.shortcut_target(first, halves[0]), whole, atol=1e-12)
    assert np.abs(lm.shortcut_target(first, halves[1]) - whole).max() > 0.05
    zero = lm.mean_flow_target(first, first, 0.7, 0.7)
    np.testing.assert_array_equal(zero, first)  # the sign does not matter at s = t
    at = lm.gaussian_flow_map(NOISE, 1.0, 0.9, *law)  # trajectories that begin at 0.9
    asked = lm.gaussian_flow_map(at, 1.0, 0.0, *law)
    assert abs(asked.var() / lm.gaussian_flow_map(at, 0.9, 0.0, *law).var() - 1) > 0.1
    unit = lm.gaussian_flow_map(x, 1.0, 0.3, 0.0, 1.0)
    square = 0.7**2 + 0.3**2  # a ratio of variances where one of deviations is due
    assert np.abs(square * x - unit).max() > 0.1
