"""Running identities on a backend, optionally with another implementation's functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ldmref.backends import Backend
from ldmref.check import causes
from ldmref.check.agreement import (
    IN_LAW,
    ArrayKind,
    Disagreement,
    first_fault,
    lost_numbers,
    with_negative_noise,
)
from ldmref.check.backend_inputs import random_inputs, unit_of_rounding
from ldmref.check.calls import Call, arguments_hint, difference_from_ours, named_parts
from ldmref.check.capstone import mark_pieces, piece_names
from ldmref.check.chapters import CHAPTERS
from ldmref.check.comparison import Comparison, Deviation, deviation, to_host
from ldmref.check.edges import EDGE_CHAPTERS
from ldmref.check.gradients import records_gradients
from ldmref.check.identity import Functions, Identity, formula_of, public, source_of
from ldmref.check.implementation import line_of
from ldmref.check.known_mistakes import name_known_mistake
from ldmref.check.made_calls import MadeCall, RecordedMakers, differs_only_in_last_steps
from ldmref.check.results import CheckResult
from ldmref.check.shapes import is_cured_by_a_reshape, shape_hint, with_reshaped_arguments
from ldmref.check.watching import Altered, WatchedFunctions, unchanged
from ldmref.errors import UsageError

OTHERS = (0, 1, 2)  # cases beside the failing one that a cause must explain as well
CALLS = 3  # of each of them


def identities(hard: bool = False) -> list[Identity]:
    """Return all identities, chapter by chapter; with `hard`, those at edges also."""
    chapters = (*CHAPTERS, *EDGE_CHAPTERS) if hard else CHAPTERS
    return [identity for chapter in chapters for identity in chapter.identities]


def selected(
    functions: Functions, only: str = "", *, all_of_them: bool, hard: bool = False
) -> list[Identity]:
    """Return the identities with `only` in their name, all or those of replaced functions.

    If none of them compares values, those that call a function of that name are added:
    "commitment_loss: " also selects those of `vq_loss`.
    """
    known = identities(hard)
    named = [identity for identity in known if only in identity.name]
    if all(identity.gradients or identity.by_itself or identity.edges for identity in named):
        named += [i for i in known if any(only in f"{name}: " for name in i.uses)]
    return [i for i in dict.fromkeys(named) if all_of_them or functions.replaced(i)]


def can_run(identity: Identity, backend: Backend) -> bool:
    """Return whether the backend's library can run an identity; gradients must be recorded."""
    return not identity.gradients or records_gradients(backend.asarray(np.zeros(1)))


def run(
    backend: Backend,
    *,
    against: ModuleType | None = None,
    cases: int = 100,
    seed: int = 0,
    only: str = "",
    case: int | None = None,
    hard: bool = False,
    piece: str = "",
) -> Iterator[CheckResult]:
    """Check the identities in the backend's library, device and dtype.

    Identities of gradients are left out in a library that does not record them.

    Args:
        backend: Backend from `get_backend`.
        against: Module whose functions replace ldmref's functions of the same name; only the
            identities that involve one of them are run.
        cases: Number of random inputs per identity.
        seed: Seed of the random inputs.
        only: Text that the name of an identity must contain. If none of these compares values, the
            identities that call a function of that name are run as well.
        case: Number of the only case to run, whatever `cases` is.
        hard: Whether to also run the identities at the edges of the functions' ranges: alpha-bar
            near 0 and 1, nearly equal Gaussians, tails, nearly parallel vectors, ...
        piece: The only function to check, a piece of the course's capstone such as
            `residual_block`, whatever its arguments are called. "": the identities, and the pieces
            whose arguments have the names of the page.

    Returns:
        An iterator of `CheckResult`; each identity is checked when its result is requested.

    Raises:
        UsageError: `cases` is not at least 1.
    """
    if cases < 1:
        raise UsageError(f"cases must be at least 1, not {cases}", code="E-USAGE")
    functions = Functions(against)
    for identity in selected(functions, only, all_of_them=against is None, hard=hard):
        if can_run(identity, backend) and not piece:
            yield check_identity(identity, functions, backend, cases, seed, case)
    if against is not None:
        names = [piece] if piece else [n for n in piece_names(against) if only in f"{n}: "]
        yield from mark_pieces(against, names, backend, seed)


