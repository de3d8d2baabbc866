"""Compare the results of a program with a suite, and the report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ldmref.cases.model import TRACES, CaseTensor, GoldenCase

MISSING = "no result"


@dataclass(frozen=True)
class CaseVerdict:
    """The outcome of one case.

    Args:
        case: Its name.
        part: Its part.
        kind: Its kind.
        passed: Whether it passed.
        error: Largest |got - expected|.
        tolerance: What the tolerance allows at that element.
        detail: The output and element of a failure, or the reason for a missing result.
        basis: Basis of the tolerance.

    >>> from ldmref.cases import CaseVerdict
    >>> CaseVerdict("silu-1", "layers", "silu", True, error=1e-8, tolerance=1e-6).ratio
    0.01
    """

    case: str
    part: str
    kind: str
    passed: bool
    error: float = 0.0
    tolerance: float = 0.0
    detail: str = ""
    basis: str = ""

    @property
    def ratio(self) -> float:
        """The error divided by the tolerance; 0 where both are 0."""
        if self.error == 0.0:
            return 0.0
        return self.error / self.tolerance if self.tolerance else math.inf

    def __str__(self) -> str:
        verdict = "ok    " if self.passed else "FAILED"
        text = f"{verdict} {self.case} ({self.kind}): "
        if self.detail and not math.isfinite(self.error):
            return text + self.detail
        numbers = f"error {self.error:.2e}, tolerance {self.tolerance:.2e} ({self.basis})"
        return text + numbers + (f", {self.detail}" if self.detail else "")

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON; an infinite error becomes None."""
        return {
            "case": self.case,
            "part": self.part,
            "kind": self.kind,
            "passed": self.passed,
            "error": self.error if math.isfinite(self.error) else None,
            "tolerance": self.tolerance,
            "basis": self.basis,
            "detail": self.detail,
        }


def compare_case(
    case: GoldenCase,
    expected: Mapping[str, np.ndarray],
    got: Mapping[str, np.ndarray] | None,
    dtype: str,
    note: str = MISSING,
) -> CaseVerdict:
    """Compare the outputs of a program with those of a case.

    The verdict is about the output with the largest error; of a trace that fails, about the first
    one that is wrong.

    Args:
        case: The case.
        expected: Its outputs by name.
        got: The program's outputs by name; None if it has none.
        dtype: The dtype in which the program computes, which selects the tolerance.
        note: Why there are none.
    """
    head = case.name, case.part, case.kind
    if got is None:
        return CaseVerdict(*head, False, math.inf, 0.0, note, case.basis)
    worst = CaseVerdict(*head, True, basis=case.basis)
    for tensor in case.outputs:
        if tensor.name not in got:
            detail = f"no output {tensor.name!r}"
            return CaseVerdict(*head, False, math.inf, 0.0, detail, case.basis)
        passed, error, tolerance, detail = _compare(
            tensor, expected[tensor.name], np.asarray(got[tensor.name]), dtype
        )
        if len(case.outputs) > 1 and detail:
            detail = f"{tensor.name}: {detail}"
        result = CaseVerdict(*head, passed, error, tolerance, detail, case.basis)
        if case.part == TRACES and not passed:
            return result  # what comes later has inherited the error
        if (not passed, result.ratio) > (not worst.passed, worst.ratio):
            worst = result
    return worst


def _compare(
    tensor: CaseTensor, expected: np.ndarray, got: np.ndarray, dtype: str
) -> tuple[bool, float, float, str]:
    """Return whether an output passes, the worst error, its tolerance and a note on failures."""
    if got.shape != expected.shape:
        shapes = f"shape {list(got.shape)}, expected {list(expected.shape)}"
        return False, math.inf, 0.0, shapes
    if tensor.dtype == "string":
        same = bool(np.array_equal(got.astype(str), expected))
        return same, 0.0 if same else math.inf, 0.0, "" if same else "other text"
    if got.dtype.kind not in "fiub":
        return False, math.inf, 0.0, f"dtype {got.dtype}, expected {tensor.dtype}"
    atol, rtol = tensor.tolerance.get(dtype, (0.0, 0.0))
    wide = expected.astype(np.float64)
    allowed = atol + rtol * np.abs(np.where(np.isfinite(wide), wide, 0.0))
    numbers = got.astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.where(wide == numbers, 0.0, np.abs(numbers - wide))
    error = np.where(np.isnan(wide) & np.isnan(numbers), 0.0, error)
    error = np.where(np.isnan(error), np.inf, error)
    if not error.size:
        return True, 0.0, atol, ""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error == 0.0, 0.0, error / allowed)
    at = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    passed = bool((error <= allowed).all())
    detail = ""
    if not passed:
        place = f" at {[int(i) for i in at]}" if at else ""
        detail = f"got {numbers[at]:.8g}, expected {wide[at]:.8g}{place}"
    return passed, float(error[at]), float(allowed[at]), detail


def summary(results: Iterable[CaseVerdict], suite: str, program: str) -> str:
    """Return the verdict in one line: "PROGRAM passes ldmref-cases 2.0, 270 of 270 (layers)".

    Args:
        results: The verdicts.
        suite: The label of the suite.
        program: The name of the program that computed them.

    Returns:
        One line of text.

    >>> from ldmref.cases import CaseVerdict, summary
    >>> summary([CaseVerdict("silu-1", "layers", "silu", True)], "ldmref-cases 2.0", "my port")
    'my port passes ldmref-cases 2.0, 1 of 1 (layers)'
    """
    results = tuple(results)
    passed = sum(result.passed for result in results)
    parts = ", ".join(dict.fromkeys(result.part for result in results))
    verb = "passes" if passed == len(results) else "fails"
    return f"{program} {verb} {suite}, {passed} of {len(results)} ({parts})"
