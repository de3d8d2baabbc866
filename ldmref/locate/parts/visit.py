"""A recorded call of a part: what it should have returned, and the noise of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ldmref.errors import LdmrefError
from ldmref.locate.recorded.layouts import relative_error
from ldmref.samplers.parts import RunPart

FAILS = (LdmrefError, KeyError, ValueError, IndexError, ArithmeticError, TypeError)
STEP = 1e-4  # the relative change of an input


@dataclass(frozen=True)
class Visit:
    """A visit of a part with recorded inputs.

    Attributes:
        part: The part.
        rule: The object of which its parameters are fields.
        inputs: The arguments of its function.
    """

    part: RunPart
    rule: Any
    inputs: Mapping[str, Any]

    def compute(self) -> tuple[Any, ...]:
        """Return what the function returns."""
        with np.errstate(all="ignore"):
            return self.part.compute(self.rule, **self.inputs)

    def output(self) -> np.ndarray | None:
        """Return the first output; None where the function does not apply."""
        try:
            return np.asarray(self.compute()[0], np.float64)
        except FAILS:
            return None

    def memory(self) -> tuple[Any, ...] | None:
        """Return what the function leaves for the next visit; None where it does not apply."""
        try:
            return self.compute()[1]
        except FAILS:
            return None

    def with_inputs(self, **changes: Any) -> Visit:
        """Return the visit with other inputs."""
        return replace(self, inputs={**self.inputs, **changes})

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """The arrays among the inputs that are recorded by any name."""
        slot = next((slot for slot in self.part.inputs if slot.several), None)
        return {} if slot is None else self.inputs[slot.name]

    def with_arrays(self, **changes: np.ndarray) -> Visit:
        """Return the visit with other arrays."""
        slot = next(slot for slot in self.part.inputs if slot.several)
        return self.with_inputs(**{slot.name: {**self.arrays, **changes}})

    def noise(self, expected: np.ndarray, epsilon: float) -> float:
        """Return the largest error of the output, relative, if every input is rounded.

        To first order: the sum of what a relative change of each input by one unit changes.

        Args:
            expected: The output.
            epsilon: The unit of rounding of the port's number format.
        """
        total = 0.0
        for name, x in self.arrays.items():
            found = self.with_arrays(**{name: x * (1.0 + STEP)}).output()
            total += 0.0 if found is None else relative_error(found, expected) / STEP
        return epsilon * total if np.isfinite(total) else epsilon
