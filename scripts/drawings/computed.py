"""Drawings of what is computed: densities, paths and predictions of mixtures of Gaussians."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from drawings.canvas import SIZE
from drawings.geometry import Point
from drawings.shapes import Drawing
from ldmref.math import (
    alphas_cumprod,
    classifier_free_guidance,
    karras_sigmas,
    linear_betas,
    q_step,
)
from ldmref.models import ModelConfig
from ldmref.samplers import SAMPLERS, sample
from ldmref.testing import Mixture

# The mixtures of chapter 9, on a line, and of chapter 8, in the plane.
LINE = Mixture(
    np.asarray([0.5, 0.3, 0.2]), np.asarray([[1.0], [-1.2], [0.2]]), np.asarray([0.25, 0.4, 0.1])
)
PLANE = Mixture(
    np.asarray([0.5, 0.3, 0.2]),
    np.asarray([[1.0, 0.5], [-1.2, 0.3], [0.2, -1.0]]),
    np.asarray([0.6, 0.7, 0.8]),
)
SIDE = np.linspace(-3.2, 3.2, 97)
WIDER = np.linspace(-3.9, 3.9, 97)


def noisy_density(data: Mixture, alpha_bar: float, x: np.ndarray = SIDE) -> np.ndarray:
    """Return the density of x_t at points on a line."""
    return data.scaled(np.sqrt(alpha_bar)).density(x[:, None], np.sqrt(1 - alpha_bar))


def hill(
    drawing: Drawing,
    place: Callable[[float, float], Point],
    p: np.ndarray,
    tone: str,
    side: np.ndarray = SIDE,
) -> None:
    """Draw a density as an area with a line around it."""
    points = [place(x, v) for x, v in zip(side, p, strict=True)]
    drawing.curve([place(side[0], 0), *points, place(side[-1], 0)], tone, filled=True)
    drawing.curve(points, tone)


def latent_scale(config: ModelConfig) -> Drawing:
    """Draw noisy data of variance 1, and of the variance of unscaled latents, at one time."""
    factor = config.kl_or_vq.scaling_factor
    alpha_bar = 0.5
    unit = LINE.scaled(float(1 / np.sqrt(LINE.covariance()[0, 0])))
    drawing = Drawing(
        "The same noise on scaled and on unscaled latents",
        "Two densities of noisy data at the time at which signal and noise should be equal. Above, "
        "data of standard deviation 1: their three clusters have melted into one hill. Below, the "
        f"same data with a standard deviation of {1 / factor:.2f}, as latents have before the "
        f"scaling factor {factor:.3f}: two hills are still apart, because the log-SNR is "
        f"{-2 * np.log(factor):.2f} too high.",
        372,
    )
    drawing.text(200, 28, "noisy latents, half signal and half noise", size=SIZE, strong=True)
    panels = (
        (1.0, 170.0, "times *γ* = " + f"{factor:.3f}", "std 1", "data"),
        (1 / factor, 318.0, "*γ* forgotten", f"std {1 / factor:.2f}", "noise"),
    )
    for scale, base, name, spread, tone in panels:

        def place(x: float, p: float, base: float = base) -> Point:
            return 200 + 45 * x, base - 270 * p

        hill(drawing, place, noisy_density(unit.scaled(scale), alpha_bar, WIDER), tone, WIDER)
        drawing.arrow((24, base), (376, base), tone="muted", head=False)
        drawing.text(24, base - 98, name, anchor="start", tone=tone, size=SIZE)
        drawing.text(24, base - 80, spread, anchor="start", tone="muted")
        snr = f"log-SNR {2 * np.log(scale):.2f}"
        drawing.text(376, base - 98, snr, anchor="end", tone=tone, size=SIZE)
    drawing.text(200, 343, "the network sees cleaner latents", tone="muted")
    drawing.text(200, 361, "than the time *t* tells it", tone="muted")
    return drawing


def chains(config: ModelConfig) -> Drawing:
    """Draw the density at four times of the chain, with the two chains above and below."""
    del config
    times = (0, 100, 300, 1000)
    betas = linear_betas(times[-1])
    alpha_bar = np.concatenate([[1.0], alphas_cumprod(betas)])
    rng = np.random.default_rng(1)
    walk = [np.asarray([1.0])]
    for beta in betas:
        walk.append(q_step(walk[-1], beta, rng.standard_normal(1)))
    drawing = Drawing(
        "Two Markov chains over the same densities",
        "Four densities at the times 0, 100, 300 and 1000 of DDPM's schedule: three hills melt "
        "into one standard normal hill. A dot is one point that takes the steps. Above, "
        "arrows to the right: q adds noise and has no parameters. Below, arrows to the left: p "
        "with the parameters theta is learned and undoes one step at a time.",
        282,
    )
    wide, gap, base = 82.0, 14.0, 196.0
    lefts = [15 + i * (wide + gap) for i in range(4)]
    drawing.text(200, 28, "*q* adds noise: fixed", size=SIZE, strong=True, tone="noise")
    drawing.text(200, 270, "*p*_{θ} removes it: learned", size=SIZE, strong=True, tone="data")
    for i, (t, left) in enumerate(zip(times, lefts, strict=True)):

        def place(x: float, p: float, left: float = left) -> Point:
            return left + wide * (x + 3.2) / 6.4, base - 118 * p

        p = noisy_density(LINE, alpha_bar[t])
        hill(drawing, place, p, "data" if i == 0 else "net")
        drawing.arrow((left, base), (left + wide, base), tone="muted", head=False)
        x = float(walk[t][0])
        drawing.dot(*place(x, 0), "noise", 4.5)
        drawing.text(left + wide / 2, base + 22, f"*x*_{{{t}}}", size=SIZE)
        if i < 3:
            middle = left + wide / 2
            drawing.arrow((middle + 6, 50), (middle + wide + gap - 6, 50), tone="noise")
            drawing.arrow((middle + wide + gap - 6, 240), (middle + 6, 240), tone="data")
    return drawing


def before(point: Point, start: Point) -> Point:
    """Return where an arrow from `start` ends that leads to the dot at a point."""
    away = np.subtract(start, point)
    x, y = np.asarray(point) + 7 * away / np.linalg.norm(away)
    return float(x), float(y)


def guidance(config: ModelConfig) -> Drawing:
    """Draw the predictions without and with the prompt, and what guidance makes of them."""
    w = config.defaults.cfg_scale
    y, sigma = 2, 0.8
    of_class = Mixture(np.ones(1), PLANE.means[y : y + 1], PLANE.stds[y : y + 1])
    x = np.asarray([[-2.0, -1.0]])
    without, given = PLANE.denoise(x, sigma)[0], of_class.denoise(x, sigma)[0]
    guided = classifier_free_guidance(without[None], given[None], w)[0]
    drawing = Drawing(
        "Guidance as vectors, on a mixture of three classes",
        "Three circles are the classes of the data. From the noisy point x, an arrow leads to the "
        "prediction without the prompt, at the nearest class, and another to the prediction with "
        "the prompt, nearer to its class. The arrow from the first to the second prediction, made "
        f"{w:g} times as long, leads to the guided prediction, which is outside of the class on "
        "the side away from the others.",
        392,
    )

    unit = 84.0

    def place(point: np.ndarray) -> Point:
        return 206 + unit * float(point[0]), 124 - unit * float(point[1])

    for i, (mean, std) in enumerate(zip(PLANE.means, PLANE.stds, strict=True)):
        drawing.circle(*place(mean), unit * std, "text" if i == y else "net", dashed=i != y)
    start, a, b, end = map(place, (x[0], without, given, guided))
    for first, last, tone in ((start, a, "net"), (start, b, "text"), (a, end, "data")):
        drawing.arrow(first, before(last, first), tone=tone, dashed=tone == "data")
    for point, tone in ((start, "noise"), (a, "net"), (b, "text"), (end, "data")):
        drawing.dot(*point, tone, 5)
    drawing.text(start[0] - 14, start[1] + 24, "noisy *x*", tone="noise", anchor="start", size=SIZE)
    for left, tone, label in ((84, "net", "without prompt"), (236, "text", "with prompt")):
        drawing.dot(left, 326, tone, 5)
        drawing.text(left + 12, 331, label, tone=tone, anchor="start")
    name = f"guided, *w* = {w:g}"
    drawing.text(end[0] + 12, end[1] + 12, name, tone="data", anchor="start", size=SIZE)
    drawing.text(200, 356, "dashed: the way from “without” to “with”,", tone="muted")
    drawing.text(200, 374, f"made {w:g} times as long", tone="muted")
    return drawing


def samplers(config: ModelConfig) -> Drawing:
    """Draw one path of the probability flow, and three samplers that follow it."""
    del config
    levels = np.linspace(2.0, 0.0, 4)
    start = np.asarray([[-1.8]])
    fine = np.append(karras_sigmas(300, 0.01, 2.0), 0.0)

    def follow(name: str, sigmas: np.ndarray) -> list[tuple[float, float]]:
        run = sample(LINE.denoise, start, sigmas, SAMPLERS[name].make())
        return [(float(sigmas[0]), float(start[0, 0])), *((s.sigma, s.x[0, 0]) for s in run)]

    path = follow("heun", fine)
    tried = (
        ("euler", "Euler: 3 evaluations", "noise", 0),
        ("dpmpp_2m", "DPM-Solver++(2M): 3", "text", 1),
        ("heun", "Heun: 5 evaluations", "data", 2),
    )
    runs = {name: follow(name, levels) for name, *_ in tried}
    errors = {name: abs(run[-1][1] - path[-1][1]) for name, run in runs.items()}
    drawing = Drawing(
        "Three samplers on one path",
        "The exact path of the probability flow from the noise level 2 to 0, and what three "
        "samplers make of it in three equal steps from the same start. Euler's method, straight "
        "along the slope at the start of each step, ends "
        f"{errors['euler']:.2f} away from the path, DPM-Solver++(2M) {errors['dpmpp_2m']:.2f}, and "
        f"Heun's method, with two evaluations per step but the last, {errors['heun']:.2f}.",
        376,
    )

    def place(point: tuple[float, float]) -> Point:
        return 346 - 155 * point[0], 300 - 228 * (point[1] + 1.8)

    drawing.arrow((36, 318), (346, 318), tone="muted", head=False)
    for sigma in levels:
        x, _ = place((float(sigma), 0))
        drawing.arrow((x, 313), (x, 318), tone="muted", head=False)
        drawing.text(x, 336, f"{sigma:.2g}", tone="muted")
    drawing.text(192, 358, "noise level *σ*, from noise to data", tone="muted")
    drawing.text(384, 28, "distance", anchor="end", tone="muted")
    drawing.text(384, 44, "from the path", anchor="end", tone="muted")
    for name, label, tone, row in tried:
        points = [place(p) for p in runs[name]]
        drawing.curve(points, tone, dashed=name != "euler", thin=True)
        for px, py in points[1:]:
            drawing.dot(px, py, tone, 5, hollow=name == "heun")
        drawing.dot(178, 217.5 + 24 * row, tone, 5, hollow=name == "heun")
        drawing.text(194, 222 + 24 * row, label, anchor="start", tone=tone)
        error = f"{errors[name]:.2f}"
        drawing.text(points[-1][0] + 10, points[-1][1] + 4, error, anchor="start", tone=tone)
    drawing.curve([place(p) for p in path], "ink")
    drawing.arrow((170, 289), (186, 289), head=False)
    drawing.text(194, 294, "the exact path", anchor="start")
    end = place(path[-1])
    drawing.dot(*place(path[0]), "ink", 5)
    drawing.dot(*end, "ink", 5)
    drawing.text(end[0] + 10, end[1] + 4, "0", anchor="start")
    return drawing


def flow_paths(data: Mixture, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rising flow times, (k,), and the states of the flow at them, (k, n), from noise (n,).

    The state of the straight path is that of the samplers, divided by 1 + sigma.
    """
    sigmas = np.append(karras_sigmas(60, 0.01, 400.0), 0.0)
    states = [(1.0, noise)]
    for state in sample(data.denoise, sigmas[0] * noise[:, None], sigmas, SAMPLERS["heun"].make()):
        states.append((float(state.sigma / (1 + state.sigma)), state.x[:, 0] / (1 + state.sigma)))
    return np.asarray([t for t, _ in states])[::-1], np.stack([x for _, x in states])[::-1]


