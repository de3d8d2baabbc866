"""Write a sampler as one pure step, measure its order, and run it on the embedded model.

    python examples/own_sampler.py

prints the measured order and the size of the generated image.
"""

import numpy as np

import ldmref
from ldmref import modes
from ldmref.math import karras_sigmas
from ldmref.samplers import SAMPLERS, Sampler, sample
from ldmref.testing import three_modes


def geometric_midpoint():
    """Return a step of a second-order Runge-Kutta method.

    It uses the slope at the geometric mean of the two sigmas.
    """

    def step(denoise, x, interval, history, noise):
        sigma = interval.sigma
        sigma_next = interval.sigma_next
        x0 = denoise(x, sigma)
        if sigma_next == 0.0:
            return x0, x0, ()
        middle = (sigma * sigma_next) ** 0.5
        x_middle = x0 + (middle / sigma) * (x - x0)
        slope = (x_middle - denoise(x_middle, middle)) * (1.0 / middle)
        return x + (sigma_next - sigma) * slope, x0, ()

    return step


def measure_order() -> float:
    """Measure the order of convergence on a Gaussian mixture.

    The order is the negative slope of log-error over log-steps; the reference is 4,096 steps of
    Heun's method.
    """
    problem = three_modes()
    x = 10.0 * np.random.default_rng(0).standard_normal((64, 2))

    def end(step, n):
        return list(sample(problem.denoise, x, karras_sigmas(n + 1, 0.2, 10.0), step))[-1].x

    exact = end(SAMPLERS["heun"].make(), 4096)
    counts = [32, 64, 128, 256]
    errors = [np.abs(end(geometric_midpoint(), n) - exact).max() for n in counts]
    return float(-np.polyfit(np.log(counts), np.log(errors), 1)[0])


def main() -> None:
    """Print the order of the sampler, then generate an image with it."""
    print(f"order {measure_order():.2f}")
    mine = Sampler(
        geometric_midpoint,
        order=2,
        nfe=2,
        stochastic=False,
        source="examples/own_sampler.py",
        name="geometric_midpoint",
    )
    model = ldmref.load()
    result = modes.txt2img(model, "red heart", seed=1, sampler=mine, steps=12)
    print("generated", result.images[0].size, "with", result.params["sampler"])


if __name__ == "__main__":
    main()
