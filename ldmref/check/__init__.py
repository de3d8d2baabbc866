"""`ldmref check`: every identity again, on this machine, or for somebody else's functions."""

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
from ldmref.check import chapters
from ldmref.check.identity import Draw, Functions, Identity, Miss, miss
from ldmref.errors import InputError

__all__ = ["Row", "identities", "load_implementation", "run"]


@dataclass(frozen=True)
class Row:
    """One line of the table: `worst` and `allowed` in units of rounding of the dtype."""

    identity: str
    function: str
    formula: str
    source: str
    oracle: str
    cases: int
    worst: float
    allowed: float
    verdict: str  # "ok", "FAILED", or "ERROR: ..."
    detail: str = ""  # where they part: the worst case, its element, and both values

    @property
    def holds(self) -> bool:
        return self.verdict == "ok"

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON; an infinite error is null."""
        facts = asdict(self)
        facts["worst"] = self.worst if np.isfinite(self.worst) else None
        return facts


def identities() -> list[Identity]:
    """Every identity, chapter by chapter."""
    return [identity for chapter in chapters.ALL for identity in chapter.IDENTITIES]


def run(
    backend: Backend,
    *,
    against: ModuleType | None = None,
    cases: int = 100,
    seed: int = 0,
    only: str = "",
) -> Iterator[Row]:
    """Check the identities in the backend's library, device and dtype.

    Args:
        against: a module whose functions take the place of those of the same name in ldmref; only
            the identities that it takes part in are run.
        cases: random inputs per identity.
        only: run the identities whose name contains this.
    """
    functions = Functions(against)
    for identity in identities():
        if only in identity.name and (against is None or functions.replaces(identity)):
            yield _check(identity, functions, backend, cases, seed)


def _check(
    identity: Identity, functions: Functions, backend: Backend, cases: int, seed: int
) -> Row:
    dtype = getattr(backend.xp, backend.dtype)
    eps = float(backend.xp.finfo(dtype).eps)
    device = getattr(backend.asarray(np.zeros(1)), "device", None)
    worst, detail, verdict = Miss(-1.0), "", ""
    for case in range(cases):
        draw = Draw(backend.xp, dtype, device, _stream(identity.name, seed, case))
        try:
            found = miss(identity.case(functions, draw), eps)
        except Exception as error:  # somebody else's functions may fail in any way
            message = str(error).strip().splitlines()
            verdict = f"ERROR: {type(error).__name__}: {message[0] if message else ''}"
            detail = f"in case {case}"
            break
        if found.ulps > worst.ulps:
            worst, detail = found, _where(case, draw, found)
    verdict = verdict or ("ok" if worst.ulps <= identity.ulps else "FAILED")
    return Row(
        identity.name, identity.function, identity.formula(), identity.source(), identity.oracle,
        cases, max(worst.ulps, 0.0), identity.ulps, verdict, "" if verdict == "ok" else detail,
    )  # fmt: skip


def _stream(name: str, seed: int, case: int) -> np.random.Generator:
    """A case depends on its own name and number alone, not on which identities run before it."""
    key = np.random.SeedSequence([seed, case, *name.encode()])
    return np.random.Generator(np.random.Philox(key))


def _where(case: int, draw: Draw, found: Miss) -> str:
    if not np.isfinite(found.ulps) and not found.place:
        return f"case {case}: shapes differ"
    numbers = f" with {', '.join(f'{n:.6g}' for n in draw.numbers)}" if draw.numbers else ""
    return (
        f"case {case}{numbers}: got {found.got:.9g}, the oracle has {found.want:.9g}, "
        f"at {list(found.place)}"
    )


def load_implementation(name: str) -> ModuleType:
    """Import somebody else's module: a dotted path, looked for in the working folder too.

    Raises:
        InputError: it cannot be imported.
    """
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise InputError(
            f"cannot import {name!r}: {type(error).__name__}: {error}",
            code="E-AGAINST",
            hint="give the dotted path of a module, such as my_package.diffusion",
        ) from error
    finally:
        sys.path.remove(here)
