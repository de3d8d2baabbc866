"""Measured errors beside their bounds: the worst of many calls of each operation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import reduce
from operator import add, mul
from typing import Any

import numpy as np

from ldmref.backends.base import Backend
from ldmref.backends.bounds import OPERATIONS, basis, error_bound
from ldmref.backends.numpy import NumpyBackend
from ldmref.math.arrays import Array
from ldmref.testing.cases import Case
from ldmref.testing.extended import EXTENDED_UNITS, ExtendedBackend
from ldmref.testing.random_cases import RandomCases

WINOGRAD = {"exact": 2, "fast": 2, "fastest": 4}  # largest F(m x m) that a speed may use
WITH_WEIGHTS = ("linear", "conv2d", "geglu")


@dataclass(frozen=True)
class WorstElement:
    """The element of a result whose error is the largest part of its bound.

    Args:
        ratio: Error divided by bound; infinite for NaN and for an error of an exact operation.
        error: Error of that element, relative to the largest value of the result.
        bound: Its bound, in the same units.
    """

    ratio: float = 0.0
    error: float = 0.0
    bound: float = 0.0


@dataclass(frozen=True)
class MeasuredOperation:
    """The errors of one operation on random inputs.

    Args:
        operation: Name of the operation.
        dtype: The type in which it computes.
        basis: "derived" or "calibrated" (`ldmref.backends.bounds.basis`).
        cases: Number of inputs.
        ratio: Largest error, as a part of its bound.
        error, bound: The error and the bound at that element, relative to the largest value.
        case: The input.
    """

    operation: str
    dtype: str
    basis: str
    cases: int
    ratio: float
    error: float
    bound: float
    case: str

    @property
    def ok(self) -> bool:
        """Whether every error is within its bound."""
        return self.ratio <= 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON; infinite numbers become None."""
        values = asdict(self)
        return {k: v if not isinstance(v, float) or math.isfinite(v) else None
                for k, v in values.items()}  # fmt: skip


def worst_element(got: np.ndarray, expected: np.ndarray, bound: np.ndarray) -> WorstElement:
    """Compare a result with the reference, element by element."""
    if not got.size:
        return WorstElement()
    with np.errstate(all="ignore"):
        error = np.abs(np.asarray(got, expected.dtype) - expected).astype(float)
        ratio = np.where(error == 0.0, 0.0, error / bound)
        ratio = np.where(np.isfinite(error), ratio, np.inf).ravel()
        worst = int(np.argmax(ratio))
        scale = float(max(np.max(np.abs(expected)), np.finfo(float).tiny))
    return WorstElement(
        float(ratio[worst]), float(error.flat[worst]) / scale, float(bound.flat[worst]) / scale
    )


def call(ops: Backend, case: Case, args: Iterable[Array]) -> Array:
    """Call the operation of a case; `add` and `mul` are operators of arrays."""
    if case.operation in ("add", "mul"):
        return reduce(add if case.operation == "add" else mul, args)
    return getattr(ops, case.operation)(*args, **case.options)


def compare(ops: Backend, case: Case) -> WorstElement:
    """Run one case, and return its worst element."""
    if case.operation == "asarray":
        args = hosts = [np.asarray(x) for x in case.arrays]
    else:
        args = [ops.asarray(x) for x in case.arrays]
        hosts = [np.array(ops.to_numpy(x)) for x in args]
    if case.operation in WITH_WEIGHTS:
        args[1] = ops.weight(hosts[1].astype(np.float32 if ops.dtype == "bfloat16" else ops.dtype))
    with ops.inference(), np.errstate(all="ignore"):
        got = ops.to_numpy(call(ops, case, args))
    wide = [x if x.dtype.kind in "iub" else x.astype(np.float64) for x in hosts]
    exact = ops.dtype == "float64"
    reference = (ExtendedBackend if exact else NumpyBackend)(dtype="float64")
    with np.errstate(all="ignore"):
        expected = np.asarray(call(reference, case, [reference.asarray(x) for x in wide]))
    bound = error_bound(
        case.operation, tuple(wide), case.options, ops.dtype, expected, winograd=WINOGRAD[ops.speed]
    )
    if exact:
        bound = bound * (1.0 + EXTENDED_UNITS)
    return worst_element(got, expected, bound)


def measure_errors(
    ops: Backend, operations: Iterable[str] = OPERATIONS, cases: int = 100, seed: int = 0
) -> Iterator[MeasuredOperation]:
    """Measure the errors of a backend's operations on random inputs, easy and hard.

    The reference is NumPy in float64, and in extended precision for float64 backends.

    Args:
        ops: The backend.
        operations: Names of the operations, of `ldmref.backends.bounds.OPERATIONS`.
        cases: Number of inputs for each operation.
        seed: Seed of the inputs.

    Returns:
        An iterator with the worst case of each operation.
    """
    for operation in operations:
        rng = np.random.default_rng([seed, *operation.encode()])
        worst = MeasuredOperation(operation, ops.dtype, basis(operation), cases, 0.0, 0.0, 0.0, "")
        for case in RandomCases(ops.dtype, rng).cases(operation, cases):
            element = compare(ops, case)
            if element.ratio > worst.ratio or not worst.case:
                worst = replace(worst, **vars(element), case=case.name)
        yield worst
