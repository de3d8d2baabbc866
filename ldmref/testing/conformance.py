"""Conformance of a backend with the float64 NumPy reference.

In a backend's tests:

    from ldmref.testing import assert_conforms

    def test_backend():
        assert_conforms(MyBackend(dtype="float32"))

Every operation runs on seeded inputs, contiguous and strided, and is compared with the reference on
the same inputs, which are first rounded to the backend's dtype. A result passes if it has the right
shape and dtype, its inputs are unchanged, it is finite, and

    |y - reference| <= bound

for every element, with the bounds of `ldmref.backends.bounds.error_bound` for the backend's dtype
and, for the rounding of the reference, for float64. They follow from the numbers: a sum that
cancels or a norm of numbers with a large mean may err more than others. Operations that only move
numbers must be exact. With `speed="fastest"`, 3 x 3 convolutions may use Winograd's F(4x4).

A check shows the element whose error is the largest part of its bound. A GPU that silently computes
in TF32 exceeds the float32 bound of a linear layer many times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ldmref.backends.base import Backend
from ldmref.backends.bounds import PRECISIONS, error_bound
from ldmref.backends.numpy import NumpyBackend
from ldmref.errors import VerifyError
from ldmref.math.arrays import Array
from ldmref.testing.cases import Case, cases
from ldmref.testing.measured import WINOGRAD, to_backend, worst_element

EPS = {dtype: 2.0 * p.u for dtype, p in PRECISIONS.items()}  # spacing of the numbers at 1


@dataclass(frozen=True)
class OperationCheck:
    """One operation of a backend compared with the reference on one input.

    Args:
        operation: Name of the operation.
        case: Description of the input: shapes, options and memory layout.
        error: Error of the element that comes closest to its bound or exceeds it most, relative
            to the largest value of the reference.
        bound: Error allowed there, in the same unit.
        note: Other defects: an exception, a wrong shape or dtype, a modified input.

    >>> from ldmref.testing import OperationCheck
    >>> print(OperationCheck("silu", "(3,)", error=1e-6, bound=1e-7))
    FAILED: silu ((3,)): error 1e-06, bound 1e-07
    """

    operation: str
    case: str
    error: float
    bound: float
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether every error is within its bound and there is no other defect."""
        return not self.note and self.error <= self.bound

    @property
    def ratio(self) -> float:
        """The error as a part of its bound; infinite for an error where none is allowed."""
        if self.bound:
            return self.error / self.bound
        return math.inf if self.error else 0.0

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

    >>> from ldmref.backends import get_backend
    >>> from ldmref.testing import check_backend
    >>> all(check.ok for check in check_backend(get_backend("numpy", dtype="float64")))
    True
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
    >>> from ldmref.testing import assert_conforms
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
    try:
        args = [to_backend(ops, x, layout) for x in case.arrays]
        wider = ops.state_dtype
        named = {key: to_backend(ops, x, layout, wider) for key, x in case.named.items()}
        every = [*args, *named.values()]
        before = [np.array(ops.to_numpy(x)) for x in every]
        with ops.inference():
            y = getattr(ops, case.operation)(*args, **case.options, **named)
        got = ops.to_numpy(y)
        after = [ops.to_numpy(x) for x in every]
        note = _dtype_note(y, ops.dtype)
        if not all(np.array_equal(x, x2) for x, x2 in zip(before, after, strict=True)):
            note += "changed its input; "
    except Exception as error:  # any exception of a backend is a failed check
        return _exception(case.operation, name, error)
    reference = NumpyBackend(dtype="float64")
    arrays = [reference.asarray(x) for x in before]
    args = tuple(arrays[: len(case.arrays)])
    kwargs = case.options | dict(zip(case.named, arrays[len(args) :], strict=True))
    expected = getattr(reference, case.operation)(*args, **kwargs)
    options = {"winograd": WINOGRAD.get(ops.speed, 2)}
    bound = error_bound(case.operation, args, kwargs, ops.dtype, expected, **options)
    bound *= 1.0 + EPS["float64"] / EPS[ops.dtype]  # the reference rounds as well
    return _compare(case.operation, name, got, expected, bound, note)


def _compare(
    operation: str,
    name: str,
    got: np.ndarray,
    expected: np.ndarray,
    bound: np.ndarray,
    note: str = "",
) -> OperationCheck:
    if got.shape != expected.shape:
        note += f"shape {got.shape}, expected {expected.shape}"
        return OperationCheck(operation, name, math.inf, 0.0, note)
    worst = worst_element(got, expected, bound)
    if not np.all(np.isfinite(got)):
        note += "NaN or infinity; "
    return OperationCheck(operation, name, worst.error, worst.bound, note.rstrip("; "))


def _exception(operation: str, name: str, error: Exception) -> OperationCheck:
    return OperationCheck(operation, name, math.inf, 0.0, f"raised {type(error).__name__}: {error}")


def _dtype_note(x: Array, expected: str) -> str:
    dtype = str(x.dtype).rsplit(".", 1)[-1]  # "torch.float32" -> "float32"
    return "" if dtype == expected else f"dtype {dtype}, expected {expected}; "


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
    conversions = [(name, value, None, ops.dtype) for name, value in floats.items()]
    conversions += [(name, value, None, "int64") for name, value in integers.items()]
    conversions += [("as float32", x, "float32", "float32")]
    for name, value, dtype, expected in conversions:
        host = np.asarray(value, float)
        bound = EPS.get(expected, 0.0) / 2 * np.abs(host)
        try:
            y = ops.asarray(value) if dtype is None else ops.asarray(value, dtype)
            note = _dtype_note(y, expected)
            got = ops.to_numpy(y)
            again = ops.to_numpy(ops.asarray(y, dtype or ops.dtype))
            if not isinstance(got, np.ndarray) or not np.array_equal(got, again):
                note += "a second conversion differs; "
            if expected == ops.dtype:
                note += _dtype_note(ops.cast(y, "float32"), "float32")
            yield _compare("asarray", name, got, host, bound, note)
        except Exception as error:
            yield _exception("asarray", name, error)
