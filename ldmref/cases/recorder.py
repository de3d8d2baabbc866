"""Record every layer of a network: inputs in float32, result in float64, tolerances."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ldmref.backends.bounds import OPERATIONS, basis, layer_bound, precision
from ldmref.backends.named import LayerCall, NamedBackend
from ldmref.backends.numpy import NumpyBackend
from ldmref.cases.parameters import random_stream
from ldmref.locate.recorded.precision import round_to
from ldmref.models.params import tree_map

RUNS = 3  # with random errors
SAFETY = 2.0  # factor on the largest deviation of these runs
U = 2.0**-24  # unit roundoff of float32
DTYPE = "float32"
EMBEDDING = "timestep_embedding"
HALF = ("float16", "bfloat16")
DTYPES = (DTYPE, *HALF)
"""The number formats in which programs compute layers and networks."""


@dataclass(frozen=True)
class RecordedLayer:
    """A layer, as a case needs it.

    Attributes:
        name: The module path, with a number if it occurs again.
        kind: The operation ("conv2d") or the function of ldmref.models ("resnet_block").
        inputs: Inputs by role, float32 or int64.
        attributes: Arguments that are not arrays.
        outputs: Results in float64.
        tolerances: The largest absolute error that arithmetic explains, per output, by dtype.
        basis: "derived", "calibrated" or "propagated".
    """

    name: str
    kind: str
    inputs: dict[str, np.ndarray] = field(repr=False)
    attributes: dict[str, Any]
    outputs: tuple[np.ndarray, ...] = field(repr=False)
    tolerances: tuple[Mapping[str, float], ...]
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
        self._bounds: dict[tuple[str, str], list[np.ndarray | float]] = {}
        self._alone = False
        self._dtype = DTYPE  # that of the random errors
        self._random: np.random.Generator | None = None

    def visit(self, call: LayerCall) -> Any:
        """Compute a layer and record it; within a recorded layer, add random errors if asked."""
        y, has_parts = self.compute_layer(call)
        if self._alone:
            return y if self._random is None or has_parts else self._disturb(call, self._random)
        if self.wanted is None or call.name in self.wanted:
            self.layers.append(self._record(call, has_parts))
        return y

    def _disturb(self, call: LayerCall, stream: np.random.Generator) -> Any:
        """Compute a layer without parts, and add random errors within its bounds."""
        y = compute_rounded(call, self._dtype)
        key = call.name, self._dtype
        if key not in self._bounds:
            self._bounds[key] = [
                bound_of(one, part, dtype=self._dtype) for one, part in split_results(call, y)
            ]
        errors = iter(self._bounds[key])
        return map_results(lambda x: x + stream.uniform(-1.0, 1.0, x.shape) * next(errors), y)

    def _record(self, call: LayerCall, has_parts: bool) -> RecordedLayer:
        inputs = {role: stored(x) for role, x in call.inputs.items()}
        wide = {role: widened(x) for role, x in inputs.items()}

        def compute() -> Any:
            return call.compute(wide)

        results = self.compute_alone(call.name, compute)
        if has_parts:
            tolerances = self.propagate(call.name, compute, results)
        else:
            tolerances = tuple(
                {dtype: tolerance_of(one, y, wide, dtype) for dtype in DTYPES}
                for one, y in split_results(call, results)
            )
        reason = basis(call.kind) if call.kind in OPERATIONS else "propagated"
        attributes = {k: v for k, v in call.attributes.items() if not callable(v)}
        return RecordedLayer(call.name, call.kind, inputs, attributes, results, tolerances, reason)

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
    ) -> tuple[dict[str, float], ...]:
        """Return the tolerances of each result of a layer of several operations.

        The bound of each operation times a uniform random number in [-1, 1] is added to its result,
        and propagated through the layer, as in stochastic arithmetic. In half precision, what an
        operation reads is rounded before. SAFETY times the largest deviation of RUNS such runs, and
        the rounding of the result, are the tolerance.
        """
        found: tuple[dict[str, float], ...] = tuple({} for _ in exact)
        for dtype in DTYPES:
            largest = [0.0] * len(exact)
            for run in range(RUNS):
                self._random = random_stream(f"{name}/errors/{run}")
                self._dtype = dtype
                try:
                    disturbed = self.compute_alone(name, compute)
                finally:
                    self._random = None
                for i, (y, z) in enumerate(zip(exact, disturbed, strict=True)):
                    largest[i] = max(largest[i], float(np.max(np.abs(z - y), initial=0.0)))
            for tolerances, error, y in zip(found, largest, exact, strict=True):
                tolerances[dtype] = SAFETY * error + largest_rounding(y, dtype)
        return found


def compute_network(
    function: Callable[..., Any],
    params: Mapping[str, Any],
    settings: Mapping[str, Any],
    inputs: Mapping[str, np.ndarray],
    wanted: Collection[str] | None = None,
) -> tuple[tuple[np.ndarray, ...], tuple[dict[str, float], ...], list[RecordedLayer]]:
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


def tolerance_of(
    call: LayerCall, y: np.ndarray, inputs: Mapping[str, np.ndarray], dtype: str
) -> float:
    """Return the tolerance of a layer of one operation: y is the exact result of the inputs.

    In half precision a program may round the inputs and the parameters, all or some of them. What
    rounding all of them changes is added SAFETY times.
    """
    bound = bound_of(call, y, inputs, dtype)
    tolerance = float(np.max(bound, initial=0.0)) + largest_rounding(y, dtype)
    if dtype in HALF:
        moved = np.abs(compute_rounded(call, dtype, inputs) - y)
        tolerance += SAFETY * float(np.max(moved, initial=0.0))
    return tolerance


def compute_rounded(
    call: LayerCall, dtype: str, inputs: Mapping[str, np.ndarray] | None = None
) -> np.ndarray:
    """Compute a layer exactly from what a half precision holds of its inputs and parameters.

    Only operations are: a function without them may embed timesteps, or turn by positions, which
    programs keep in float32.
    """
    inputs = call.inputs if inputs is None else inputs
    if dtype not in HALF or call.kind not in OPERATIONS:
        return call.compute(inputs)
    rounded, weights = rounded_arrays(call, dtype, inputs)
    return call.compute({**weights, **rounded})


def rounded_arrays(
    call: LayerCall, dtype: str, inputs: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return what a half precision holds of the inputs and of the parameters of a layer."""
    rounded = {name: round_to(x, dtype) for name, x in inputs.items()}
    return rounded, {name: round_to(x, dtype) for name, x in call.parameters.items()}


