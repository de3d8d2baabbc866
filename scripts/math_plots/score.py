"""Noise levels of three diffusions, paths back to the data, and the error of a likelihood."""

from itertools import pairwise

import numpy as np

from ldmref import math as lm
from ldmref.testing.mixture import Mixture, three_modes

PAIR = Mixture(np.asarray([0.6, 0.4]), np.asarray([[-1.0], [1.2]]), np.asarray([0.25, 0.35]))


def plot(figure) -> None:
    left, middle, right = figure.subplots(1, 3)
    t = np.linspace(0.0, 1.0, 301)
    for name, sde in (("VP", lm.VPSDE()), ("sub-VP", lm.SubVPSDE()), ("VE", lm.VESDE())):
        left.semilogy(t[1:], sde.sigma(t[1:]), label=name)
    left.set(xlabel="t", ylabel="sigma(t)", title="Noise levels")
    left.legend()

    sde = lm.VPSDE(0.1, 8.0)
    grid = np.linspace(-2.6, 2.6, 301)
    shades = [PAIR.scaled(sde.mean_coefficient(u)).density(grid[:, None], sde.std(u)) for u in t]
    middle.pcolormesh(t, grid, np.sqrt(shades).T, cmap="Greys", rasterized=True)
    rng = np.random.default_rng(2)
    x = np.asarray([[-1.8], [-0.5], [0.25], [1.2]])
    flow = [x]
    diffusion_path = [x[1:3]]
    back = np.linspace(1.0, 0.005, 400)
    score = lm.sde_score(sde, PAIR.denoise)
    velocity = lm.probability_flow(sde, score)
    (drift, diffusion) = lm.reverse_sde(sde, score)
    for u, after in pairwise(map(float, back)):
        noise = rng.standard_normal((2, 1))
        flow.append(lm.integrate_rk4(velocity, flow[-1], [u, after]))
        diffusion_path.append(
            lm.euler_maruyama(drift, diffusion, diffusion_path[-1], u, after, noise)
        )
    middle.plot(back, np.asarray(diffusion_path)[..., 0], "tab:orange", lw=0.7, label=["SDE", None])
    middle.plot(back, np.asarray(flow)[..., 0], "tab:blue", label=["flow", None, None, None])
    middle.set(xlabel="t", ylabel="x", ylim=(-2.6, 2.6), title="Paths back to the data")
    middle.legend()

    problem = three_modes()
    points = np.random.default_rng(0).normal(0, 1, (64, 2))
    ends = (0.05, 10)
    velocity = lm.sigma_flow(problem.denoise)
    probes = np.random.default_rng(1).choice([-1.0, 1.0], (1, *points.shape))
    for name, mark, divergence in (
        ("closed form", "o", lambda x, s: (2 - problem.denoise_divergence(x, s)) / s),
        ("differences", "+", lambda x, s: lm.exact_divergence(velocity, x, s)),
        ("one probe", "s", lambda x, s: lm.hutchinson_divergence(velocity, x, s, probes)),
    ):
        errors = []
        counts = 2 ** np.arange(2, 10)
        for n in counts:
            args = velocity, divergence, lambda x: problem.log_density(x, ends[1]), points
            nats, _ = lm.flow_log_likelihood(*args, np.geomspace(*ends, n + 1))
            errors.append(np.sqrt(np.mean((nats - problem.log_density(points, ends[0])) ** 2)))
        right.loglog(counts, errors, marker=mark, label=name, mfc="none")
    right.set(xlabel="steps", ylabel="nats", title="Error of log p")
    right.legend()
