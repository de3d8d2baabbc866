"""Steps of the score-based samplers."""

from __future__ import annotations

import itertools
import math

import numpy as np

from ldmref.check.identity import Draw, Functions, Identity, to_host

PAGE = "score"


def moments_of_two_points(f: Functions, draw: Draw):
    """Noise of +-1 must give the mean x + b h and the variance g^2 |h|, either way in time."""
    x, slope, one = draw.normal(3, 2), draw.normal(3, 2), draw.array(np.ones((3, 2)))
    t, t_next, g = draw.uniform(0.0, 1.0, 3), draw.uniform(0.0, 1.0, 3), draw.number(0.5, 2.0)

    def step(noise):
        return f.euler_maruyama(lambda x, t: slope, lambda t: g + t, x, t, t_next, noise)

    up, down = step(one), step(-one)
    h = (to_host(t_next) - to_host(t))[:, None]
    spread = (g + to_host(t)[:, None]) ** 2 * abs(h) * np.ones((1, 2))
    got = draw.xp.stack([0.5 * (up + down), (0.5 * (up - down)) ** 2])
    return got, np.stack([to_host(x) + to_host(slope) * h, spread]), 30.0


def predictor_of_ddpm(f: Functions, draw: Draw):
    """(2 - sqrt(1 - beta)) x + beta score + sqrt(beta) z, with beta of one step of the chain."""
    low, high = draw.number(0.1, 1.0), draw.number(1.0, 4.0)
    end = draw.number(0.3, 1.0)
    start = draw.number(0.0, 0.9) * end
    x, score, noise = (draw.normal(3, 2) for _ in range(3))
    got = f.reverse_diffusion_step(f.VPSDE(low, high), lambda x, t: score, x, end, start, noise)
    rate = low + (high - low) * (start + end) / 2
    beta = -math.expm1(-(end - start) * rate)
    a, b, c = map(to_host, (x, score, noise))
    return got, (2 - math.sqrt(1 - beta)) * a + beta * b + math.sqrt(beta) * c, 10.0


def predictor_of_smld(f: Functions, draw: Draw):
    """x + (a - b) score + sqrt(a - b) z with the squares a, b of two noise levels."""
    low, high, end = draw.number(0.1, 0.5), draw.number(2.0, 5.0), draw.number(0.3, 1.0)
    start = draw.number(0.0, 0.9) * end
    x, score, noise = (draw.normal(3, 2) for _ in range(3))
    got = f.reverse_diffusion_step(f.VESDE(low, high), lambda x, t: score, x, end, start, noise)
    added = low**2 * ((high / low) ** (2 * end) - (high / low) ** (2 * start))
    a, b, c = map(to_host, (x, score, noise))
    return got, a + added * b + math.sqrt(added) * c, 50.0


def posterior_of_ddpm(f: Functions, draw: Draw):
    """Mean and variance are those of q(x_s | x_t, x_0), with x_0 from the score."""
    before = draw.number(0.3, 0.95)
    now = before * draw.number(0.3, 0.9)
    x, score, noise = (draw.normal(3, 2) for _ in range(3))
    t, s = -math.log(now), -math.log(before)  # the times of constant beta = 1
    got = f.ancestral_step(f.VPSDE(1.0, 1.0), lambda x, t: score, x, t, s, noise)
    x0 = (x + (1 - now) * score) / math.sqrt(now)
    mean, variance = f.q_posterior(x0, x, now, before)
    return got, mean + math.sqrt(float(variance)) * noise, 30.0


def ancestral_sampling_of_smld(f: Functions, draw: Draw):
    """x + (a - b) score + sqrt(b (a - b) / a) z with the squares a, b of two noise levels."""
    low, high, end = draw.number(0.1, 0.5), draw.number(2.0, 5.0), draw.number(0.3, 1.0)
    start = draw.number(0.0, 0.9) * end
    x, score, noise = (draw.normal(3, 2) for _ in range(3))
    got = f.ancestral_step(f.VESDE(low, high), lambda x, t: score, x, end, start, noise)
    a, b = ((low * (high / low) ** t) ** 2 for t in (end, start))
    parts = to_host(x), to_host(score), to_host(noise)
    return got, parts[0] + (a - b) * parts[1] + math.sqrt(b * (a - b) / a) * parts[2], 50.0


