"""The converged trajectory of a run, and the error of each of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Truth:
    """The converged trajectory of a run with n steps, and how far the run is from it.

    Args:
        states: The converged states at the noise levels of the run, (n + 1, c, h, w) float32.
        distance: Distance of the run's states from them, (n + 1,) float64.
        local_error: Error of each step alone, (n,) float64.
        change: Largest change of a state by the last refinement, by which convergence is judged.
    """

    states: np.ndarray = field(repr=False)
    distance: np.ndarray
    local_error: np.ndarray
    change: float

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the tensors of a record."""
        return {
            "truth": self.states,
            "truth_distance": self.distance,
            "local_error": self.local_error,
        }

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]
    ) -> Truth | None:
        """Return the truth of a record's tensors; None if it has none."""
        if "truth" not in tensors:
            return None
        described = meta.get("truth") or {}
        return cls(
            tensors["truth"],
            tensors["truth_distance"],
            tensors["local_error"],
            float(described.get("change", float("nan"))),
        )
