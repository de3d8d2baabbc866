"""The forward process in two coordinate systems, and EDM's scaling."""

from itertools import pairwise

import numpy as np

from ldmref import math as lm
from ldmref.testing.mixture import Mixture


def plot(figure) -> None:
    curved, straight, scaling = figure.subplots(1, 3)
    data = Mixture(np.asarray([0.6, 0.4]), np.asarray([[-1.0], [1.5]]), np.asarray([0.15, 0.25]))
    s = np.linspace(0.01, 0.99, 200)
    x = np.linspace(-3, 3, 241)

    def densities(scale, noise):
        p = [data.scaled(a).density(x[:, None], b) for a, b in zip(scale, noise, strict=True)]
        return np.stack(p, axis=1)

    alpha_bar = lm.alpha_bar_from_flow_time(s)
    images = {
        curved: densities(np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)),
        straight: densities(1 - s, s),
    }
    for axes, p in images.items():
        axes.imshow(p**0.5, origin="lower", extent=(0.01, 0.99, -3, 3), aspect="auto", cmap="Blues")

    # the probability flow dx/dsigma = (x - E[x0 | x]) / sigma, integrated once, plotted in both
    sigmas = lm.sigma_from_flow_time(s[::-1])
    paths = [sigmas[0] * np.linspace(-1.8, 1.8, 9)[:, None]]
    for now, after in pairwise(sigmas):
        point = paths[-1]
        slope = (point - data.denoise(point, now)) / now
        predicted = point + (after - now) * slope
        slope = 0.5 * (slope + (predicted - data.denoise(predicted, after)) / after)
        paths.append(point + (after - now) * slope)
    path = np.concatenate(paths, axis=1)  # in the coordinates x0 + sigma eps
    curved.plot(s[::-1], (path * np.sqrt(lm.alpha_bar_from_sigma(sigmas))).T, "k", lw=0.8)
    straight.plot(s[::-1], (path * (1 - s[::-1])).T, "k", lw=0.8)
    for axes, title in ((curved, "variance preserving"), (straight, "flow matching")):
        axes.set(title=title, xlabel="flow time $t$", ylim=(-3, 3))

    sigma = np.geomspace(0.01, 100, 200)
    for name, value in lm.edm_preconditioning(sigma)._asdict().items():
        if name != "c_noise":
            scaling.semilogx(sigma, value, label=rf"$c_{{{name[2:]}}}$")
    scaling.set(title=r"EDM, $\sigma_{data} = 0.5$", xlabel=r"$\sigma$")
    scaling.legend()
