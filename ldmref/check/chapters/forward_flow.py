"""The same diffusion in other coordinates: the straight lines of flow matching, EDM's scaling."""

from __future__ import annotations

import math
from fractions import Fraction
from statistics import NormalDist

import numpy as np

from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, to_host
from ldmref.math.arrays import Array, along

chapter = Chapter("forward")


def line(rng: RandomInputs) -> tuple[Array, Array, Array, np.ndarray, np.ndarray]:
    """(x0, eps, times s, x_s on the host, its velocity on the host); s is (n,)."""
    (x0, eps) = rng.normals(2, 3, 4)
    s = rng.uniform(0.05, 0.95, 3)
    time = to_host(s)[:, None]
    a = to_host(x0)
    b = to_host(eps)
    return x0, eps, s, (1 - time) * a + time * b, b - a


# Roundings: 10 of values up to 4; 1 - alpha-bar, down to 0.003, amplifies the 4 of alpha-bar.
@chapter.identity(
    "flow_sample",
    "the variance-preserving path",
    48,
    uses=("q_sample", "alpha_bar_from_flow_time"),
    amplified=10,
)
def variance_preserving_path_rescaled(f: Functions, rng: RandomInputs) -> Comparison:
    """x_s / sqrt((1-s)^2 + s^2) = x_t at the alpha-bar of s."""
    x0, eps, s, _, _ = line(rng)
    got = to_host(f.flow_sample(x0, eps, s)) / np.hypot(1 - to_host(s), to_host(s))[:, None]
    return got, f.q_sample(x0, f.alpha_bar_from_flow_time(s), eps), 4.0


# Roundings: 4 of x_s; 7 of the velocity, up to 8 where x_s is 4.
@chapter.identity("flow_velocity", "the end of the line", 11)
def one_euler_step_reaches_the_noise(f: Functions, rng: RandomInputs) -> Comparison:
    """From any point of the line, (1 - s) u leads to the noise."""
    x0, eps, s, xs, _ = line(rng)
    return xs + (1 - to_host(s)[:, None]) * to_host(f.flow_velocity(x0, eps)), eps, 4.0


# Roundings: 4 of x_s; 6 of the velocity, which is up to twice as large.
@chapter.identity("x0_from_velocity", "round trips", 10, uses=("eps_from_velocity",))
@chapter.identity("eps_from_velocity", "round trips", 10, uses=("x0_from_velocity",))
def ends_of_the_line_are_recovered(f: Functions, rng: RandomInputs) -> Comparison:
    x0, eps, s, xs, u = line(rng)
    state = rng.array(xs)
    velocity = rng.array(u)
    got = {
        "x0_from_velocity": f.x0_from_velocity(state, velocity, s),
        "eps_from_velocity": f.eps_from_velocity(state, velocity, s),
    }
    return got, [x0, eps], 4.0


# Roundings: 5 of u, up to 16 of a scale of 10, 3 more; 5 in the oracle.
@chapter.identity(
    "x0_from_velocity",
    "v-prediction",
    16,
    uses=("eps_from_velocity", "x0_from_v", "eps_from_v", "alpha_bar_from_flow_time"),
)
def velocity_and_v_denoise_alike(f: Functions, rng: RandomInputs) -> Comparison:
    """u = (r v - (1 - 2 s) x_s) / r^2, r^2 = (1-s)^2 + s^2, makes a v network a flow's."""
    (xs, v) = rng.normals(2, 3, 4)
    s = rng.uniform(0.1, 0.9, 3)
    time = to_host(s)[:, None]
    r = np.hypot(1 - time, time)
    u = rng.array((r * to_host(v) - (1 - 2 * time) * to_host(xs)) / r**2)
    xt = rng.array(to_host(xs) / r)
    alpha_bar = f.alpha_bar_from_flow_time(s)
    got = {
        "x0_from_velocity": f.x0_from_velocity(xs, u, s),
        "eps_from_velocity": f.eps_from_velocity(xs, u, s),
    }
    return got, [f.x0_from_v(xt, v, alpha_bar), f.eps_from_v(xt, v, alpha_bar)], 10.0


