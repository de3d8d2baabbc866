"""Stochastic flow samplers: what more steps lead to, on Gaussian data and on two modes."""

import numpy as np

from ldmref import math as lm
from ldmref.testing.flow_chains import LAWS, TwoModes, run_chain, shifted_times

SHOWN = {
    "Euler (ODE)": "C0",
    "Flow-GRPO": "C1",
    "DDPM posterior": "C2",
    "CPS": "C3",
    "stochastic_sampling": "C4",
}


def plot(figure) -> None:
    left, middle, right = figure.subplots(1, 3)
    counts = np.unique(np.geomspace(4, 4000, 25).astype(int))
    for name, color in SHOWN.items():
        variances = []
        for n in counts:
            times = shifted_times(int(n), 3.0)
            variances.append(lm.flow_chain_moments(LAWS[name](times), times, 0.0, 1.0)[1])
        left.semilogx(counts, variances, color, label=name)
    for level in (0.7, 1.0):
        left.axhline(1 / lm.tempering_exponent(level), color="0.6", ls=":")
    left.axhline(1, color="0.6", ls=":")
    left.set(xlabel="steps", title="final variance (data: 1)")
    left.legend(fontsize=7)

    times = shifted_times(50, 3.0)
    for name, color in SHOWN.items():
        law = LAWS[name](times)
        worst = []
        for i in range(2, len(times)):
            s = times[i - 1]
            _, variance = lm.flow_chain_moments(law, times[:i], 0.0, 0.25)
            worst.append(variance / ((1 - s) ** 2 * 0.25 + s * s))
        middle.plot(times[1:-1], worst, color)
    middle.set(xlabel="s", title="variance / true variance, 50 steps", xlim=(1, 0))

    data = TwoModes()
    grid = np.linspace(-2, 2, 400)
    rng = np.random.default_rng(0)
    for name in ("Euler (ODE)", "stochastic_sampling"):
        x = run_chain(LAWS[name], shifted_times(400, 1.0), data, 20_000, rng)
        right.hist(x, 60, (-2, 2), density=True, histtype="step", color=SHOWN[name], label=name)
    for power, style in ((1.0, "k-"), (2.0, "k:")):
        right.plot(grid, data.powered(power, grid), style, label=f"$p^{{{power:g}}}$, normalised")
    right.set(xlabel="x", title="400 steps, a perfect model")
    right.legend(fontsize=7)