def check_identity(
    identity: Identity,
    functions: Functions,
    backend: Backend,
    cases: int = 100,
    seed: int = 0,
    case: int | None = None,
) -> CheckResult:
    """Compare a function and its oracle on `cases` random inputs, or on case number `case`."""
    if identity.edges:
        cases = max(cases, len(identity.edges(random_inputs(identity, backend, seed, 0).limits)))
    numbers = range(cases) if case is None else range(case, case + 1)
    worst = _worst_case(identity, functions, backend, seed, numbers)
    edge = identity.edge(random_inputs(identity, backend, seed, worst.number))
    at_edge = f", {edge}" if edge else ""
    verdict = "ok"
    detail = ""
    calls = ()
    notes = ()
    if worst.error is not None or worst.fault or worst.deviation.ulps > identity.ulps:
        verdict, text = worst.verdict(functions, identity.ulps)
        detail = f"{'in case' if worst.error else 'case'} {worst.number}{at_edge}{text}"
        recorded = repeat_case(identity, functions, backend, seed, worst.number)[0]
        calls = tuple(str(call) for call in recorded)
        notes = tuple(_notes(functions, recorded, unit_of_rounding(backend), identity.ulps, worst))
        if worst.fault and verdict == IN_LAW:
            notes = _in_law(identity, functions, backend, seed, worst.number)
        by_shape = worst.failed_by_shape()
        notes = (*notes, *_causes(identity, functions, backend, seed, worst.number, by_shape))
    function = identity.function
    return CheckResult(
        identity.name,
        function,
        formula_of(function),
        source_of(function),
        identity.oracle,
        len(numbers),
        max(worst.deviation.ulps, 0.0),
        identity.ulps,
        verdict,
        worst.number,
        detail,
        calls,
        notes,
        identity.basis,
        edge,
    )


class _Case(NamedTuple):
    """A case: its number, its deviation, and what is wrong with it otherwise."""

    number: int
    deviation: Deviation = Deviation(-1.0)
    fault: Disagreement | None = None
    error: Exception | None = None

    def verdict(self, functions: Functions, allowed: float) -> tuple[str, str]:
        """Return the verdict of a case that fails, and the text that follows its number."""
        if self.error is not None:
            message = (str(self.error).strip().splitlines() or [""])[0]
            verdict = f"ERROR: {type(self.error).__name__}: {message}"
            return verdict, line_of(self.error, functions.file)
        if self.fault is not None and self.fault.of_shape and not self.deviation.shapes:
            return "FAILED", f": {self.fault.text}"
        if self.deviation.ulps > allowed or self.fault is None:
            return "FAILED", f": {self.deviation}"
        return IN_LAW if self.fault.in_law else "FAILED", f": {self.fault.text}"

    def is_graver(self, other: _Case | None) -> bool:
        """Return whether this case has a fault that the other has not; one in law counts least."""
        if self.fault is None or other is None or other.fault is None:
            return self.fault is not None
        if self.fault.of_shape != other.fault.of_shape:
            return self.fault.of_shape
        return other.fault.in_law and not self.fault.in_law

    def has_another_shape(self) -> bool:
        """Return whether a result has another shape, or a comparison others."""
        return bool(self.deviation.shapes) or (self.fault is not None and self.fault.of_shape)

    def failed_by_shape(self) -> bool:
        """Return whether an exception or another shape may be a missing reshape."""
        return self.error is not None or self.has_another_shape()