# Roundings: 6 of the function and 3 of each input, of terms up to 5 x and 2 velocities: 72.
@chapter.identity("interpolant_pair", "the pair that made the state", 9)
def pair_of_a_path_whose_signal_falls(f: Functions, rng: RandomInputs) -> Comparison:
    x0, eps = rng.numpy.standard_normal((2, 3, 4))
    signal, noise = rng.uniform(0.2, 1.0, 3), rng.uniform(0.2, 1.0, 3)
    falls, rises = rng.uniform(-2.0, -0.5, 3), rng.uniform(0.5, 2.0, 3)
    a, b, da, db = (to_host(z)[:, None] for z in (signal, noise, falls, rises))
    x, velocity = rng.array(a * x0 + b * eps), rng.array(da * x0 + db * eps)
    got = f.interpolant_pair(x, velocity, signal, noise, falls, rises)
    return [*got], [x0, eps], 72.0


# Roundings: 6 of the function, 8 of v-prediction, of values up to 4.
@chapter.identity(
    "interpolant_pair",
    "flow matching and v-prediction",
    14,
    uses=("x0_from_velocity", "eps_from_velocity", "x0_from_v", "eps_from_v"),
)
def line_and_circle_are_two_of_its_paths(f: Functions, rng: RandomInputs) -> Comparison:
    x, velocity = rng.normals(2, 3, 4)
    t = rng.number(0.1, 0.9)
    cosine, sine = math.cos(t), math.sin(t)
    line = f.interpolant_pair(x, velocity, 1.0 - t, t, -1.0, 1.0)
    circle = f.interpolant_pair(x, velocity, cosine, sine, -sine, cosine)
    expected = [
        f.x0_from_velocity(x, velocity, t),
        f.eps_from_velocity(x, velocity, t),
        f.x0_from_v(x, velocity, cosine**2),
        f.eps_from_v(x, velocity, cosine**2),
    ]
    return [*line, *circle], [to_host(z) for z in expected], 8.0


# fmt: off
# Roundings: up to 5 here, 1 of a fraction in the oracle, 8 of two elementary functions.
chapter.elementwise("sigma_from_flow_time", "noise over signal without rounding",
                    "rational arithmetic", 6, (0, 0.95), lambda s: float(1 / (1 - Fraction(s)) - 1))
chapter.elementwise("flow_time_from_sigma", "odds of noise without rounding", "rational arithmetic",
                    6, (0.01, 20), lambda s: float(1 / (1 + 1 / Fraction(s))))
chapter.elementwise("alpha_bar_from_flow_time", "squared cosine of the angle of the line",
                    "trigonometry", 12, (0.0, 1.0), lambda s: math.cos(math.atan2(s, 1 - s)) ** 2)
chapter.elementwise("flow_time_from_alpha_bar", "tangent over one plus tangent", "trigonometry", 12,
                    (0.05, 0.95), lambda a: 1 / (1 + 1 / math.tan(math.acos(math.sqrt(a)))))
# fmt: on


# Roundings: 6 here, 1 or 2 in the oracle.
@chapter.identity("shift_flow_time", "rational arithmetic", 8)
def odds_of_noise_grow_by_the_shift(f: Functions, rng: RandomInputs) -> Comparison:
    s = rng.uniform(0.01, 0.99, 2, 2, 2)
    shift = rng.number(0.2, 6.0)
    odds = [Fraction(shift) * Fraction(v) / (1 - Fraction(v)) for v in to_host(s).ravel().tolist()]
    expected = np.reshape([float(v / (1 + v)) for v in odds], (2, 2, 2))
    return f.shift_flow_time(s, shift), expected


# Roundings: 3 of the logit, times at most 1/4 of it, and 2 of the exponential on both sides.
@chapter.identity("logit_normal_time", "a hyperbolic tangent, with the standard library", 10)
def logits_are_normal(f: Functions, rng: RandomInputs) -> Comparison:
    z = rng.uniform(-3.0, 3.0, 2, 3, 1, 2)
    mean, std = rng.number(-1.0, 1.0), rng.number(0.3, 2.0)
    expected = [(1 + math.tanh((mean + std * v) / 2)) / 2 for v in to_host(z).ravel().tolist()]
    return f.logit_normal_time(z, mean, std), np.reshape(expected, (2, 3, 1, 2))


