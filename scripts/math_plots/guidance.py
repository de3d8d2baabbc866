"""Guidance: the effect of the scale on a density with known classes."""

import numpy as np

from ldmref import math as lm
from ldmref.testing.mixture import three_modes


def plot(figure) -> None:
    data = three_modes()
    sigma = 0.6
    k = 0
    side = np.linspace(-3, 3, 121)
    grid = np.stack(np.meshgrid(side, side, indexing="xy"), axis=-1).reshape(-1, 2)
    coarse = np.linspace(-2.6, 2.6, 12)
    points = np.stack(np.meshgrid(coarse, coarse, indexing="xy"), axis=-1).reshape(-1, 2)
    gradient = data.posterior_gradient(points, sigma) / data.posterior(points, sigma)[..., None]
    for axes, scale in zip(figure.subplots(1, 3), (0.0, 1.0, 6.0), strict=True):
        log_p = data.log_density(grid, sigma) + scale * np.log(data.posterior(grid, sigma)[:, k])
        p = np.exp(log_p - log_p.max()).reshape(121, 121)
        axes.contourf(side, side, p, levels=np.linspace(0.02, 1, 12), cmap="Blues")
        score = lm.classifier_guidance(data.score(points, sigma), gradient[:, k], scale)
        length = np.linalg.norm(score, axis=1, keepdims=True)
        arrow = score / np.sqrt(length)  # shortened, because the longest would hide the others
        axes.quiver(*points.T, *arrow.T, scale=45, width=0.004)
        axes.plot(*data.means.T, "kx")
        axes.plot(*data.means[k], "r*", ms=11)
        axes.set(title=f"$p(x)\\, p(y \\mid x)^w$, w = {scale:g}", aspect="equal")