def bound_of(
    call: LayerCall,
    y: np.ndarray,
    inputs: Mapping[str, np.ndarray] | None = None,
    dtype: str = DTYPE,
) -> np.ndarray | float:
    """Bound the error of one operation in a dtype.

    Timesteps are embedded in float32 (`timestep_bound`). Another function without operations, or a
    layer that has none, errs by what four roundings of its inputs change, and by four roundings of
    its result. The roundings of neighbours have independent signs: a common factor would change no
    norm, and the mean that one subtracts would have no error.
    """
    inputs = call.inputs if inputs is None else inputs
    if call.kind == EMBEDDING:
        rounding = 4.0 * precision(dtype).u * np.max(np.abs(y), initial=0.0)
        return timestep_bound(inputs["input"], y.shape[1]) + rounding
    if call.kind not in OPERATIONS:
        stream = random_stream(f"{call.name}/signs")
        changes = {
            role: 4.0 * U * x * stream.choice([-1.0, 1.0], x.shape) if x.dtype.kind == "f" else 0
            for role, x in inputs.items()
        }
        up = call.compute({role: x + changes[role] for role, x in inputs.items()})
        down = call.compute({role: x - changes[role] for role, x in inputs.items()})
        unit = precision(dtype).u
        return np.abs(up - down) + 4.0 * unit * np.max(np.abs(y), initial=0.0)
    if dtype in HALF:
        rounded, weights = rounded_arrays(call, dtype, inputs)
        return layer_bound(call, rounded, weights, dtype, y)
    return layer_bound(call, inputs, call.parameters, dtype, y)


def split_results(call: LayerCall, y: object) -> Iterator[tuple[LayerCall, np.ndarray]]:
    """Yield each result of a layer, with the layer as one that returns it alone."""

    def choose(arrays: Mapping[str, Any], at: int) -> np.ndarray:
        return flat(call.compute(arrays))[at]

    for at, part in enumerate(flat(y)):
        yield replace(call, compute=partial(choose, at=at)), part


def map_results(function: Callable[[np.ndarray], np.ndarray], value: Any) -> Any:
    """Apply a function to each array in nested tuples, in order; named ones keep their type."""
    if not isinstance(value, tuple | list):
        return function(value)
    parts = [map_results(function, part) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)


def timestep_bound(t: np.ndarray, dim: int) -> np.ndarray:
    """Bound the error of sines and cosines of angles that are computed in float32, (n, dim).

    A frequency is f = exp(-e) with e = i ln(P)/h, h = dim/2, P = 10000. The constant, the quotient
    and the product err by 3 u e, the exponential by 3 u and the product t f by u, so the angle by
    u t f (3 e + 4), which is also a bound for powers of P. The first frequency is 1: its angle is
    exact.
    """
    half = dim // 2
    exponent = np.arange(half) * (np.log(10_000.0) / half)
    error = U * np.exp(-exponent) * (3.0 * exponent + 4.0)
    error[:1] = 0.0
    return np.abs(t)[:, None] * np.tile(error, 2)


def largest_rounding(y: np.ndarray, dtype: str = DTYPE) -> float:
    """Return the largest error of storing a result in a dtype."""
    return float(precision(dtype).u * np.max(np.abs(y), initial=0.0))


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