# Roundings: 4 of each logarithm and of z, up to 16 in the exponent, which amplifies them.
@chapter.identity("logit_normal_density", "the standard library's normal density", 24, amplified=16)
def density_of_the_logit_over_its_derivative(f: Functions, rng: RandomInputs) -> Comparison:
    """Take the logit as 2 artanh(2 s - 1), and its derivative as 1 / (s (1 - s))."""
    s = rng.uniform(0.05, 0.95, 2, 3, 1, 2)
    mean, std = rng.number(-1.0, 1.0), rng.number(0.7, 2.0)
    normal = NormalDist(mean, std)
    values = to_host(s).ravel().tolist()
    expected = [normal.pdf(2 * math.atanh(2 * v - 1)) / (v * (1 - v)) for v in values]
    return f.logit_normal_density(s, mean, std), np.reshape(expected, (2, 3, 1, 2)), 4.0


# Roundings: 3 of the sine, doubled by its square, times at most 1.75, and 4 of the arithmetic.
@chapter.identity("mode_time", "half a cosine, with the standard library", 16)
def mode_is_uniform_plus_a_wave(f: Functions, rng: RandomInputs) -> Comparison:
    u = rng.uniform(0.0, 1.0, 2, 3, 1, 2)
    scale = rng.number(-1.0, 1.75)
    values = to_host(u).ravel().tolist()
    waves = [(1 - math.cos(math.pi * v)) / 2 - v for v in values]
    expected = [1 - v + scale * wave for v, wave in zip(values, waves, strict=True)]
    return f.mode_time(u, scale), np.reshape(expected, (2, 3, 1, 2))


# Roundings: 8 here; the oracle's tangent has 2, and its argument 1, which grows at its pole.
@chapter.identity("cosmap_time", "a tangent, with the standard library", 12)
def odds_of_cosmap_are_a_tangent(f: Functions, rng: RandomInputs) -> Comparison:
    u = rng.uniform(0.0, 0.99, 2, 3, 1, 2)
    odds = [math.tan(math.pi / 2 * v) for v in to_host(u).ravel().tolist()]
    return f.cosmap_time(u), np.reshape([r / (1 + r) for r in odds], (2, 3, 1, 2))


# Roundings: 8 here, 2 in the oracle.
@chapter.identity("cosmap_weight", "rational arithmetic", 10)
def cosmap_weight_is_the_density(f: Functions, rng: RandomInputs) -> Comparison:
    """Compare with the polynomial of the paper, 2 / (pi - 2 pi s + 2 pi s^2), with pi taken out."""
    s = rng.uniform(0.0, 1.0, 2, 3, 1, 2)
    fractions = [Fraction(v) for v in to_host(s).ravel().tolist()]
    expected = [2 / math.pi * float(1 / (1 - 2 * v + 2 * v * v)) for v in fractions]
    return f.cosmap_weight(s), np.reshape(expected, (2, 3, 1, 2))


# Roundings: 2 here, 1 in the oracle, of values up to 400.
@chapter.identity("sigma_sqrt_weight", "rational arithmetic", 3)
def sigma_sqrt_is_an_inverse_square(f: Functions, rng: RandomInputs) -> Comparison:
    s = rng.uniform(0.05, 1.0, 2, 3, 1, 2)
    expected = [float(1 / Fraction(v) ** 2) for v in to_host(s).ravel().tolist()]
    return f.sigma_sqrt_weight(s), np.reshape(expected, (2, 3, 1, 2))


