"""The displayed formulas of docs/course/13-flow-matching.md, computed in a second way."""

import io
import math
from itertools import pairwise

import numpy as np
import sympy as sp
from course_pages import COURSE
from scipy.integrate import quad

from ldmref import math as lm
from ldmref.apps.cli.main import main
from ldmref.samplers import SAMPLERS, sample
from ldmref.testing.mixture import Mixture

PAGE = (COURSE / "13-flow-matching.md").read_text("utf-8")
MIXTURE = Mixture(
    np.array([0.5, 0.3, 0.2]), np.array([[1.0], [-1.2], [0.2]]), np.array([0.25, 0.4, 0.1])
)
X = np.linspace(-9.0, 9.0, 6001)[:, None]
WIDTH = X[1, 0] - X[0, 0]


def path(t):
    """Return a, b and their derivatives of a path that is neither straight nor a circle."""
    return (1 - t) ** 2, math.sin(t), -2 * (1 - t), math.cos(t)


def mean_velocity(t):
    """Return the density of x_t and the mean velocity at the points X, by Bayes' rule."""
    a, b, falls, rises = path(t)
    density = MIXTURE.scaled(a).density(X, b)
    x0 = MIXTURE.denoise(X / a, b / a)
    eps = (X - a * x0) / b
    return density * WIDTH, (falls * x0 + rises * eps)[:, 0]


def test_velocity_of_a_pair():
    t, x0, eps = sp.symbols("t x0 epsilon")
    a, b = sp.Function("a")(t), sp.Function("b")(t)
    velocity = sp.diff(a * x0 + b * eps, t)
    assert sp.simplify(velocity - sp.diff(a, t) * x0 - sp.diff(b, t) * eps) == 0
    rows = {  # of the table
        (sp.cos(t), sp.sin(t)): sp.cos(t) * eps - sp.sin(t) * x0,
        (sp.Integer(1), t): eps,
        (1 - t, t): eps - x0,
    }
    for (signal, noise), expected in rows.items():
        assert sp.simplify(sp.diff(signal * x0 + noise * eps, t) - expected) == 0


def test_regression_finds_the_mean_velocity():
    """The loss of any function is its distance from the mean plus a constant, by quadrature."""
    t = 0.6
    a, b, falls, rises = path(t)
    density, mean = mean_velocity(t)
    square = falls**2 * float(MIXTURE.covariance()[0, 0] + MIXTURE.mean()[0] ** 2) + rises**2
    constant = square - density @ mean**2  # E|velocity - mean|^2
    rng = np.random.default_rng(0)
    x0, eps = MIXTURE.sample(400_000, rng), rng.standard_normal((400_000, 1))
    x, velocity = a * x0 + b * eps, falls * x0 + rises * eps
    for guess in (np.sin, np.tanh, lambda x: 0.3 * x - 1):
        loss = (guess(x) - velocity) ** 2
        derived = density @ (guess(X[:, 0]) - mean) ** 2 + constant
        assert abs(loss.mean() - derived) < 5 * loss.std() / math.sqrt(loss.size)
    assert constant > 0.1


def test_mean_velocity_moves_the_density():
    """d/dt E[psi(x_t)] is E[psi'(x_t) mean velocity], for psi = exp(-(x - 1/2)^2)."""

    def psi(x):
        return np.exp(-((x - 0.5) ** 2))

    t, step = 0.55, 1e-4
    means = []
    for at in (t - step, t + step):
        density, _ = mean_velocity(at)
        means.append(density @ psi(X[:, 0]))
    density, velocity = mean_velocity(t)
    moved = density @ (-2 * (X[:, 0] - 0.5) * psi(X[:, 0]) * velocity)
    assert abs((means[1] - means[0]) / (2 * step) - moved) < 1e-6 and abs(moved) > 1e-2


