"""Cases of what runs on the host: numbers and text in JSON, with tolerances by perturbation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ldmref.cases.model import CaseTensor, GoldenCase
from ldmref.cases.parameters import random_stream

UNITS = {"float64": 2.0**-53, "float32": 2.0**-24}  # unit roundoffs
RUNS = 4  # with perturbed inputs
PERTURBED = 2.0  # units by which each input is changed at most
SAFETY = 4.0  # factor on the largest deviation
NAMES = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}

NamedArrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class ValueCase:
    """A computation on the host with its inputs.

    Args:
        name: Name of the case, `PART.NAME`.
        part: Part of the suite.
        kind: The function, sampler, schedule or tokenizer.
        attributes: Arguments that are not arrays, as JSON.
        inputs: Arrays of float64, int64 or text.
        compute: `compute(inputs)` -> outputs by name.
        roundings: Number of roundings of results of the size of the largest one (`relative`: of
            each one), which the tolerance allows in addition to
            the perturbed inputs.
        relative: Whether the elements of an output are of very different size and each has a
            relative tolerance.
        perturb: Whether the inputs of floats are perturbed.
        absolute: Further absolute errors of outputs by name, in units of roundoff.
    """

    name: str
    part: str
    kind: str
    attributes: Mapping[str, Any]
    inputs: NamedArrays = field(repr=False)
    compute: Callable[[NamedArrays], NamedArrays] = field(repr=False)
    roundings: float = 16.0
    relative: bool = False
    perturb: bool = True
    absolute: Mapping[str, float] = field(default_factory=dict)

    def solve(self) -> tuple[GoldenCase, dict[str, np.ndarray]]:
        """Compute the case: its row of the manifest, and its outputs."""
        outputs = {name: as_stored(y) for name, y in self.compute(self.inputs).items()}
        changes = self._changes(outputs) if self.perturb else dict.fromkeys(outputs, (0.0, 0.0))
        described = tuple(
            CaseTensor(name, dtype_of(y), y.shape, self._tolerance(name, y, *changes[name]))
            for name, y in outputs.items()
        )
        inputs = tuple(CaseTensor(name, dtype_of(x), x.shape) for name, x in self.inputs.items())
        basis = "propagated" if any(x.tolerance for x in described) else "exact"
        path = f"values/{self.part}.json"
        case = GoldenCase(
            self.name, self.part, self.kind, path, inputs, described, self.attributes, (), basis
        )
        return case, outputs

    def _changes(self, outputs: NamedArrays) -> dict[str, tuple[float, float]]:
        """Return the largest change of each output, absolute and relative, per unit roundoff."""
        unit = 2.0**-40  # far above the roundings of float64, and small enough to be linear
        largest = {name: [0.0, 0.0] for name in outputs}
        for run in range(RUNS):
            stream = random_stream(f"{self.name}/perturbed/{run}")
            inputs = {
                name: x * (1.0 + PERTURBED * unit * stream.uniform(-1.0, 1.0, x.shape))
                if x.dtype.kind == "f"
                else x
                for name, x in self.inputs.items()
            }
            for name, y in self.compute(inputs).items():
                old = outputs[name]
                if old.dtype.kind != "f":
                    continue
                with np.errstate(divide="ignore", invalid="ignore"):
                    change = np.abs(as_stored(y) - old)
                    ratio = change / np.abs(old)
                for i, values in enumerate((change, ratio)):
                    found = float(np.max(values[np.isfinite(values)], initial=0.0)) / unit
                    largest[name][i] = max(largest[name][i], found)
        return {name: (absolute, ratio) for name, (absolute, ratio) in largest.items()}

    def _tolerance(
        self, name: str, y: np.ndarray, absolute: float, ratio: float
    ) -> dict[str, tuple[float, float]]:
        """Return (atol, rtol) by dtype: changes of the inputs, and roundings of the result."""
        if y.dtype.kind != "f":
            return {}
        finite = np.abs(y[np.isfinite(y)])
        scale = float(np.max(finite, initial=0.0))
        atol = self.absolute.get(name, 0.0)
        rtol = 0.0
        if self.relative:
            rtol = self.roundings + SAFETY * ratio
        else:
            atol += self.roundings * scale + SAFETY * absolute
        return {
            dtype: (float(f"{atol * u:.2e}"), float(f"{rtol * u:.2e}"))
            for dtype, u in UNITS.items()
        }


def as_stored(x: object) -> np.ndarray:
    """Return an array of float64, int64 or text."""
    array = np.asarray(x)
    if array.dtype.kind == "f":
        return array.astype(np.float64)
    return array if array.dtype.kind == "U" else array.astype(np.int64)


def dtype_of(x: np.ndarray) -> str:
    """Return the name of the dtype of a stored array."""
    return {"f": "float64", "i": "int64", "U": "string"}[x.dtype.kind]


def to_json(x: np.ndarray) -> dict[str, Any]:
    """Return an array as JSON: dtype, shape and data in C order; text for infinity and NaN."""
    data = x.reshape(-1).tolist()
    if x.dtype.kind == "f":
        data = [v if math.isfinite(v) else str(v) for v in data]
    return {"dtype": dtype_of(x), "shape": list(x.shape), "data": data}


def from_json(value: object) -> np.ndarray:
    """Read an array of `to_json`, or nested lists of numbers.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(value, Mapping):
        shape = tuple(value["shape"])
        return _numbers(value["data"]).reshape(shape)
    return _numbers(value)


def _numbers(data: object) -> np.ndarray:
    array = np.asarray(data)
    if array.dtype.kind in "fib":
        return as_stored(array)
    if array.dtype.kind == "U" and not set(array.reshape(-1).tolist()) - set(NAMES):
        return array.astype(np.float64)
    if array.dtype.kind == "U" and isinstance(data, list):
        numbers = [NAMES.get(v, v) if isinstance(v, str) else v for v in data]
        if all(isinstance(v, int | float) for v in numbers):
            return np.asarray(numbers, np.float64)
        if all(isinstance(v, str) for v in data):
            return array
    raise ValueError("an array is a list of numbers, or {dtype, shape, data}")
