r"""The probability-flow ODE of a guided denoiser, solved until it no longer changes.

In x = x0 + sigma eps the ODE is dx/dsigma = (x - D(x, sigma)) / sigma. In variance-preserving
scale, z = x / sqrt(1 + sigma^2), with the angle theta = arctan sigma, it is

.. math:: \frac{dz}{d\theta} = \cos\theta\,\frac{x - D}{\sigma} - \sin\theta\,D, \qquad
          D = D(x, \sigma)

whose right-hand side, the velocity v, stays of order 1 from pure noise down to sigma = 0. It is
solved by Heun's method of order 3, which never evaluates the end of a step and so reaches
sigma = 0. Steps are evenly spaced in arsinh sigma: as log sigma where sigma is large, as sigma
where it is small.

Source: Song et al. 2021, arXiv:2011.13456, eq. 13, in these coordinates; v as in Salimans, Ho 2022,
arXiv:2202.00512, appendix D; Heun 1900, the method with nodes 0, 1/3 and 2/3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ldmref.errors import Cancelled
from ldmref.math.arrays import Array
from ldmref.modes.generate import CancelFlag
from ldmref.modes.trajectory import RunObserver
from ldmref.samplers.denoiser import Evaluation
from ldmref.samplers.path import VE, NoisePath

Denoise = Callable[[Array, float], Array]
EVALUATIONS = 3  # of a step


class FlowProgress(NamedTuple):
    """How far a solution is: `step` of `steps` evaluations, which a refinement increases."""

    step: int
    steps: int


class FlowWatch(RunObserver):
    """Counts the evaluations of a trajectory's denoiser for a callback; stops at a cancel flag.

    Args:
        callback: Called with a `FlowProgress` after every step of the solver.
        cancel: A `threading.Event`.
    """

    def __init__(
        self,
        callback: Callable[[FlowProgress], Any] | None = None,
        cancel: CancelFlag | None = None,
    ):
        self.callback = callback
        self.cancel = cancel
        self.done = 0
        self.planned = 0

    def plan(self, steps: int) -> None:
        """Announce steps of the solver."""
        self.planned += EVALUATIONS * steps

    def evaluated(self, evaluation: Evaluation) -> None:
        """Count an evaluation, and report the step of the solver that ends with it.

        Raises:
            Cancelled: The flag is set.
        """
        self.done += 1
        if self.done % EVALUATIONS:
            return
        if self.callback is not None:
            self.callback(FlowProgress(self.done, self.planned))
        if self.cancel is not None and self.cancel.is_set() and self.done < self.planned:
            raise Cancelled("stopped between two steps", code="E-CANCELLED")


class Accuracy(NamedTuple):
    """When an interval is solved.

    Args:
        tolerance: The largest change of its end.
        refine: The largest number of its substeps, which is accepted as it is.
    """

    tolerance: float
    refine: int


class Solution(NamedTuple):
    """States at some noise levels.

    Args:
        states: One per level.
        changes: For each interval between two levels, the change of its end by the last
            refinement.
        substeps: For each interval, the steps of the solver.
    """

    states: list[Array]
    changes: list[float]
    substeps: list[int]


def velocity(denoise: Denoise, z: Array, theta: float) -> Array:
    """Return dz/dtheta at an angle above 0; z is in variance-preserving scale."""
    sigma = math.tan(theta)
    x = z / math.cos(theta)
    x0 = denoise(x, sigma)
    return math.cos(theta) * ((x - x0) / sigma) - math.sin(theta) * x0


def heun3_step(denoise: Denoise, z: Array, theta: float, theta_next: float) -> Array:
    """Take a step of Heun's method of order 3, with nodes 0, 1/3 and 2/3."""
    h = theta_next - theta
    k1 = velocity(denoise, z, theta)
    k2 = velocity(denoise, z + (h / 3) * k1, theta + h / 3)
    k3 = velocity(denoise, z + (2 * h / 3) * k2, theta + 2 * h / 3)
    return z + (h / 4) * (k1 + 3.0 * k3)


def solve_interval(
    denoise: Denoise,
    x: Array,
    sigma: float,
    sigma_next: float,
    substeps: int,
    path: NoisePath = VE,
) -> Array:
    """Return the state at `sigma_next` of the flow through x at `sigma`.

    Args:
        denoise: `denoise(x, sigma) -> x0`.
        x: The state at `sigma`.
        sigma, sigma_next: Noise levels; the second is smaller, and may be 0.
        substeps: Steps of the solver.
        path: The path of x and the levels.
    """
    first = path.ratio(sigma)
    last = path.ratio(sigma_next)
    spaced = np.sinh(np.linspace(math.asinh(first), math.asinh(last), substeps + 1))
    thetas = np.arctan([first, *spaced[1:-1], last]).tolist()
    inner = denoise if path is VE else lambda x, ratio: denoise(*path.from_ratio(x, ratio))
    z = x * (math.cos(thetas[0]) if path is VE else 1.0 / path.spread(sigma))
    for theta, theta_next in pairwise(thetas):
        z = heun3_step(inner, z, theta, theta_next)
    return z / math.cos(thetas[-1]) if path is VE else z * path.spread(sigma_next)


def converge(
    denoise: Denoise,
    x: Array,
    sigmas: Sequence[float],
    accuracy: Accuracy,
    distance: Callable[[Array, Array, float], float],
    watch: FlowWatch | None = None,
    path: NoisePath = VE,
) -> Solution:
    """Solve the flow from x through noise levels until it no longer changes.

    Each interval is solved with 1, 2, 4, ... substeps until the last doubling changes its end by at
    most the tolerance; the next interval begins there. The sum of all changes is a pessimistic
    bound of the error as far as the flow does not amplify it: the method has order 3.

    Args:
        denoise, x: As for `solve_interval`.
        sigmas: Decreasing noise levels, (n + 1,); the last may be 0.
        accuracy: When an interval is solved.
        distance: `distance(a, b, sigma)` between two states.
        watch: The observer of `denoise`, which learns how many evaluations come.
        path: The path of x and the levels.
    """
    watch = watch or FlowWatch()
    solution = Solution([x], [], [])
    watch.plan(3 * (len(sigmas) - 1))
    for sigma, sigma_next in pairwise(sigmas):
        start = solution.states[-1]
        coarse = solve_interval(denoise, start, sigma, sigma_next, 1, path)
        substeps = 2
        while True:
            fine = solve_interval(denoise, start, sigma, sigma_next, substeps, path)
            change = distance(coarse, fine, sigma_next)
            if not change > accuracy.tolerance or 2 * substeps > accuracy.refine:
                break
            coarse = fine
            substeps = 2 * substeps
            watch.plan(substeps)
        solution.states.append(fine)
        solution.changes.append(change)
        solution.substeps.append(substeps)
    return solution
