"""Flow maps: jumps on the paths of the ODE, average velocities, and the variance of few steps."""

import numpy as np

from ldmref import math as lm
from ldmref.testing.flow_chains import flow_map_law, shifted_times

MEAN, VARIANCE = 1.5, 0.25


def average(x, t, r):
    """Return the exact average velocity."""
    return lm.gaussian_average_velocity(x, t, r, MEAN, VARIANCE)


def plot(figure) -> None:
    left, middle, right = figure.subplots(1, 3)
    times = np.linspace(0, 1, 200)
    for n, start in enumerate((-1.5, -0.7, 0.0, 0.7, 1.5)):
        path = [lm.gaussian_flow_map(start, 1.0, t, MEAN, VARIANCE) for t in times]
        left.plot(times, path, f"C{n}", lw=1)
        half = lm.flow_map_step(start, average(start, 1.0, 0.5), 1.0, 0.5)
        ends = [start, half, lm.flow_map_step(half, average(half, 0.5, 0.0), 0.5, 0.0)]
        left.plot([1, 0.5, 0], ends, f"C{n}o--", lw=1, ms=4)
        middle.plot(times, [average(start, 1.0, r) for r in times], f"C{n}")
        middle.plot([1], [lm.gaussian_flow_velocity(start, 1.0, MEAN, VARIANCE)], f"C{n}o", ms=4)
    left.set(xlabel="t", title="paths, and two steps of the map", xlim=(1.03, -0.03))
    middle.set(xlabel="r", title="u(x, 1, r); at r = 1 the velocity", xlim=(1.03, 0))

    counts = np.unique(np.geomspace(1, 1000, 25).astype(int))
    for name, distilled, color in (("exact map", True, "C0"), ("velocity", False, "C3")):
        for eta, style in ((0.0, "-"), (0.3, "--"), (1.0, ":")):
            law = flow_map_law(MEAN, VARIANCE, eta, distilled)
            variances = [
                lm.flow_chain_moments(law, shifted_times(int(n)), MEAN, VARIANCE)[1] for n in counts
            ]
            right.semilogx(counts, variances, color + style, label=f"{name}, $\\eta$ = {eta:g}")
    right.axhline(VARIANCE, color="0.6", lw=0.5)
    right.set(xlabel="steps", title="final variance (data: 0.25)")
    right.legend(fontsize=7)
