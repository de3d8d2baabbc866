"""Measure the order of every sampler on the path of flow matching, for docs/math/samplers.md.

    python scripts/measure_flow_orders.py

The problem is a Gaussian mixture in two dimensions, whose denoiser is known; the end of its flow is
computed by SciPy's DOP853. Two runs: from half noise, and from pure noise, where log-SNR is
infinite. Levels are evenly spaced in flow time.
"""

from __future__ import annotations

import numpy as np
from scipy.integrate import solve_ivp

from ldmref.samplers import FLOW, SAMPLERS, Sampler, Step, on_ratio, sample
from ldmref.testing.mixture import three_modes

END = 0.09
PROBLEM = three_modes()


def denoise(x: np.ndarray, s: float) -> np.ndarray:
    """Return E[x0 | x] on the path."""
    if s > 1.0 - 1e-12:
        return np.broadcast_to(PROBLEM.mean(), x.shape)
    return PROBLEM.denoise(x / (1.0 - s), s / (1.0 - s))


def deterministic_step(sampler: Sampler) -> Step | None:
    """Return the deterministic form of a sampler; None if it does not solve the flow."""
    if not sampler.order or (sampler.stochastic and sampler.eta is None):
        return None
    step = sampler.make() if sampler.eta is None else sampler.make(eta=0.0)
    return step if sampler.straight else on_ratio(step)


def measure(step: Step, first: float, counts: tuple[int, ...]) -> float:
    """Return the slope of log error against log number of steps."""
    stream = np.random.default_rng(0)
    x0 = PROBLEM.sample(32, stream)
    start = (1.0 - first) * x0 + first * stream.standard_normal(x0.shape)

    def slope(s: float, flat: np.ndarray) -> np.ndarray:
        x = flat.reshape(start.shape)
        return ((x - denoise(x, s)) / s).ravel()

    solved = solve_ivp(slope, (first, END), start.ravel(), "DOP853", rtol=1e-12, atol=1e-13)
    end = solved.y[:, -1].reshape(start.shape)
    errors = []
    for n in counts:
        *_, last = sample(denoise, start, np.linspace(first, END, n + 1), step, path=FLOW)
        errors.append(np.abs(last.x - end).max())
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


def counts_of(name: str) -> tuple[int, ...]:
    """Return the numbers of steps: few for a high order, whole blocks for a singlestep method."""
    if name == "rk4":
        return 16, 32, 64
    return (63, 126, 252) if name.endswith("3_singlestep") else (128, 256, 512)


def main() -> None:
    """Print the table."""
    print("| name | runs | order | between levels | from pure noise |\n|---|---|---|---|---|")
    for name, sampler in SAMPLERS.items():
        step = deterministic_step(sampler)
        if step is None or sampler.adaptive:
            continue
        runs = "by its slope" if sampler.straight else "in log-SNR"
        found = [measure(step, first, counts_of(name)) for first in (0.5, 1.0)]
        print(f"| `{name}` | {runs} | {sampler.order} | {found[0]:.2f} | {found[1]:.2f} |")


if __name__ == "__main__":
    main()
