"""Conformance of a backend with the float64 NumPy reference.

In a backend's tests:

    from ldmref.testing import assert_conforms

    def test_backend():
        assert_conforms(MyBackend(dtype="float32"))

Every operation runs on seeded inputs, contiguous and strided, and is compared with the reference on
the same inputs, which are first rounded to the backend's dtype. A result passes if it has the right
shape and dtype, its inputs are unchanged, it is finite, and

    max |y - reference| <= eps * (4 + sqrt(terms)) * condition * max |reference|

with `eps` the spacing of the dtype at 1 and `terms` the length of the longest sum (1 for
elementwise operations). One rounding errs by at most eps / 2. An operation makes a handful of
roundings in a row, and the roundings of a sum add up like a random walk, to about
sqrt(terms) * eps / 2. `condition` is 1 except for norms of inputs whose mean exceeds their spread
sqrt(variance + eps); for those it is that ratio. Operations that only move numbers must be exact.
A GPU that silently computes in TF32 misses the float32 bound by a factor of several hundred.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ldmref.backends.base import Backend
from ldmref.backends.numpy import NumpyBackend
from ldmref.errors import VerifyError
from ldmref.math.arrays import Array
from ldmref.testing.cases import Case, cases

EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


@dataclass(frozen=True)
class OperationCheck:
    """One operation of a backend compared with the reference on one input.

    Args:
        operation: Name of the operation.
        case: Description of the input: shapes, options and memory layout.
        error: Largest error, relative to the largest value of the reference.
        bound: Largest error allowed.
        note: Other defects: an exception, a wrong shape or dtype, a modified input.
    """

    operation: str
    case: str
    error: float
    bound: float
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the error is within its bound and there is no other defect."""
        return not self.note and self.error <= self.bound

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "FAILED"
        text = f"{self.operation} ({self.case}): error {self.error:.2g}, bound {self.bound:.2g}"
        return f"{verdict}: {text}{'; ' if self.note else ''}{self.note}"


def check_backend(backend: Backend | Callable[[], Backend]) -> list[OperationCheck]:
    """Compare every operation of a backend with the float64 NumPy reference.

    Args:
        backend: A backend, or a function that makes one.

    Returns:
        One check for each operation, input and memory layout, whether it passes or not. Operations
        that are not implemented come first, each with an infinite error.
    """
    return list(_comparisons(backend if isinstance(backend, Backend) else backend()))


def assert_conforms(backend: Backend | Callable[[], Backend]) -> None:
    """Check that a backend implements every required operation and agrees with the reference.

    Args:
        backend: A backend, or a function that makes one, such as the backend's class.

    Raises:
        VerifyError: Operations are missing or differ from the float64 NumPy reference by more than
            the bound of this module's docstring; its `report` has a line for each.

    >>> from ldmref.backends import get_backend
    >>> assert_conforms(get_backend("numpy", dtype="float32"))
    """
    ops = backend if isinstance(backend, Backend) else backend()
    missing = ops.missing_operations()
    checks = [f for f in _comparisons(ops) if f.note != MISSING]
    failures = [str(check) for check in checks if not check.ok]
    lines = []
    if missing:
        lines += [f"{type(ops).__name__} lacks {len(missing)} required operations:", *missing]
    if failures:
        count = f"{len(failures)} of {len(checks)} comparisons with the NumPy reference failed:"
        lines += [count, *failures]
    if lines:
        raise VerifyError(lines[0], code="E-CONFORMANCE", report=lines[1:])


MISSING = "still to be written"
COMPOSITIONS = ("geglu", "group_norm_silu")  # of the required operations, unless overridden


def _comparisons(ops: Backend) -> Iterator[OperationCheck]:
    """Yield the missing operations, then compare those that can run without them."""
    missing = {operation.partition("(")[0] for operation in ops.missing_operations()}
    yield from (
        OperationCheck(operation, "", math.inf, 0.0, MISSING) for operation in sorted(missing)
    )
    if missing & {"xp", "asarray", "to_numpy"}:
        return  # every comparison needs these
    yield from _conversions(ops)
    left_out = missing.union(COMPOSITIONS if missing else ())
    for case in cases():
        if case.operation not in left_out:
            yield from (_check(ops, case, layout) for layout in ("contiguous", "strided"))