def _worst_case(
    identity: Identity, functions: Functions, backend: Backend, seed: int, numbers: range
) -> _Case:
    """Return the first case that raises, or else the worst one.

    A case of another shape is the worst: its numbers cannot be compared. One that breaks the
    identity is worse than one with another fault; among these, one without numbers is worse than
    one that is right in law.
    """
    worst = _Case(numbers[0])
    faulty = None
    for number in numbers:
        try:
            current = try_case(identity, functions, backend, seed, number)
        except Exception as error:  # another implementation may fail in any way
            return worst._replace(number=number, error=error)
        if current.deviation.ulps > worst.deviation.ulps:
            worst = current
        if current.is_graver(faulty):
            faulty = current
    if faulty is None or (worst.deviation.ulps > identity.ulps and not faulty.has_another_shape()):
        return worst
    return faulty


def try_case(
    identity: Identity, functions: Functions, backend: Backend, seed: int, number: int
) -> _Case:
    """Compare function and oracle in a case, and what replaces ldmref's functions with these."""
    eps = unit_of_rounding(backend)
    names = functions.replaced(identity)
    inputs = random_inputs(identity, backend, seed, number)
    if not names:
        return _Case(number, deviation(identity.case(functions, inputs), eps))
    theirs = WatchedFunctions(functions, names)
    found = deviation(identity.case(theirs, inputs), eps)
    ours = _watch_ours(identity, names, backend, seed, number)
    fault = lost_numbers(theirs.within, ours.within) or first_fault(
        theirs.calls, ours.calls, array_kind(backend)
    )
    if fault and fault.in_law and identity.by_itself:
        fault = None  # such a law says nothing of the numbers, which the others judge
    return _Case(number, found, fault)


def _watch_ours(
    identity: Identity,
    names: list[str],
    backend: Backend,
    seed: int,
    number: int,
    change: Altered = unchanged,
) -> WatchedFunctions:
    """Return the calls of ldmref's functions in the same case."""
    ours = WatchedFunctions(Functions(), names, change)
    identity.case(ours, random_inputs(identity, backend, seed, number))
    return ours


def _causes(
    identity: Identity,
    functions: Functions,
    backend: Backend,
    seed: int,
    case: int,
    by_shape: bool,
) -> Iterator[str]:
    """Yield the cause of a failure, if it explains all results of the function.

    If shapes fail and nothing is found, the arguments are reshaped for the function: two mistakes
    are two hints.
    """
    text = _cause(identity, functions, backend, seed, case)
    if text:
        yield f"hint: this is the result if {text}"
    elif by_shape:
        reshaping = with_reshaped_arguments(functions, functions.replaced(identity))
        if text := _cause(identity, reshaping, backend, seed, case, functions.replaced(identity)):
            yield f"hint: with that reshape, this is the result if {text}"


def _cause(
    identity: Identity,
    functions: Functions,
    backend: Backend,
    seed: int,
    case: int,
    replaced: list[str] | None = None,
) -> str:
    """Return the cause of wrong results, a declared mistake or one of any formula; "" if none.

    It explains the results in the failing case and in others, also in those of the function's other
    laws: in a special case, such as parallel vectors, many causes would give the same numbers.
    """
    names = functions.replaced(identity) if replaced is None else replaced
    laws = [i for i in identities() if i.function in names and can_run(i, backend)]
    others = [(law, number) for law in laws if not law.gradients for number in OTHERS]
    cases = [*([] if identity.gradients else [(identity, case)]), *others]
    for name in names:
        function = getattr(functions, name)
        own = [(law, number) for law, number in cases if name in (law.function, *law.uses)]
        if text := name_known_mistake(name, function, backend, seed, own):
            return text
    calls, ours = (
        [
            call
            for law, number in [(identity, case), *others]
            for call in repeat_case(law, tested, backend, seed, number, names)[0][:CALLS]
        ]
        for tested in (functions, Functions())
    )
    if differs_only_in_last_steps(calls, ours):
        return "steps are right except those to sigma_next = 0, which return x0"
    return explain(functions, calls)