# Roundings: 6 of each coefficient, squared, and 8 of the arithmetic with it.
@chapter.identity("edm_preconditioning", "variances, by arithmetic", 20)
def input_and_target_have_unit_variance(f: Functions, rng: RandomInputs) -> Comparison:
    """Appendix B.6: c_in and c_out normalise, c_skip minimises c_out, c_noise is a logarithm."""
    sigmas = rng.uniform(0.1, 5.0, 4)
    sigma_data = rng.number(0.3, 2.0)
    c_skip, c_out, c_in, c_noise = map(to_host, f.edm_preconditioning(sigmas, sigma_data))
    sigma = to_host(sigmas)
    variance = sigma_data**2
    error = (1 - c_skip) ** 2 * variance + c_skip**2 * sigma**2  # of the target, before c_out
    slope = (c_skip * (variance + sigma**2) - variance) / variance  # d error / d c_skip
    got = {
        "c_in": c_in**2 * (variance + sigma**2),
        "c_out": error / c_out**2,
        "c_skip": slope,
        "c_noise": np.exp(4 * c_noise),
    }
    return got, [np.ones(4), np.ones(4), np.zeros(4), sigma]


# Roundings: 8 here, 6 in the oracle.
@chapter.identity("edm_denoise", "conjugate Gaussians", 14)
def posterior_mean_of_normal_data(f: Functions, rng: RandomInputs) -> Comparison:
    """For data N(m, sigma_data^2) the best network is m (1 - c_skip) / c_out, whatever x."""
    sigmas = rng.uniform(0.1, 5.0, 4)
    sigma_data = rng.number(0.3, 2.0)
    mean = rng.number(-2, 2)
    x = rng.normal(4, 3)
    sigma = to_host(sigmas)[:, None]
    variance = sigma_data**2
    best = rng.array(mean * sigma / (sigma_data * np.hypot(sigma, sigma_data)))
    got = f.edm_denoise(lambda y, c: best + 0.0 * y, x, sigmas, sigma_data)
    expected = (mean / variance + to_host(x) / sigma**2) / (1 / variance + 1 / sigma**2)
    return got, expected, 4.0


# Roundings: 10 here, 6 in the oracle.
@chapter.identity("edm_denoise", "a linear network", 16)
def network_sees_scaled_data_and_a_logarithm(f: Functions, rng: RandomInputs) -> Comparison:
    """D of the network F(y; c) = y + c is linear in x."""
    sigma = rng.number(0.1, 5.0)
    sigma_data = rng.number(0.3, 2.0)
    x = rng.normal(4, 3)
    total = sigma**2 + sigma_data**2
    slope = sigma_data * (sigma_data + sigma) / total
    c_out = sigma * sigma_data / math.sqrt(total)
    expected = slope * to_host(x) + 0.25 * c_out * math.log(sigma)
    return f.edm_denoise(lambda y, c: y + c, x, sigma, sigma_data), expected, 4.0


# Roundings: 4 of values up to 4, divided by c_out down to 0.17, of a scale of 10; 14 of v.
@chapter.identity("edm_target", "v-prediction", 24, uses=("v_from_x0_eps",), amplified=2.4)
def minus_v_of_the_data_at_unit_scale(f: Functions, rng: RandomInputs) -> Comparison:
    x0, eps = rng.normals(2, 3, 4)
    sigma = rng.uniform(0.2, 5.0, 3)
    sigma_data = rng.number(0.3, 2.0)
    x = rng.array(to_host(x0) + to_host(sigma)[:, None] * to_host(eps))
    alpha_bar = rng.array(1 / (1 + (to_host(sigma) / sigma_data) ** 2))
    expected = -f.v_from_x0_eps(x0 / sigma_data, eps, alpha_bar)
    return f.edm_target(x0, x, sigma, sigma_data), expected, 10.0


# Roundings: 3 of the denoisers, up to 4, divided by c_out down to 0.17, twice the difference.
@chapter.identity("edm_loss_weight", "squared errors", 40, uses=("edm_denoise",), amplified=6)
def squared_errors_of_network_and_denoiser_agree(f: Functions, rng: RandomInputs) -> Comparison:
    """lambda times the squared difference of two denoisers is that of their networks."""
    sigma = rng.number(0.2, 5.0)
    sigma_data = rng.number(0.3, 2.0)
    x, *outputs = rng.normals(3, 4, 3)
    one, two = (f.edm_denoise(lambda y, c, z=z: z, x, sigma, sigma_data) for z in outputs)
    got = f.edm_loss_weight(sigma, sigma_data) * (one - two) ** 2
    return got, (to_host(outputs[0]) - to_host(outputs[1])) ** 2, 10.0


