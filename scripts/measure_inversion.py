"""Measure the round trip of data to noise and back, by method and number of steps.

    python scripts/measure_inversion.py

prints the rows of the table in docs/math/samplers.md. The data are those of a mixture of three
Gaussians, whose denoiser is exact, on the path of flow matching between the levels 0.01 and 0.99.
`tests/samplers/test_editing.py` compares the page with this script.
"""

from __future__ import annotations

import numpy as np

from ldmref.samplers import (
    FLOW,
    SAMPLERS,
    Denoiser,
    Step,
    implicit,
    invert,
    sample,
    toward_data,
    toward_noise,
)
from ldmref.testing.mixture import three_modes

STEPS = (10, 20, 40, 80)
COUNT = 64
MIXTURE = three_modes()


def denoise(x: np.ndarray, s: float) -> np.ndarray:
    """Return the mean of the data of the mixture at flow time s, (n, 2)."""
    return MIXTURE.denoise(x / (1.0 - s), s / (1.0 - s))


def measure(
    n: int, up: Step, down: Step, forward: Denoiser = denoise, back: Denoiser = denoise
) -> float:
    """Return the root mean square of what a round trip of n steps changes."""
    levels = np.linspace(0.01, 0.99, n + 1)
    start = levels[0]
    rng = np.random.default_rng(0)
    x = FLOW.noised(MIXTURE.sample(COUNT, rng), rng.standard_normal((COUNT, 2)), start)
    *_, top = invert(forward, x, levels, up, FLOW)
    *_, end = sample(back, top.x, levels[::-1], down, path=FLOW)
    return float(np.sqrt(np.mean((end.x - x) ** 2)))


def methods() -> dict[str, tuple]:
    """Return the arguments of `measure` after the number of steps, by the row's name."""
    rng = np.random.default_rng(0)
    data = MIXTURE.sample(COUNT, rng)
    noise = np.random.default_rng(1).standard_normal((COUNT, 2))
    euler, midpoint, heun = (SAMPLERS[name].make() for name in ("euler", "midpoint", "heun"))
    forward = toward_noise(denoise, noise, 0.5)
    half, most = (toward_data(denoise, data, eta) for eta in (0.5, 0.9))
    return {
        "DDIM inversion (`euler` both ways)": (euler, euler),
        "`implicit(5)`, then `euler`": (implicit(5), euler),
        "`implicit(10)`, then `euler`": (implicit(10), euler),
        "RF-Solver (`midpoint` both ways)": (midpoint, midpoint),
        "`heun` both ways": (heun, heun),
        "RF inversion, gamma 0.5, eta 0": (euler, euler, forward),
        "RF inversion, gamma 0.5, eta 0.5": (
            euler,
            euler,
            forward,
            half,
        ),
        "RF inversion, gamma 0.5, eta 0.9": (
            euler,
            euler,
            forward,
            most,
        ),
    }


def in_words(change: float) -> str:
    """Return a change with two digits; below 1e-12 it is rounding, which depends on the machine."""
    return f"{change:.2g}" if change > 1e-12 else "rounding"


def rows() -> list[str]:
    """Return the rows of the table."""
    return [
        f"| {name} | " + " | ".join(in_words(measure(n, *args)) for n in STEPS) + " |"
        for name, args in methods().items()
    ]


if __name__ == "__main__":
    print("\n".join(rows()))
