"""The activations, the errors of GELU's approximations, and the time embedding."""

import numpy as np

from ldmref import math as lm


def plot(figure) -> None:
    shapes, errors, waves = figure.subplots(1, 3)

    x = np.linspace(-4, 3, 701)
    for name in ("silu", "gelu", "quick_gelu"):
        shapes.plot(x, getattr(lm, name)(x), label=name)
    shapes.plot(x, lm.sigmoid(x), "k:", lw=1, label="sigmoid")
    shapes.axhline(0, color="0.8", lw=0.8, zorder=0)
    shapes.set(title="activations", xlabel="x", ylim=(-0.5, 2.5))
    shapes.legend(frameon=False)

    x = np.linspace(-7, 7, 2001)
    for name, colour in (("quick_gelu", "tab:green"), ("gelu_tanh", "tab:purple")):
        error = abs(getattr(lm, name)(x) - lm.gelu(x))
        errors.semilogy(x, error, color=colour, label=f"{name}, at most {error.max():.2g}")
    errors.set(title="distance from gelu", xlabel="x", ylim=(1e-7, 1))
    errors.legend(frameon=False, loc="upper left")

    t = np.arange(0.0, 1000.0, 2.0)
    image = waves.imshow(
        lm.timestep_embedding(t, 64), aspect="auto", cmap="RdBu", extent=(0, 64, 1000, 0)
    )
    waves.axvline(32, color="k", lw=0.8)
    waves.set(title="timestep_embedding: cosines | sines", xlabel="component", ylabel="t")
    figure.colorbar(image, ax=waves)
