"""The distance between states, and the distances of a run from its converged trajectory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ldmref.samplers.path import VE, NoisePath


@dataclass(frozen=True, eq=False)
class Truth:
    """The converged trajectory of a run with n steps, and how far the run is from it.

    Args:
        states: The converged states at the noise levels of the run, (n + 1, c, h, w) float32.
        distance: Distance d of the run's states from them, (n + 1,) float64.
        local_error: Error e of each step alone, (n,) float64.
        description: How they were computed, JSON-able: `change` (the largest change of the end of
            an interval by its last refinement), `total_change` (the sum over all intervals),
            `tolerance`, `converged`, `substeps` (of each interval), `evaluations` of the denoiser,
            `stochastic` (whether the sampler adds noise).

    >>> import ldmref
    >>> from ldmref import explore
    >>> model = ldmref.random_model("tiny")
    >>> record = explore.record_run(model, prompt="a red cat", seed=1, steps=3)
    >>> truth = explore.truth_line(model, record, tolerance=0.5)
    >>> truth.states.shape, truth.description["stochastic"]
    ((4, 4, 8, 8), False)
    """

    states: np.ndarray = field(repr=False)
    distance: np.ndarray
    local_error: np.ndarray
    description: dict[str, Any]

    @property
    def converged(self) -> bool:
        """Whether the last refinements changed no interval by more than the tolerance."""
        return bool(self.description.get("converged"))


def vp_distance(a: np.ndarray, b: np.ndarray, sigma: float, path: NoisePath = VE) -> float:
    r"""Return the root-mean-square distance of two states in variance-preserving scale.

    .. math:: d = \sqrt{\frac{\lVert a - b \rVert^2}{N (\alpha^2 + \sigma^2)}}

    with N the number of elements. Latents have a variance of about 1, so 0.1 is a tenth of it in
    every element on average.
    """
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return float(np.sqrt(np.mean(difference**2) / (path.alpha(sigma) ** 2 + sigma**2)))
