"""The outcome of one identity, or of one question of the capstone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one identity.

    Args:
        identity: Name of the identity, "function: law".
        function: Function under test.
        formula: Formula of the function, in LaTeX.
        source: Source of the formula.
        oracle: How the expected value is computed.
        cases: Number of random inputs.
        worst, allowed: Largest error and the error allowed, in units of rounding of the dtype.
        verdict: "ok", "FAILED", or "ERROR: ...".
        case: Number of the worst case.
        detail: For failures, the worst case: both values and their index.
        calls: For failures, the calls of the function in the worst case.
        notes: For failures, the part of the result that differs from ldmref's, and a hint.
        edge: For an identity of `hard`, the edge of the worst case, such as "d = 1e-9".
        basis: "derived" if `allowed` is the sum of all roundings, which holds for certain;
            "probable" if it is seven standard deviations of that sum (`ldmref.check.identity`).
            Of a piece of the capstone: "relative" to the largest number, or "of 255".
    """

    identity: str
    function: str
    formula: str
    source: str
    oracle: str
    cases: int
    worst: float
    allowed: float
    verdict: str
    case: int = 0
    detail: str = ""
    calls: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    basis: str = "derived"
    edge: str = ""

    def __repr__(self) -> str:
        return (
            f"<CheckResult {self.identity!r}: {self.verdict}, {self.worst:g} of {self.allowed:g}>"
        )

    @property
    def holds(self) -> bool:
        """Whether the identity holds."""
        return self.verdict == "ok"

    @property
    def ratio(self) -> float:
        """The largest error as a part of the error allowed."""
        if self.allowed:
            return self.worst / self.allowed
        return float("inf") if self.worst else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON; an infinite error becomes None."""
        numbers = {"worst": self.worst, "ratio": self.ratio}
        return asdict(self) | {k: v if np.isfinite(v) else None for k, v in numbers.items()}
