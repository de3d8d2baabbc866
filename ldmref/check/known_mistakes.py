"""Name a mistake that was declared beside the identities of a function.

A declared mistake is the function written wrongly. The cases of the function's identities are
computed three times: with the function under test, with the mistake and with ldmref's function. The
mistake is named if it returns what the function under test returns, number by number, in all cases.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from ldmref.backends import Backend, get_backend
from ldmref.check.backend_inputs import random_inputs, unit_of_rounding
from ldmref.check.causes import EXACT
from ldmref.check.chapters import CHAPTERS
from ldmref.check.identity import Functions, Identity, KnownMistake, public
from ldmref.check.watching import WatchedCall, WatchedFunctions, leaves

ROUNDINGS = 64.0  # units that two programs may differ by in an elementary formula
LARGE = 30.0  # errors below so many times the tolerance are no evidence
Leaves = dict[tuple[Any, ...], np.ndarray]
CaseKey = tuple[str, int]
Cases = Sequence[tuple[Identity, int]]


@dataclass
class _Results:
    """What a function returned in the cases, and the exceptions of cases in which it raised."""

    leaves: Leaves
    raised: dict[CaseKey, type[Exception]]

    def without(self, cases: Collection[CaseKey]) -> Leaves:
        """Return the results of other cases."""
        return {key: values for key, values in self.leaves.items() if key[:2] not in cases}


def known_mistakes() -> list[KnownMistake]:
    """Return the mistakes of all chapters, in their order."""
    return [mistake for chapter in CHAPTERS for mistake in chapter.mistakes]


def name_known_mistake(
    name: str, function: Callable[..., Any], backend: Backend, seed: int, cases: Cases
) -> str:
    """Return the text of the declared mistake whose results a function gives; "" if none does.

    Cases in which the function under test raises are left out.

    Args:
        name: The function's name.
        function: The function under test, of arrays of the backend.
        backend: Backend of the arrays.
        seed: Seed of the random inputs.
        cases: Identities of the function, and numbers of cases.
    """
    mistakes = [mistake for mistake in known_mistakes() if mistake.function == name]
    if not mistakes:
        return ""
    host = get_backend("numpy", dtype=backend.dtype)
    same = max(EXACT, ROUNDINGS * unit_of_rounding(backend))
    with np.errstate(all="ignore"):
        theirs = _results(name, function, backend, seed, cases)
        ours = _results(name, public(name), host, seed, cases)
        for mistake in mistakes:
            wrong = _results(name, mistake.wrong, host, seed, cases)
            if wrong.raised.keys() - theirs.raised.keys():
                continue
            raises = set(theirs.raised.values()) == {mistake.raises}
            if mistake.raises and not (raises and wrong.raised == theirs.raised):
                continue
            results = [r.without(theirs.raised) for r in (theirs, wrong, ours)]
            if mistake.probe:
                results[0] |= _probe(function, mistake.probe, backend)
                results[1] |= _probe(mistake.wrong, mistake.probe, host)
                results[2] |= _probe(public(name), mistake.probe, host)
            if _agree(results[0], results[1], same) and (
                raises or _differ(results[0], results[2], same)
            ):
                return mistake.text
    return ""


def _results(
    name: str, function: Callable[..., Any], backend: Backend, seed: int, cases: Cases
) -> _Results:
    """Compute cases with one function replaced, and all others ldmref's."""
    module = ModuleType("replaced")
    setattr(module, name, function)
    found = _Results({}, {})
    for law, number in cases:
        watched = WatchedFunctions(Functions(module), [name])
        case = (law.name, number)
        try:
            law.case(watched, random_inputs(law, backend, seed, number))
        except Exception as error:  # a function under test may fail in any way
            found.raised[case] = type(error)
        found.leaves |= _leaves(case, watched.calls)
    return found


def _leaves(case: CaseKey, calls: list[WatchedCall]) -> Leaves:
    """Return the numbers and arrays of all results by case, call, item and part."""
    return {
        (*case, call, item, part): np.asarray(leaf.values, np.float64)
        for call, one in enumerate(calls)
        for item, parts in enumerate(one.items)
        for part, leaf in enumerate(parts)
        if leaf.values is not None and leaf.values.dtype.kind != "c"
    }


def _probe(function: Callable[..., Any], arguments: tuple[Any, ...], backend: Backend) -> Leaves:
    """Return what a function makes of the arguments of a mistake's probe; nothing if it raises."""
    arrays = [backend.asarray(a) if isinstance(a, np.ndarray) else a for a in arguments]
    call = WatchedCall("")
    try:
        call.items.append([*leaves("", function(*arrays))])
    except Exception:  # a function under test may fail in any way
        return {}
    return _leaves(("probe", 0), [call])


def _agree(theirs: Leaves, wrong: Leaves, same: float) -> bool:
    """Return whether all results are those of the mistake."""
    if not theirs or theirs.keys() != wrong.keys():
        return False
    return all(_difference(theirs[key], values) <= same for key, values in wrong.items())


def _differ(theirs: Leaves, ours: Leaves, same: float) -> bool:
    """Return whether results are clearly not ldmref's."""
    if theirs.keys() != ours.keys():
        return True
    return any(_difference(theirs[key], own) > LARGE * same for key, own in ours.items())


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest difference relative to the largest number; infinite for other shapes.

    NaN and infinities are equal to themselves at the same place, and nothing else is near them.
    """
    if a.shape != b.shape:
        return np.inf
    known = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~known], b[~known], equal_nan=True):
        return np.inf
    a, b = a[known], b[known]
    scale = max(np.max(np.abs(a), initial=0.0), np.max(np.abs(b), initial=0.0))
    return float(np.max(np.abs(a - b), initial=0.0) / scale) if scale else 0.0