def variance_that_it_keeps(f: Functions, draw: Draw):
    """Of N(0, v) it is v / (1 - step_size / (2 v)): a step maps it to itself."""
    v, size = draw.number(0.5, 2.0), draw.uniform(0.01, 0.5, 3)
    one = draw.array(np.ones((3, 1)))
    of_state = f.langevin_step(one, -one / v, 0.0 * one, size)
    of_noise = f.langevin_step(0.0 * one, 0.0 * one, one, size)
    kept = v / (1.0 - to_host(size)[:, None] / (2 * v))
    return of_state**2 * draw.array(kept) + of_noise**2, kept, 5.0


def ratio_that_was_asked_for(f: Functions, draw: Draw):
    """|step grad| / |sqrt(2 step) z| is r sqrt(alpha), for each example or for the mean norms."""
    gradient, noise, alpha = draw.normal(3, 4), draw.normal(3, 4), draw.uniform(0.5, 1.0, 3)
    r = draw.number(0.05, 0.5)
    lengths = [np.linalg.norm(to_host(z), axis=1) for z in (gradient, noise)]
    each = f.langevin_step_size(gradient, noise, r, alpha)
    together = f.langevin_step_size(gradient, noise, r, alpha, per_example=False)
    got = []
    for size, (g, z) in ((each, lengths), (together, [x.mean() for x in lengths])):
        got.append(draw.xp.sqrt(0.5 * size) * draw.array(g / z * np.ones(3)))
    want = r * np.sqrt(to_host(alpha))
    return draw.xp.stack(got), np.stack([want, want])


def algorithm_in_a_loop(f: Functions, draw: Draw):
    """VE's predictor and corrector as printed, for the score of N(0, 1) data."""
    low, high, r = 0.5, draw.number(2.0, 3.0), draw.number(0.1, 0.3)
    times = [1.0, draw.number(0.5, 0.8), draw.number(0.0, 0.4)]
    start, noises = draw.normal(2, 3), [draw.normal(2, 3) for _ in range(4)]
    left = iter(noises)
    level = [low * (high / low) ** t for t in times]
    states = list(
        f.predictor_corrector(
            f.VESDE(low, high), lambda x, t: -x / (1.0 + (low * (high / low) ** t) ** 2), start,
            times, lambda: next(left), snr=r,
        )
    )  # fmt: skip
    x, want, left = to_host(start), [], iter(map(to_host, noises))
    for before, after in itertools.pairwise(level):
        added = before**2 - after**2
        x = x - added * x / (1 + before**2) + math.sqrt(added) * next(left)
        g, z = -x / (1 + after**2), next(left)
        norms = [np.linalg.norm(y, axis=1, keepdims=True) for y in (z, g)]
        size = 2 * (r * norms[0] / norms[1]) ** 2
        x = x + size * g + np.sqrt(2 * size) * z
        want.append(x)
    return draw.xp.stack(states), np.stack(want), 10.0


IDENTITIES = [
    Identity("euler_maruyama", "two-point noise", moments_of_two_points, 2),
    Identity("reverse_diffusion_step", "algorithm 3 in plain numbers", predictor_of_ddpm, 2,
             ("VPSDE",)),
    Identity("reverse_diffusion_step", "algorithm 2 in plain numbers", predictor_of_smld, 11,
             ("VESDE",)),
    Identity("ancestral_step", "q_posterior", posterior_of_ddpm, 2, ("VPSDE", "q_posterior")),
    Identity("ancestral_step", "the printed formula in plain numbers", ancestral_sampling_of_smld,
             13, ("VESDE",)),
    Identity("langevin_step", "the fixed point of the variance", variance_that_it_keeps, 3),
    Identity("langevin_step_size", "numpy.linalg.norm", ratio_that_was_asked_for, 4),
    Identity("predictor_corrector", "the algorithm in a NumPy loop", algorithm_in_a_loop, 20,
             ("VESDE",)),
]  # fmt: skip