# -- mistakes --------------------------------------------------------------------------------------

# fmt: off
LINE_MISTAKES = {
    "the time runs from noise to data: x + (1 - s) u is the noise, and the data are x - s u":
        lambda x, u, s: x + (1 - along(s, x)) * u,
    "the velocity points to the data, x0 - eps (plus for minus); here it is eps - x0":
        lambda x, u, s: x + along(s, x) * u,
    "the data are divided by 1 - s, as for a prediction of the noise; a velocity needs no division":
        lambda x, u, s: (x - along(s, x) * u) / (1 - along(s, x)),
}
# fmt: on
chapter.known_mistakes("x0_from_velocity", LINE_MISTAKES)


def pair(
    x: Array,
    u: Array,
    rates: tuple[Array, Array, Array, Array],
    sign: float = -1.0,
    *,
    divided: bool = True,
) -> tuple[Array, Array]:
    """Return data and noise, or what a mistake makes of them."""
    a, b, falls, rises = (along(rate, x) for rate in rates)
    turn = a * rises - b * falls if divided else 1.0
    return (rises * x - b * u) / turn, (a * u + sign * falls * x) / turn


# fmt: off
PAIR_MISTAKES = {
    "the denominator a b' - b a' is missing; it is 1 only on the line and the circle":
        lambda x, u, *rates: pair(x, u, rates, divided=False),
    "eps has plus for minus: it is (a u - a' x) over the denominator, with a' signal_rate":
        lambda x, u, *rates: pair(x, u, rates, 1.0),
    "x0 and eps are exchanged": lambda x, u, *rates: pair(x, u, rates)[::-1],
    "signal_rate and noise_rate are exchanged in the numerators":
        lambda x, u, a, b, falls, rises: tuple(
            z / along(a * rises - b * falls, x)
            for z in pair(x, u, (a, b, rises, falls), divided=False)),
    "only x0 is returned; the function returns two results, x0 and eps":
        lambda x, u, *rates: pair(x, u, rates)[0],
}
# fmt: on
chapter.known_mistakes("interpolant_pair", PAIR_MISTAKES)


def density(logit: Array, mean: float, std: float) -> Array:
    """Return the normal density of a logit."""
    return np.exp(-0.5 * ((logit - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))


# fmt: off
DENSITY_MISTAKES = {
    "the derivative of the logit, 1 / (s (1 - s)), is missing: this is the density of the logit":
        lambda s, mean=0.0, std=1.0: density(np.log(s / (1 - s)), mean, std),
    "the derivative is that of s / (1 - s), not of its logarithm":
        lambda s, mean=0.0, std=1.0: density(np.log(s / (1 - s)), mean, std) / (1 - s) ** 2,
    "std is taken for a variance; it is a standard deviation":
        lambda s, mean=0.0, std=1.0:
            density(np.log(s / (1 - s)), mean, math.sqrt(std)) / (s * (1 - s)),
    "the variance, std squared, stands where the standard deviation belongs":
        lambda s, mean=0.0, std=1.0: density(np.log(s / (1 - s)), mean, std**2) / (s * (1 - s)),
    "the density is not divided by std":
        lambda s, mean=0.0, std=1.0:
            std * density(np.log(s / (1 - s)), mean, std) / (s * (1 - s)),
    "log(s) stands for the logit, log(s / (1 - s))":
        lambda s, mean=0.0, std=1.0: density(np.log(s), mean, std) / (s * (1 - s)),
    "log(s) stands for the logit, log(s / (1 - s)), and 1 / s for its derivative":
        lambda s, mean=0.0, std=1.0: density(np.log(s), mean, std) / s,
}
# fmt: on
chapter.known_mistakes("logit_normal_density", DENSITY_MISTAKES)
