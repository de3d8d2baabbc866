"""Measured errors and their bounds: the worst of many calls of each operation.

Backends in float64 are compared with the same operations in extended precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
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
        note: The exception that the operation raised.
    """

    operation: str
    dtype: str
    basis: str
    cases: int
    ratio: float
    error: float
    bound: float
    case: str
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether every error is within its bound."""
        return not self.note and self.ratio <= 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON; infinite numbers become None."""

        def plain(value: object) -> Any:
            return None if isinstance(value, float) and not math.isfinite(value) else value

        return {name: plain(value) for name, value in asdict(self).items()} | {"ok": self.ok}


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


def call(
    ops: Backend, case: Case, args: Iterable[Array], named: Mapping[str, Array] | None = None
) -> Array:
    """Call the operation of a case; `add` and `mul` are operators of arrays."""
    if case.operation in ("add", "mul"):
        return reduce(add if case.operation == "add" else mul, args)
    return getattr(ops, case.operation)(*args, **case.options, **(named or {}))


def to_backend(
    ops: Backend, x: np.ndarray, layout: str = "contiguous", dtype: str | None = None
) -> Array:
    """Copy `x` to the backend; "strided" gives a view whose axes are reversed in memory."""
    if layout == "contiguous" or x.ndim < 2:
        return ops.asarray(x, dtype)
    axes = tuple(range(x.ndim))[::-1]
    return ops.xp.permute_dims(ops.asarray(np.ascontiguousarray(x.transpose(axes)), dtype), axes)


def compare(ops: Backend, case: Case, layout: str = "contiguous") -> WorstElement:
    """Run one case with arrays in a layout of `to_backend`, and return its worst element."""
    if case.operation == "asarray":
        args = arrays = [np.asarray(x) for x in case.arrays]
    else:
        args = [to_backend(ops, x, layout) for x in case.arrays]
        arrays = [np.array(ops.to_numpy(x)) for x in args]
    wider = ops.state_dtype
    named = {name: to_backend(ops, x, layout, wider) for name, x in case.named.items()}
    host = {name: np.array(ops.to_numpy(x)).astype(np.float64) for name, x in named.items()}
    if case.operation in WITH_WEIGHTS:
        args[1] = ops.weight(arrays[1].astype(np.float32 if ops.dtype == "bfloat16" else ops.dtype))
    with ops.inference(), np.errstate(all="ignore"):
        got = ops.to_numpy(call(ops, case, args, named))
    wide = [x if x.dtype.kind in "iub" else x.astype(np.float64) for x in arrays]
    exact = ops.dtype == "float64"
    reference = (ExtendedBackend if exact else NumpyBackend)(dtype="float64")
    with np.errstate(all="ignore"):
        extended = {name: reference.asarray(x) for name, x in host.items()}
        arguments = [reference.asarray(x) for x in wide]
        expected = np.asarray(call(reference, case, arguments, extended))
    bound = error_bound(
        case.operation,
        tuple(wide),
        {**case.options, **host},
        ops.dtype,
        expected,
        winograd=WINOGRAD.get(ops.speed, 2),
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
        An iterator with the worst case of each operation. An operation ends at its first exception.
    """
    for operation in operations:
        rng = np.random.default_rng([seed, *operation.encode()])
        worst = MeasuredOperation(operation, ops.dtype, basis(operation), cases, -1.0, 0.0, 0.0, "")
        for i, case in enumerate(RandomCases(ops.dtype, rng).cases(operation, cases)):
            try:
                element = compare(ops, case, ("contiguous", "strided")[i % 2])
            except Exception as error:  # a backend may fail in any way
                note = f"raised {type(error).__name__}: {error}"
                worst = replace(worst, ratio=math.inf, error=math.inf, case=case.name, note=note)
                break
            if element.ratio > worst.ratio:
                worst = replace(worst, **vars(element), case=case.name)
        yield worst


# -- extended precision ----------------------------------------------------------------------------


# 2^-11 on x86 (64 bits instead of 53); 1 where long double is float64
EXTENDED_UNITS = float(np.finfo(np.longdouble).eps / np.finfo(np.float64).eps)
SATURATED = 7.0  # erf(7) differs from 1 by 4e-23


class ExtendedBackend(NumpyBackend):
    """The NumPy reference in `numpy.longdouble`; slow, for comparisons only.

    Its errors are `EXTENDED_UNITS` times those of float64.
    """

    name = "extended"
    dtypes = ("float64",)

    def set_up(self) -> None:
        super().set_up()
        self._dtype = np.dtype(np.longdouble)

    def attention(
        self,
        q: Array,
        k: Array,
        v: Array,
        causal: bool = False,
        bias: Array | None = None,
        scale: float | None = None,
    ) -> Array:
        factor = 1 / np.sqrt(np.longdouble(q.shape[-1])) if scale is None else scale
        scores = q @ k.swapaxes(-1, -2) * factor
        if bias is not None:
            scores = scores + bias
        if causal:
            future = np.arange(k.shape[2])[None, :] > np.arange(q.shape[2])[:, None]
            scores = np.where(future, -np.inf, scores)
        return self._softmax(scores) @ v

    def gelu(self, x: Array) -> Array:
        half = 0.5 * x
        return half + half * self._erf(x / np.sqrt(np.longdouble(2)))

    def quick_gelu(self, x: Array) -> Array:
        return x * self._sigmoid(np.longdouble(1702) / 1000 * x)

    def _erf(self, x: Array) -> Array:
        """Sum erf(x) = 2 / sqrt(pi) exp(-x^2) sum_k 2^k x^(2k+1) / (2k+1)!!, all of one sign."""
        a = np.minimum(np.abs(x), SATURATED)
        term = a.copy()
        total = a.copy()
        k = 1
        while np.any(term > total * np.finfo(np.longdouble).eps / 8):
            term = term * (2 * a * a) / (2 * k + 1)
            total = total + term
            k += 1
        pi = np.longdouble(math.pi) + np.longdouble(1.2246467991473532e-16)  # pi - float64(pi)
        return np.copysign(np.minimum(2 / np.sqrt(pi) * np.exp(-a * a) * total, 1), x)
