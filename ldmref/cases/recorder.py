"""Record every layer of a network: its inputs in float32, its result in float64, its tolerance."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ldmref.backends.base import Backend
from ldmref.backends.bounds import OPERATIONS, basis, error_bound
from ldmref.backends.named import PARAMETER_ARGUMENTS, LayerCall, NamedBackend
from ldmref.backends.numpy import NumpyBackend
from ldmref.cases.parameters import random_stream
from ldmref.models.params import tree_map

RUNS = 3  # with random errors
SAFETY = 2.0  # factor on the largest deviation of these runs
U = 2.0**-24  # unit roundoff of float32
DTYPE = "float32"


@dataclass(frozen=True)
class RecordedLayer:
    """A layer, as a case needs it.

    Attributes:
        name: The module path, with a number if it occurs again.
        kind: The operation ("conv2d") or the function of ldmref.models ("resnet_block").
        inputs: Inputs by role, float32 or int64.
        attributes: Arguments that are not arrays.
        outputs: Results in float64.
        tolerances: The largest absolute error that float32 arithmetic explains, per output.
        basis: "derived", "calibrated" or "propagated".
    """

    name: str
    kind: str
    inputs: dict[str, np.ndarray] = field(repr=False)
    attributes: dict[str, Any]
    outputs: tuple[np.ndarray, ...] = field(repr=False)
    tolerances: tuple[float, ...]
    basis: str


class LayerCollector(NamedBackend):
    """Compute a network in float64 and record the layers in `wanted`.

    Args:
        wanted: Names of layers; None: all.
    """

    def __init__(self, wanted: Collection[str] | None = None):
        super().__init__(NumpyBackend(dtype="float64"))
        self.wanted = wanted
        self.layers: list[RecordedLayer] = []
        self._bounds: dict[str, np.ndarray | float] = {}
        self._alone = False
        self._random: np.random.Generator | None = None

    def visit(self, call: LayerCall) -> Any:
        """Compute a layer and record it; within a recorded layer, add random errors if asked."""
        y = call.compute(call.inputs)
        if self._alone:
            if self._random is None or call.composite:
                return y
            if call.name not in self._bounds:
                self._bounds[call.name] = bound_of(call, y)
            return y + self._random.uniform(-1.0, 1.0, y.shape) * self._bounds[call.name]
        if self.wanted is None or call.name in self.wanted:
            self.layers.append(self._record(call))
        return y

    def _record(self, call: LayerCall) -> RecordedLayer:
        inputs = {role: stored(x) for role, x in call.inputs.items()}
        wide = {role: widened(x) for role, x in inputs.items()}

        def compute() -> np.ndarray:
            return call.compute(wide)

        (y,) = self.compute_alone(call.name, compute)
        if call.composite:
            (tolerance,) = self.propagate(call.name, compute, (y,))
            reason = "propagated"
        else:
            tolerance = float(np.max(bound_of(call, y, wide), initial=0.0)) + largest_rounding(y)
            reason = basis(call.kind) if call.kind in OPERATIONS else "propagated"
        attributes = {k: v for k, v in call.attributes.items() if not callable(v)}
        return RecordedLayer(call.name, call.kind, inputs, attributes, (y,), (tolerance,), reason)

    def compute_alone(self, name: str, compute: Callable[[], Any]) -> tuple[np.ndarray, ...]:
        """Compute a layer or a network without recording the layers within it."""
        self._alone = True
        try:
            with self.observed(name):
                return flat(compute())
        finally:
            self._alone = False

    def propagate(
        self, name: str, compute: Callable[[], Any], exact: tuple[np.ndarray, ...]
    ) -> tuple[float, ...]:
        """Return the tolerance of each result of a layer of several operations.

        The bound of each operation times a uniform random number in [-1, 1] is added to its result,
        and the layer goes on from there, as in stochastic arithmetic. SAFETY times the largest
        deviation of RUNS such runs, and the rounding of the result, are the tolerance.
        """
        largest = [0.0] * len(exact)
        for run in range(RUNS):
            self._random = random_stream(f"{name}/errors/{run}")
            try:
                disturbed = self.compute_alone(name, compute)
            finally:
                self._random = None
            for i, (y, z) in enumerate(zip(exact, disturbed, strict=True)):
                largest[i] = max(largest[i], float(np.max(np.abs(z - y), initial=0.0)))
        pairs = zip(largest, exact, strict=True)
        return tuple(SAFETY * error + largest_rounding(y) for error, y in pairs)


def compute_network(
    function: Callable[..., Any],
    params: Mapping[str, Any],
    settings: Mapping[str, Any],
    inputs: Mapping[str, np.ndarray],
    wanted: Collection[str] | None = None,
) -> tuple[tuple[np.ndarray, ...], tuple[float, ...], list[RecordedLayer]]:
    """Return the results of a network in float64, their tolerances, and its recorded layers."""
    recorder = LayerCollector(wanted)
    wide_params = tree_map(widened, params)
    wide = {name: widened(x) for name, x in inputs.items()}
    network = recorder.compile(function, wide_params)

    def compute() -> Any:
        return network(**settings, **wide)

    exact = flat(compute())
    tolerances = recorder.propagate(function.__name__, compute, exact)
    return exact, tolerances, recorder.layers


def bound_of(
    call: LayerCall, y: np.ndarray, inputs: Mapping[str, np.ndarray] | None = None
) -> np.ndarray | float:
    """Bound the error of one operation in float32.

    A function without operations (`timestep_embedding`) errs by what four roundings of its inputs
    change, and by four roundings of its result.
    """
    inputs = call.inputs if inputs is None else inputs
    if call.kind not in OPERATIONS:
        up = call.compute({role: x * (1.0 + 4.0 * U) for role, x in inputs.items()})
        down = call.compute({role: x * (1.0 - 4.0 * U) for role, x in inputs.items()})
        return np.abs(up - down) + 4.0 * U * np.max(np.abs(y), initial=0.0)
    names = list(inspect.signature(getattr(Backend, call.kind)).parameters)[1:]
    first = next(name for name in names if name not in PARAMETER_ARGUMENTS)
    values = {first if role == "input" else role: x for role, x in inputs.items()}
    values |= dict(call.parameters) | dict(call.attributes)
    arrays = [values.pop(name) for name in names if hasattr(values.get(name), "shape")]
    return error_bound(call.kind, tuple(arrays), values, DTYPE, y)


def largest_rounding(y: np.ndarray) -> float:
    """Return the largest error of storing a result in float32."""
    return float(U * np.max(np.abs(y), initial=0.0))


def stored(x: np.ndarray) -> np.ndarray:
    """Return an array as a case stores it: floats as float32, integers as int64."""
    return np.ascontiguousarray(x, np.float32 if x.dtype.kind == "f" else np.int64)


def widened(x: np.ndarray) -> np.ndarray:
    """Return an array with floats as float64."""
    return x.astype(np.float64) if x.dtype.kind == "f" else x


def flat(value: Any) -> tuple[np.ndarray, ...]:
    """Return the arrays in nested tuples, in order."""
    if isinstance(value, tuple | list):
        return tuple(x for part in value for x in flat(part))
    return (value,)