def _in_law(
    identity: Identity, functions: Functions, backend: Backend, seed: int, number: int
) -> tuple[str, ...]:
    """Say in which way functions differ for which the identity holds."""
    names = functions.replaced(identity)
    theirs = WatchedFunctions(functions, names)
    identity.case(theirs, random_inputs(identity, backend, seed, number))
    ours = _watch_ours(identity, names, backend, seed, number, with_negative_noise)
    if first_fault(theirs.calls, ours.calls, array_kind(backend)) is None:
        what = "the noise has the opposite sign"
        return (f"{what}: right in law, but the same noise gives another result",)
    return (
        "its numbers are not ldmref's: this identity holds, but the same arguments give another "
        "result",
    )


def repeat_case(
    identity: Identity,
    functions: Functions,
    backend: Backend,
    seed: int,
    case: int,
    replaced: list[str] | None = None,
) -> tuple[list[Call], Comparison | None]:
    """Return the calls of the functions under test in one case, and its comparison or None."""
    names = replaced or functions.replaced(identity) or [identity.function]
    recorded = RecordedMakers(functions, names)
    with suppress(Exception):
        comparison = identity.case(recorded, random_inputs(identity, backend, seed, case))
        return recorded.calls, comparison
    return recorded.calls, None


def _notes(
    functions: Functions, calls: list[Call], eps: float, allowed: float, worst: _Case
) -> Iterator[str]:
    """Yield possible causes of a failure: a part that differs from ldmref's, a wrong shape, ...

    No result is compared with ldmref's if one is the number shown next to that of the oracle: a
    second pair of numbers, from another position, would only confuse.
    """
    by_shape = worst.failed_by_shape()
    shown = worst.deviation.got if worst.error is None else None
    is_shown = not by_shape and any(_returned(call, shown) for call in calls)
    for call in calls:
        if isinstance(call, MadeCall) or is_shown:
            continue
        with suppress(
            Exception
        ):  # ldmref's function may reject inputs that another implementation accepts
            if difference := difference_from_ours(call, eps, allowed):
                yield difference
                break
    if by_shape:
        last = calls[-1:] if calls and not calls[-1].finished else calls
        hints = [arguments_hint(call, worst.error) or _reshape(functions, call) for call in last]
        yield from [*filter(None, hints)][:1]


def _reshape(functions: Functions, call: Call) -> str:
    """Return the hint to reshape arguments, if it helps; or ""."""
    cured = is_cured_by_a_reshape(call, getattr(functions, call.function))
    return shape_hint(call) if cured else ""


def _returned(call: Call, number: float | None) -> bool:
    """Return whether the number is in the result of a call with one result."""
    parts = [*call.parts().values()] if call.finished else []
    if number is None or len(parts) != 1 or not hasattr(parts[0], "shape"):
        return False
    return bool(np.any(np.equal(to_host(parts[0]), number)))


def array_kind(backend: Backend) -> ArrayKind:
    """Return the unit of rounding and the library of the arrays that functions get."""
    library = type(backend.asarray(np.zeros(1))).__module__.partition(".")[0]
    return ArrayKind(unit_of_rounding(backend), library)


# -- causes of a failing identity ------------------------------------------------------------------


Arguments = dict[str, Any]


def explain(functions: Functions, calls: Sequence[Call]) -> str:
    """Return the cause of wrong results of one function, as in "this is the result if ..."; or "".

    All calls with wrong results must have the same cause, and a result that is right must be right
    with it: a root that is missing shows nothing where it is 1.
    """
    finished = [call for call in calls if call.finished and not isinstance(call, MadeCall)]
    for name in dict.fromkeys(call.function for call in finished):
        if isinstance(public(name), type):
            continue
        own = [call for call in finished if call.function == name]
        # a function that may do anything is called again: without a cause the report is whole
        with np.errstate(all="ignore"), suppress(Exception):
            if text := _explain(name, getattr(functions, name), own):
                return text
    return ""