def _check(ops: Backend, case: Case, layout: str) -> OperationCheck:
    name = f"{case.name}, {layout}"
    bound = EPS[ops.dtype] * (4 + math.sqrt(case.terms)) * case.condition if case.terms else 0.0
    try:
        args = [_to_backend(ops, x, layout) for x in case.arrays]
        before = [np.array(ops.to_numpy(x)) for x in args]
        with ops.inference():
            y = getattr(ops, case.operation)(*args, **case.options)
        got = ops.to_numpy(y)
        after = [ops.to_numpy(x) for x in args]
        note = _dtype_note(y, ops.dtype)
        if not all(np.array_equal(x, x2) for x, x2 in zip(before, after, strict=True)):
            note += "changed its input; "
    except Exception as error:  # any exception of a backend is a failed check
        return _exception(case.operation, name, bound, error)
    reference = NumpyBackend(dtype="float64")
    expected = getattr(reference, case.operation)(*map(reference.asarray, before), **case.options)
    return _compare(case.operation, name, got, expected, bound, note)


def _compare(
    operation: str, name: str, got: np.ndarray, expected: np.ndarray, bound: float, note: str = ""
) -> OperationCheck:
    if got.shape != expected.shape:
        note += f"shape {got.shape}, expected {expected.shape}"
        return OperationCheck(operation, name, math.inf, bound, note)
    with np.errstate(invalid="ignore"):
        scale = np.max(np.abs(expected), initial=np.finfo(float).tiny)
        error = float(np.max(np.abs(got.astype(float) - expected), initial=0.0) / scale)
    if not math.isfinite(error):
        note += "NaN or infinity; "
    return OperationCheck(operation, name, error, bound, note.rstrip("; "))


def _exception(operation: str, name: str, bound: float, error: Exception) -> OperationCheck:
    return OperationCheck(
        operation, name, math.inf, bound, f"raised {type(error).__name__}: {error}"
    )


def _dtype_note(x: Array, expected: str) -> str:
    dtype = str(x.dtype).rsplit(".", 1)[-1]  # "torch.float32" -> "float32"
    return "" if dtype == expected else f"dtype {dtype}, expected {expected}; "


def _to_backend(ops: Backend, x: np.ndarray, layout: str) -> Array:
    """Copy `x` to the backend; "strided" gives a view whose axes are reversed in memory."""
    if layout == "contiguous" or x.ndim < 2:
        return ops.asarray(x)
    axes = tuple(range(x.ndim))[::-1]
    return ops.xp.permute_dims(ops.asarray(np.ascontiguousarray(x.transpose(axes))), axes)


def _conversions(ops: Backend) -> Iterator[OperationCheck]:
    """Check that asarray and to_numpy keep values, shapes and dtypes of all kinds of arrays."""
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    read_only = x.copy()
    read_only.flags.writeable = False
    floats = {
        "float64": x,
        "float32": x.astype("f4"),
        "float16": x.astype("f2"),
        "scalar": x[0, 0, 0],
        "transposed": x.T,
        "reversed": x[::-1],
        "read-only": read_only,
        "empty": x[:0],
        "list": x.tolist(),
    }
    ids = np.arange(6).reshape(2, 3)
    integers = {
        "int64": ids,
        "int32": ids.astype("i4"),
        "uint8": ids.astype("u1"),
        "list of ids": ids.tolist(),
    }
    conversions = [(name, value, None, ops.dtype, EPS[ops.dtype]) for name, value in floats.items()]
    conversions += [(name, value, None, "int64", 0.0) for name, value in integers.items()]
    conversions += [("as float32", x, "float32", "float32", EPS["float32"])]
    for name, value, dtype, expected, bound in conversions:
        try:
            y = ops.asarray(value) if dtype is None else ops.asarray(value, dtype)
            note = _dtype_note(y, expected)
            got = ops.to_numpy(y)
            again = ops.to_numpy(ops.asarray(y, dtype or ops.dtype))
            if not isinstance(got, np.ndarray) or not np.array_equal(got, again):
                note += "a second conversion differs; "
            if expected == ops.dtype:
                note += _dtype_note(ops.cast(y, "float32"), "float32")
            yield _compare("asarray", name, got, np.asarray(value, float), bound, note)
        except Exception as error:
            yield _exception("asarray", name, bound, error)
