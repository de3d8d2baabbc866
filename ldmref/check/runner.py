"""Running identities on a backend, optionally with another implementation's functions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

import numpy as np

from ldmref.backends import Backend
from ldmref.check.calls import RecordedFunctions
from ldmref.check.chapters import CHAPTERS
from ldmref.check.comparison import Deviation, deviation
from ldmref.check.identity import Functions, Identity, RandomInputs, formula_of, source_of
from ldmref.check.implementation import line_of
from ldmref.errors import UsageError


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one identity; `worst` and `allowed` are in units of rounding of the dtype."""

    identity: str
    function: str
    formula: str
    source: str
    oracle: str
    cases: int
    worst: float
    allowed: float
    verdict: str  # "ok", "FAILED", or "ERROR: ..."
    detail: str = ""  # of a failure, the worst case: both values, and the element
    calls: tuple[str, ...] = ()  # of the function, in that case

    @property
    def holds(self) -> bool:
        return self.verdict == "ok"

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON; an infinite error is null."""
        return asdict(self) | {"worst": self.worst if np.isfinite(self.worst) else None}


def identities() -> list[Identity]:
    """All identities, chapter by chapter."""
    return [identity for chapter in CHAPTERS for identity in chapter.identities]


def run(backend: Backend, *, against: ModuleType | None = None, cases: int = 100, seed: int = 0,
        only: str = "") -> Iterator[CheckResult]:  # fmt: skip
    """Check the identities in the backend's library, device and dtype.

    Args:
        against: a module whose functions replace those of the same name in ldmref; only the
            identities that involve one of them are run.
        cases: random inputs per identity.
        only: run the identities whose name contains this.
    """
    if cases < 1:
        raise UsageError(f"cases must be at least 1, not {cases}", code="E-USAGE")
    functions = Functions(against)
    for identity in identities():
        if only in identity.name and (against is None or functions.replaced(identity)):
            yield check_identity(identity, functions, backend, cases, seed)


def check_identity(
    identity: Identity, functions: Functions, backend: Backend, cases: int = 100, seed: int = 0
) -> CheckResult:
    """Compare the function and its oracle on `cases` random inputs."""
    dtype = getattr(backend.xp, backend.dtype)
    eps = float(backend.xp.finfo(dtype).eps)
    device = getattr(backend.asarray(np.zeros(1)), "device", None)
    worst, worst_case, verdict, line = Deviation(-1.0), 0, "", ""

    def random_inputs(case: int) -> RandomInputs:
        return RandomInputs(backend.xp, dtype, device, _generator(identity.name, seed, case))

    for case in range(cases):
        try:
            current = deviation(identity.case(functions, random_inputs(case)), eps)
        except Exception as error:  # another implementation may fail in any way
            message = str(error).strip().splitlines()
            verdict = f"ERROR: {type(error).__name__}: {message[0] if message else ''}"
            worst_case, line = case, line_of(error, functions.file)
            break
        if current.ulps > worst.ulps:
            worst, worst_case = current, case
    detail, calls = "", ()
    if verdict or worst.ulps > identity.ulps:
        detail = f"in case {worst_case}{line}" if verdict else f"case {worst_case}: {worst}"
        names = functions.replaced(identity) or [identity.function]
        recorded = RecordedFunctions(functions, names)
        with suppress(Exception):
            identity.case(recorded, random_inputs(worst_case))
        calls = tuple(recorded.calls)
    verdict = verdict or ("FAILED" if detail else "ok")
    function = identity.function
    return CheckResult(
        identity.name, function, formula_of(function), source_of(function), identity.oracle, cases,
        max(worst.ulps, 0.0), identity.ulps, verdict, detail, calls,
    )  # fmt: skip


def _generator(name: str, seed: int, case: int) -> np.random.Generator:
    """A generator keyed by name and case alone, whichever identities run before."""
    key = np.random.SeedSequence([seed, case, *name.encode()])
    return np.random.Generator(np.random.Philox(key))