def test_line_by_line():
    """Time, state and velocity of the straight path from those of the circle."""
    a, b, x0, eps = sp.symbols("a b x0 epsilon", positive=True)
    circle = {a**2: 1 - b**2}
    x, v = a * x0 + b * eps, a * eps - b * x0
    t = b / (a + b)
    sigma = b / a
    assert sp.simplify(t - sigma / (1 + sigma)) == 0
    assert sp.simplify(t / (1 - t) - sigma) == 0
    assert sp.simplify(x / (a + b) - (1 - t) * x0 - t * eps) == 0
    for end, expected in ((a * x - b * v, x0), (b * x + a * v, eps)):
        assert sp.simplify(sp.expand(end - expected).subs(circle)) == 0
    u = (a + b) * v - (a - b) * x
    assert sp.simplify(sp.expand(u - (eps - x0)).subs(circle)) == 0
    assert lm.flow_time_from_alpha_bar(0.64) == 0.6 / 1.4


def test_euler_on_the_flow_is_ddim():
    """By algebra, and with ldmref's DDIM on a network that is not perfect."""
    t, s, x0, eps = sp.symbols("t s x0 epsilon")
    state = (1 - t) * x0 + t * eps
    step = state + (s - t) * (eps - x0)
    assert sp.expand(step - (1 - s) * x0 - s * eps) == 0

    def denoise(x, sigma):
        return np.tanh(x) / (1 + sigma)

    times = np.asarray([0.9, 0.6, 0.2])
    x = start = np.random.default_rng(0).standard_normal((4, 2))
    for now, after in pairwise(times):
        x0_hat = denoise(x / (1 - now), now / (1 - now))
        x = x + (after - now) * (x - x0_hat) / now
    sigmas = lm.sigma_from_flow_time(times)
    ddim = [*sample(denoise, start / (1 - times[0]), sigmas, SAMPLERS["ddim"].make(0.0))][-1].x
    np.testing.assert_allclose(x / (1 - times[-1]), ddim, rtol=1e-12)


def test_weights_of_the_three_losses():
    """A changed x0 at a fixed state changes each prediction by the root of its weight."""
    for sigma in (0.03, 0.5, 1.0, 7.0):
        snr = sigma**-2
        b, t = sigma / math.hypot(1, sigma), sigma / (1 + sigma)
        a = 1 / math.hypot(1, sigma)
        state, x0, delta = 0.7, 0.2, 1e-3  # of x0 + sigma eps
        eps = [(state - z) / sigma for z in (x0, x0 + delta)]
        v = [a * e - b * z for e, z in zip(eps, (x0, x0 + delta), strict=True)]
        u = [e - z for e, z in zip(eps, (x0, x0 + delta), strict=True)]
        changes = [((pair[1] - pair[0]) / delta) ** 2 for pair in (eps, v, u)]
        weights = [snr, snr + 1, (math.sqrt(snr) + 1) ** 2]
        np.testing.assert_allclose(changes, weights, rtol=1e-9)
        np.testing.assert_allclose([1 / sigma**2, 1 / b**2, 1 / t**2], weights, rtol=1e-12)
        assert snr + 1 <= weights[2] <= 2 * (snr + 1)
        assert math.isclose(weights[1], float(lm.snr(a**2)) + 1)


def test_noise_that_hides_as_much():
    """The mean of four times as many pixels with twice the noise is as uncertain."""
    rng = np.random.default_rng(0)
    spreads = [
        (0.3 + sigma * rng.standard_normal((40_000, n))).mean(axis=1).std()
        for n, sigma in ((16, 0.5), (64, 1.0))
    ]
    assert math.isclose(*spreads, rel_tol=5 / math.sqrt(2 * 40_000) * math.sqrt(2))
    for k, t in ((3.0, 0.2), (math.sqrt(64 / 16), 0.7)):
        moved = float(lm.shift_flow_time(t, k))
        assert math.isclose(moved / (1 - moved), k * t / (1 - t))


def test_a_shift_moves_the_mean_of_logit_normal_times():
    z = np.linspace(-3, 3, 13)
    shifted = lm.shift_flow_time(lm.logit_normal_time(z), 3.0)
    np.testing.assert_allclose(shifted, lm.logit_normal_time(z, math.log(3.0)), rtol=1e-14)
    assert "a logit-normal density with another mean" in PAGE


