"""Evaluation: PSNR and SSIM of degraded images, and two distances over the size of the sample."""

import numpy as np

from ldmref import math as lm


def plot(figure) -> None:
    left, middle, right = figure.subplots(1, 3)
    rng = np.random.default_rng(0)
    side = np.linspace(-1, 1, 64)
    x = np.sin(9 * side)[:, None] * np.cos(7 * side)[None, :] * np.ones((1, 1, 64, 64))
    noise = rng.standard_normal(x.shape)
    amounts = np.linspace(0.02, 0.5, 25)
    for name, degrade in (
        ("noise", lambda a: x + a * noise),
        ("brighter", lambda a: x + a),
        ("less contrast", lambda a: (1 - a) * x),
    ):
        pairs = [
            (lm.psnr(x, degrade(a))[0], lm.structural_similarity(x, degrade(a))[0]) for a in amounts
        ]
        left.plot(*zip(*pairs, strict=True), label=name)
    left.set(xlabel="PSNR (dB)", ylabel="SSIM")
    left.legend()
    sizes = [20, 40, 80, 160, 320, 640]
    frechet = []
    kernel = []
    for n in sizes:
        pairs_of_samples = [[rng.standard_normal((n, 16)) for _ in range(2)] for _ in range(20)]
        frechet.append([lm.frechet_distance(*moments(a), *moments(b)) for a, b in pairs_of_samples])
        kernel.append([lm.kernel_distance(a, b) for a, b in pairs_of_samples])
    for axes, values, name in ((middle, frechet, "Frechet"), (right, kernel, "kernel")):
        mean = np.mean(values, axis=1)
        spread = np.std(values, axis=1)
        axes.fill_between(sizes, mean - spread, mean + spread, alpha=0.3)
        axes.plot(sizes, mean)
        axes.axhline(0, color="k", lw=0.5)
        axes.set(xscale="log", xlabel="examples of each", ylabel=f"{name} distance")
        axes.minorticks_off()
        axes.set_xticks(sizes, [str(n) for n in sizes])


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.mean(axis=0), np.cov(x, rowvar=False)
