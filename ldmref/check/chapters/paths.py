"""The same diffusion in other coordinates: flow matching's straight lines, and EDM's scaling."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from ldmref.check.identity import Draw, Functions, Identity, to_host

PAGE = "forward"


def line(draw: Draw):
    """Clean data, noise, times (n,), and on the host the point of the line and its slope."""
    x0, eps, s = draw.normal(3, 4), draw.normal(3, 4), draw.uniform(0.05, 0.95, 3)
    time, a, b = to_host(s)[:, None], to_host(x0), to_host(eps)
    return x0, eps, s, (1 - time) * a + time * b, b - a


def variance_preserving_path_rescaled(f: Functions, draw: Draw):
    """x_s / sqrt((1-s)^2 + s^2) = x_t at the level of s."""
    x0, eps, s, _, _ = line(draw)
    time = to_host(s)[:, None]
    got = to_host(f.flow_sample(x0, eps, s)) / np.hypot(1 - time, time)
    return got, f.q_sample(x0, f.alpha_bar_from_flow_time(s), eps), 4.0


def one_euler_step_goes_all_the_way(f: Functions, draw: Draw):
    """From any point of the line, (1 - s) u leads to the noise."""
    x0, eps, s, xs, _ = line(draw)
    step = (1 - to_host(s)[:, None]) * to_host(f.flow_velocity(x0, eps))
    return xs + step, eps, 4.0


def ends_of_the_line_come_back(f: Functions, draw: Draw):
    x0, eps, s, xs, u = line(draw)
    state, slope = draw.array(xs), draw.array(u)
    got = [f.x0_from_velocity(state, slope, s), f.eps_from_velocity(state, slope, s)]
    return draw.xp.stack(got), draw.xp.stack([x0, eps]), 4.0


def velocity_and_v_denoise_alike(f: Functions, draw: Draw):
    """u = (r v - (1 - 2 s) x_s) / r^2, r^2 = (1-s)^2 + s^2, turns a v network into a flow's."""
    xs, v, s = draw.normal(3, 4), draw.normal(3, 4), draw.uniform(0.1, 0.9, 3)
    time = to_host(s)[:, None]
    r = np.hypot(1 - time, time)
    u = draw.array((r * to_host(v) - (1 - 2 * time) * to_host(xs)) / r**2)
    xt, level = draw.array(to_host(xs) / r), f.alpha_bar_from_flow_time(s)
    got = [f.x0_from_velocity(xs, u, s), f.eps_from_velocity(xs, u, s)]
    return draw.xp.stack(got), draw.xp.stack([f.x0_from_v(xt, v, level),
                                              f.eps_from_v(xt, v, level)]), 10.0  # fmt: skip


def noise_over_signal_without_rounding(f: Functions, draw: Draw):
    s = draw.uniform(0.0, 0.95, 5)
    times = [Fraction(float(v)) for v in to_host(s)]
    return f.sigma_from_flow_time(s), [float(v / (1 - v)) for v in times]


def odds_of_noise_without_rounding(f: Functions, draw: Draw):
    sigma = draw.uniform(0.01, 20.0, 5)
    return f.flow_time_from_sigma(sigma), [float(1 / (1 + 1 / Fraction(float(v))))
                                           for v in to_host(sigma)]  # fmt: skip


def squared_cosine_of_the_angle_of_the_line(f: Functions, draw: Draw):
    s = draw.uniform(0.0, 1.0, 5)
    return f.alpha_bar_from_flow_time(s), [math.cos(math.atan2(v, 1 - v)) ** 2 for v in to_host(s)]


def tangent_over_one_plus_tangent(f: Functions, draw: Draw):
    level = draw.uniform(0.05, 0.95, 5)
    tangents = [math.tan(math.acos(math.sqrt(a))) for a in to_host(level)]
    return f.flow_time_from_alpha_bar(level), [v / (1 + v) for v in tangents]


def odds_of_noise_grow_by_the_shift(f: Functions, draw: Draw):
    s, shift = draw.uniform(0.01, 0.99, 5), draw.number(0.2, 6.0)
    odds = [Fraction(shift) * Fraction(v) / (1 - Fraction(v)) for v in map(float, to_host(s))]
    return f.shift_flow_time(s, shift), [float(v / (1 + v)) for v in odds]


def input_and_target_have_unit_variance(f: Functions, draw: Draw):
    """Appendix B.6: c_in and c_out normalise, c_skip makes c_out least, c_noise is a logarithm."""
    sigma, sigma_data = draw.uniform(0.1, 5.0, 4), draw.number(0.3, 2.0)
    skip, out, inside, noise = map(to_host, f.edm_preconditioning(sigma, sigma_data))
    level, data = to_host(sigma), sigma_data**2
    error = (1 - skip) ** 2 * data + skip**2 * level**2  # of the target, before c_out
    slope = (skip * (data + level**2) - data) / data  # of that in c_skip
    got = np.stack([inside**2 * (data + level**2), error / out**2, slope, np.exp(4 * noise)])
    return got, np.stack([np.ones(4), np.ones(4), np.zeros(4), level])