def _explain(name: str, theirs: Callable[..., Any], calls: list[Call]) -> str:
    ours = public(name)

    def compute(change: Callable[[Arguments], Arguments]) -> causes.Parts:
        return _parts([(name, ours(**change(call.arguments))) for call in calls])

    got = _parts([(name, call.returned) for call in calls])
    right = compute(dict)
    again = compute(dict)
    if set(got) != set(right) or not all(
        np.array_equal(again[n], y, True) for n, y in right.items()
    ):
        return ""  # a result of another structure, or an argument that has a state
    numbers = [n for n in calls[0].arguments if all(_is_number(c.arguments.get(n)) for c in calls)]
    mistakes = _mistakes(name, calls, numbers, got, right, compute)
    return causes.named(got, right, mistakes) or _of_terms(ours, theirs, calls, numbers)


def _mistakes(
    name: str,
    calls: list[Call],
    numbers: list[str],
    got: causes.Parts,
    right: causes.Parts,
    compute: Callable[[Callable[[Arguments], Arguments]], causes.Parts],
) -> Iterator[causes.Mistake]:
    yield from causes.of_results(right)
    arrays = [n for n in numbers if all(_size(c.arguments[n]) > 1 for c in calls)]
    if arrays:
        first = [to_host(call.arguments[arrays[0]]) for call in calls]
        yield from causes.of_counts(right, {n: first[int(n.partition(".")[0])] for n in right})
    yield from causes.of_missing_reductions(got, right)
    parameters = inspect.signature(public(name)).parameters
    passed = {n for call in calls for n in call.arguments}
    defaults = {
        n: p.default for n, p in parameters.items() if n in passed and p.default is not p.empty
    }
    yield from causes.of_arguments(numbers, compute, defaults)
    inputs = {
        a: {n: to_host(calls[int(n.partition(".")[0])].arguments[a]) for n in right}
        for a in numbers
    }
    yield from causes.of_differences(got, right, inputs)


def _of_terms(
    ours: Callable[..., Any], theirs: Callable[..., Any], calls: list[Call], numbers: list[str]
) -> str:
    """Compare the coefficients of arrays, if both results are sums of their multiples."""
    arrays = [n for n in numbers if all(np.ndim(to_host(c.arguments[n])) > 1 for c in calls)]
    wrong, right = (_coefficients(function, calls, arrays) for function in (theirs, ours))
    return causes.of_terms(wrong, right) if wrong and right else ""


def _coefficients(
    function: Callable[..., Any], calls: list[Call], arrays: list[str]
) -> dict[str, np.ndarray] | None:
    """Return the coefficient of each array, one for each example of each call; None without any."""
    found = {name: [] for name in arrays}
    for call in calls:
        total = 0.0
        for name in arrays:
            # a 1 everywhere, and the other arrays 0, gives the coefficient
            ones = {n: 0.0 * call.arguments[n] + (n == name) for n in arrays}
            y = to_host(function(*(call.arguments | ones).values()))
            x = to_host(call.arguments[name])
            if y.shape != x.shape or np.ptp(y.reshape(len(y), -1), axis=1).any():
                return None
            total = total + y * x
            found[name].append(y.reshape(len(y), -1)[:, 0])
        result = to_host(function(*call.arguments.values()))
        if not np.allclose(total, result, rtol=causes.EXACT, atol=causes.EXACT):
            return None
    return {name: np.concatenate(rows) for name, rows in found.items()}


def _parts(results: list[tuple[str, Any]]) -> dict[str, np.ndarray]:
    """Return the values of all results, called "0.mean" and the like."""
    return {
        f"{i}.{part}": to_host(value)
        for i, (name, result) in enumerate(results)
        for part, value in named_parts(name, result).items()
    }


def _is_number(value: object) -> bool:
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return is_one or hasattr(value, "shape")


def _size(value: Any) -> int:
    return int(np.prod(np.shape(value))) if hasattr(value, "shape") else 1