def test_a_line_is_the_best_velocity_at_both_ends():
    """What the mean velocity gains over a line vanishes there, and is largest near t = 0.3."""
    data = Mixture(MIXTURE.weights, MIXTURE.means - MIXTURE.mean(), MIXTURE.stds).scaled(
        float(MIXTURE.covariance()[0, 0] ** -0.5)
    )

    def gain(t):
        density = data.scaled(1 - t).density(X, t) * WIDTH
        best = (X - data.denoise(X / (1 - t), t / (1 - t)))[:, 0] / t
        slope = density @ (best * X[:, 0]) / (density @ X[:, 0] ** 2)
        return density @ (best - slope * X[:, 0]) ** 2

    times = np.linspace(0.02, 0.98, 97)
    gains = np.asarray([gain(t) for t in times])
    assert gains[0] < 0.05 * gains.max() and gains[-1] < 1e-3 * gains.max()
    assert abs(times[gains.argmax()] - 0.3) < 0.05


def test_density_of_times_is_that_of_a_normal_logarithm_of_sigma():
    for mean, std in ((0.0, 1.0), (math.log(3.0), 0.7)):

        def density(s, mean=mean, std=std):
            return float(lm.logit_normal_density(np.asarray([s]), mean, std)[0])

        below = quad(density, 1e-12, 0.6, epsabs=1e-12)[0]
        z = (math.log(0.6 / 0.4) - mean) / std
        assert math.isclose(below, 0.5 * math.erfc(-z / math.sqrt(2)), rel_tol=1e-8)


def test_one_step_of_random_pairs_ends_in_the_mean():
    """E[eps - x0 | x_1 = eps] is eps - E[x0]."""
    noise = np.asarray([[-2.0], [0.5]])
    t = 1 - 1e-9
    velocity = (noise - MIXTURE.denoise(noise / (1 - t), t / (1 - t))) / t
    np.testing.assert_allclose(noise - velocity, np.full((2, 1), MIXTURE.mean()[0]), atol=1e-6)


def test_what_the_table_of_mistakes_says():
    rng = np.random.default_rng(0)
    x0, eps, t = rng.standard_normal((5, 1)), rng.standard_normal((5, 1)), 0.3
    state, u = (1 - t) * x0 + t * eps, eps - x0
    np.testing.assert_allclose(state + (1 - t) * u, eps, atol=1e-14)  # the other direction
    assert np.all(np.abs(lm.x0_from_velocity(state, -u, t) - x0) > 1e-3)  # the other sign
    np.testing.assert_array_equal(lm.x0_from_velocity(state, -u, 0.0), state)
    mean, start = MIXTURE.mean()[0], np.asarray([[-1.5], [0.8]])
    velocity = start - mean  # of pure noise
    for sign, nearer in ((1, True), (-1, False)):
        step = start - 0.1 * sign * velocity
        assert np.all((np.abs(step - mean) < np.abs(start - mean)) == nearer)
    logit = quad(
        lambda s: math.exp(-0.5 * math.log(s / (1 - s)) ** 2) / math.sqrt(2 * math.pi),
        1e-9,
        1 - 1e-9,
    )[0]
    assert logit < 0.5  # the density of the logit, integrated over times
    even = np.linspace(1, 0, 9)
    low = [int((lm.shift_flow_time(even, k) < 0.5).sum()) for k in (1.0, 3.0, 9.0)]
    assert low == sorted(low, reverse=True) and len({*low}) == 3
    waves = lm.timestep_embedding(np.asarray([0.0, 0.5, 1.0, 500.0]), 256)
    alike = waves @ waves[0] / np.linalg.norm(waves, axis=1) / np.linalg.norm(waves[0])
    assert np.all(alike[1:3] > 0.96) and alike[3] < 0.75


def test_a_list_that_is_shifted_twice_has_a_name(monkeypatch, capsys):
    times = lm.shift_flow_time(lm.shift_flow_time(np.linspace(1, 0, 5), 3.0), 3.0)
    monkeypatch.setattr("sys.stdin", io.StringIO(" ".join(f"{v:.5f}" for v in times)))
    assert main(["schedule"]) == 0
    assert "SD3, constant shift 3, shifted a second time" in capsys.readouterr().out