def flow(config: ModelConfig) -> Drawing:
    """Draw the lines of random pairs, and the paths of the flow from the same noise."""
    del config
    data = LINE.scaled(float(LINE.covariance()[0, 0] ** -0.5))
    rng = np.random.default_rng(5)
    noise = np.sort(rng.standard_normal(24))
    paired = data.sample(24, rng)[:, 0]
    times = np.linspace(0.0, 1.0, 33)[::-1]
    drawing = Drawing(
        "Lines of pairs, and paths of the flow",
        "Two panels with noise on the left and data on the right. Above, 24 straight lines connect "
        "random noise with random data; they cross everywhere. Below, 24 paths start at the same "
        "noise and follow the mean of all lines through their point. They never cross, bend, and "
        "end in the three clusters of the data.",
        424,
    )

    def place(t: float, x: float, base: float) -> Point:
        return 56 + 288 * (1 - t), base - 30 * x

    drawing.text(200, 28, "lines of random pairs", size=SIZE, strong=True, tone="net")
    for start, end in zip(noise, paired, strict=True):
        drawing.curve([place(1, start, 118), place(0, end, 118)], "net", thin=True)
        drawing.dot(*place(1, start, 118), "noise", 2.5)
        drawing.dot(*place(0, end, 118), "data", 2.5)
    drawing.text(200, 220, "paths of the flow", size=SIZE, strong=True, tone="data")
    at, paths = flow_paths(data, noise)
    for i, start in enumerate(noise):
        points = [place(t, float(np.interp(t, at, paths[:, i])), 308) for t in times]
        drawing.curve(points, "data", thin=True)
        drawing.dot(*place(1, start, 308), "noise", 2.5)
        drawing.dot(*points[-1], "data", 2.5)
    drawing.arrow((56, 388), (344, 388), tone="muted")
    drawing.text(56, 410, "noise, *t* = 1", anchor="start", tone="noise")
    drawing.text(344, 410, "data, *t* = 0", anchor="end", tone="data")
    return drawing