def posterior_mean_of_normal_data(f: Functions, draw: Draw):
    """For data N(m, sigma_data^2) the best network answers m (1 - c_skip) / c_out, whatever x."""
    sigma, sigma_data, mean = draw.uniform(0.1, 5.0, 4), draw.number(0.3, 2.0), draw.number(-2, 2)
    x, level, data = draw.normal(4, 3), to_host(sigma)[:, None], sigma_data**2
    best = draw.array(mean * level / (sigma_data * np.hypot(level, sigma_data)))
    got = f.edm_denoise(lambda y, c: best + 0.0 * y, x, sigma, sigma_data)
    want = (mean / data + to_host(x) / level**2) / (1 / data + 1 / level**2)
    return got, want, 4.0


def network_sees_scaled_data_and_a_logarithm(f: Functions, draw: Draw):
    """D of the network F(y; c) = y + c is linear in x."""
    sigma, sigma_data, x = draw.number(0.1, 5.0), draw.number(0.3, 2.0), draw.normal(4, 3)
    got = f.edm_denoise(lambda y, c: y + c, x, sigma, sigma_data)
    total = sigma**2 + sigma_data**2
    slope, rest = sigma_data * (sigma_data + sigma) / total, sigma * sigma_data / math.sqrt(total)
    return got, slope * to_host(x) + 0.25 * rest * math.log(sigma), 4.0


def minus_v_of_the_data_at_unit_scale(f: Functions, draw: Draw):
    x0, eps = draw.normal(3, 4), draw.normal(3, 4)
    sigma, sigma_data = draw.uniform(0.2, 5.0, 3), draw.number(0.3, 2.0)
    x = draw.array(to_host(x0) + to_host(sigma)[:, None] * to_host(eps))
    unit = draw.array(to_host(x0) / sigma_data)
    level = draw.array(1 / (1 + (to_host(sigma) / sigma_data) ** 2))
    return f.edm_target(x0, x, sigma, sigma_data), -f.v_from_x0_eps(unit, eps, level), 10.0


def squared_errors_of_network_and_denoiser_agree(f: Functions, draw: Draw):
    """lambda times the squared difference of two denoisers is that of their networks."""
    sigma, sigma_data = draw.number(0.2, 5.0), draw.number(0.3, 2.0)
    x, one, two = draw.normal(4, 3), draw.normal(4, 3), draw.normal(4, 3)
    gap = f.edm_denoise(lambda y, c: one, x, sigma, sigma_data) - f.edm_denoise(
        lambda y, c: two, x, sigma, sigma_data
    )
    got = f.edm_loss_weight(sigma, sigma_data) * gap**2
    return got, (to_host(one) - to_host(two)) ** 2, 10.0


IDENTITIES = [
    Identity("flow_sample", "the variance-preserving path", variance_preserving_path_rescaled, 10,
             ("q_sample", "alpha_bar_from_flow_time")),
    Identity("flow_velocity", "the end of the line", one_euler_step_goes_all_the_way, 2),
    Identity("x0_from_velocity", "round trips", ends_of_the_line_come_back, 3,
             ("eps_from_velocity",)),
    Identity("x0_from_velocity", "v-prediction", velocity_and_v_denoise_alike, 3,
             ("eps_from_velocity", "x0_from_v", "eps_from_v", "alpha_bar_from_flow_time")),
    Identity("sigma_from_flow_time", "rational arithmetic", noise_over_signal_without_rounding, 3),
    Identity("flow_time_from_sigma", "rational arithmetic", odds_of_noise_without_rounding, 3),
    Identity("alpha_bar_from_flow_time", "trigonometry", squared_cosine_of_the_angle_of_the_line,
             4),
    Identity("flow_time_from_alpha_bar", "trigonometry", tangent_over_one_plus_tangent, 4),
    Identity("shift_flow_time", "rational arithmetic", odds_of_noise_grow_by_the_shift, 3),
    Identity("edm_preconditioning", "variances, by arithmetic", input_and_target_have_unit_variance,
             12),
    Identity("edm_denoise", "conjugate Gaussians", posterior_mean_of_normal_data, 4),
    Identity("edm_denoise", "a linear network", network_sees_scaled_data_and_a_logarithm, 4),
    Identity("edm_target", "v-prediction", minus_v_of_the_data_at_unit_scale, 4,
             ("v_from_x0_eps",)),
    Identity("edm_loss_weight", "squared errors", squared_errors_of_network_and_denoiser_agree, 16,
             ("edm_denoise",)),
]  # fmt: skip
