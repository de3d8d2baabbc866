"""Running identities on a backend, optionally with another implementation's functions."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ldmref.backends import Backend
from ldmref.check.chapters import CHAPTERS
from ldmref.check.comparison import Deviation, deviation
from ldmref.check.identity import Functions, Identity, RandomInputs, formula_of, source_of
from ldmref.errors import InputError


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
    detail: str = ""  # the worst case: its element, and both values

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
    functions = Functions(against)
    for identity in identities():
        if only in identity.name and (against is None or functions.replaces(identity)):
            yield _check(identity, functions, backend, cases, seed)


def _check(
    identity: Identity, functions: Functions, backend: Backend, cases: int, seed: int
) -> CheckResult:
    dtype = getattr(backend.xp, backend.dtype)
    eps = float(backend.xp.finfo(dtype).eps)
    device = getattr(backend.asarray(np.zeros(1)), "device", None)
    worst, detail, verdict = Deviation(-1.0), "", ""
    for case in range(cases):
        rng = RandomInputs(backend.xp, dtype, device, _generator(identity.name, seed, case))
        try:
            current = deviation(identity.case(functions, rng), eps)
        except Exception as error:  # another implementation may fail in any way
            message = str(error).strip().splitlines()
            verdict = f"ERROR: {type(error).__name__}: {message[0] if message else ''}"
            detail = f"in case {case}"
            break
        if current.ulps > worst.ulps:
            scalars = f" with {', '.join(f'{n:.6g}' for n in rng.scalars)}" if rng.scalars else ""
            worst, detail = current, f"case {case}{scalars}: {current}"
    verdict = verdict or ("ok" if worst.ulps <= identity.ulps else "FAILED")
    function = identity.function
    return CheckResult(
        identity.name, function, formula_of(function), source_of(function), identity.oracle, cases,
        max(worst.ulps, 0.0), identity.ulps, verdict, "" if verdict == "ok" else detail,
    )  # fmt: skip


def _generator(name: str, seed: int, case: int) -> np.random.Generator:
    """A generator keyed by name and case alone, whichever identities run before."""
    key = np.random.SeedSequence([seed, case, *name.encode()])
    return np.random.Generator(np.random.Philox(key))


def load_implementation(name: str) -> ModuleType:
    """Import a module by its dotted path; the working folder is searched too.

    Raises:
        InputError: the import failed.
    """
    working_folder = str(Path.cwd())
    sys.path.insert(0, working_folder)
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise InputError(
            f"cannot import {name!r}: {type(error).__name__}: {error}", code="E-AGAINST",
            hint="give the dotted path of a module, such as my_package.diffusion",
        ) from error  # fmt: skip
    finally:
        sys.path.remove(working_folder)