def flow_map(config: ModelConfig) -> Drawing:
    """Draw one path of the flow, its tangent at the noise, and the chords of a flow map."""
    del config
    data = LINE.scaled(float(LINE.covariance()[0, 0] ** -0.5))
    at, states = flow_paths(data, np.asarray([-0.9]))
    path = states[:, 0]
    middle = float(np.interp(0.5, at, path))
    tangent = float(data.mean()[0])  # where one step along the velocity of pure noise ends
    drawing = Drawing(
        "One path, its tangent and its chords",
        "One path of the flow from noise on the left to data on the right. The tangent at the "
        f"noise, one step along the velocity there, ends at the mean of all data, "
        f"{abs(tangent - path[0]):.2f} away from the path's end. The chord from the noise, one "
        "step along the mean velocity, ends where the path ends. So do two chords over half of the "
        "time each.",
        280,
    )

    def place(t: float, x: float) -> Point:
        return 48 + 250 * (1 - t), 62 - 108 * (x + 0.2)

    start, end = place(1, float(path[-1])), place(0, float(path[0]))
    points = [place(t, float(np.interp(t, at, path))) for t in np.linspace(1, 0, 65)]
    drawing.curve(points, "ink")
    drawing.curve([start, place(0, tangent)], "noise", dashed=True)
    drawing.curve([start, end], "data", dashed=True)
    drawing.curve([start, place(0.5, middle), end], "text", dashed=True)
    drawing.dot(*place(0, tangent), "noise", 5)
    drawing.dot(*place(0.5, middle), "text", 5, hollow=True)
    drawing.dot(*start, "ink", 5)
    drawing.dot(*end, "data", 5)
    right = end[0] + 12
    drawing.text(right, place(0, tangent)[1] + 4, "tangent", anchor="start", tone="noise")
    drawing.text(right, end[1] + 4, "chord", anchor="start", tone="data")
    drawing.text(right, end[1] + 22, "two chords", anchor="start", tone="text")
    drawing.arrow((48, 236), (298, 236), tone="muted")
    drawing.text(48, 258, "noise, *t* = 1", anchor="start", tone="noise")
    drawing.text(298, 258, "data, *t* = 0", anchor="end", tone="data")
    return drawing
