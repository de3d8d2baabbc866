"""Causes of a wrong result of a part: one of its inputs or declared parameters is another one.

None of them is written for a formula: they follow from what the part and its rule declare.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from ldmref.declare import Range, get_fields
from ldmref.locate.parts.rules import changed
from ldmref.locate.parts.visit import Visit

PossibleCause = tuple[str, Callable[[], np.ndarray | None]]
WORDS = {"cond": "conditional", "uncond": "unconditional"}
FIELDS = {
    (name, "phi"): "guidance rescale" for name in ("rescale", "rescaled")
}  # what causes call them
ROUNDS, SLOPE = 12, 1e-5  # of the fit of a number, and its relative difference
ALIKE = 1e-3  # the relative difference of numbers of one cause


def hypotheses(
    visit: Visit,
    got: np.ndarray,
    before: Visit | None = None,
    after: Visit | None = None,
    rules: Mapping[str, Any] | None = None,
) -> Iterator[PossibleCause]:
    """Yield causes: words, and a function that returns what they would give.

    Args:
        visit: The visit.
        got: What was recorded in place of its output.
        before, after: The visits before and after it. None: there are none.
        rules: Other rules of the same inputs, by name.
    """
    yield from _arrays(visit)
    yield from _numbers(visit, got)
    yield from _parameters(visit, got)
    for words, other in (("before", before), ("after", after)):
        if other is not None:
            yield from _neighbours(visit, got, other, words)
    if visit.part.memory and visit.inputs.get(visit.part.memory):
        forgets = visit.with_inputs(**{visit.part.memory: ()})
        yield f"the {visit.part.memory} is lost", forgets.output
    for name, rule in (rules or {}).items() if got.any() else ():  # zeros are no rule's mistake
        yield f"{name} instead of {visit.rule.name}", replace(visit, rule=rule).output


def _arrays(visit: Visit) -> Iterator[PossibleCause]:
    """Yield arrays that are passed on as they are, are exchanged, or have the other sign."""
    arrays = visit.arrays
    for name, x in arrays.items():
        words = f"{visit.part.call} is dropped: the {WORDS.get(name, name)} prediction alone"
        yield words, lambda x=x: np.asarray(x, np.float64)
    for a, b in combinations(arrays, 2):
        first, second = sorted((a, b))
        swapped = visit.with_arrays(**{a: arrays[b], b: arrays[a]})
        yield f"{first} and {second} are swapped", swapped.output
    for name, x in arrays.items():
        own = WORDS.get(name, name)
        words = f"the sign of the {own} prediction is reversed"
        yield words, visit.with_arrays(**{name: -x}).output
        for other, y in arrays.items():
            if other != name:
                words = f"the {WORDS.get(other, other)} prediction in place of the {own} one"
                yield words, visit.with_arrays(**{name: y}).output


def _numbers(visit: Visit, got: np.ndarray) -> Iterator[PossibleCause]:
    """Yield numbers with other values, which are fitted."""
    for slot in visit.part.inputs:
        if not slot.number or slot.name not in visit.inputs:
            continue
        right = float(visit.inputs[slot.name])
        words = slot.words or slot.name
        at = _at(visit, slot.name)
        yield from _fitted(words, right, at, got)
        yield f"{words} larger by 1", lambda at=at, right=right: at(right + 1.0)


def _at(visit: Visit, name: str) -> Callable[[float], np.ndarray | None]:
    """Return the output of a visit as a function of one of its numbers."""
    return lambda value: visit.with_inputs(**{name: value}).output()


def _fit_of(visit: Visit, name: str, got: np.ndarray) -> float | None:
    return fit(_at(visit, name), float(visit.inputs[name]), got)


def _parameters(visit: Visit, got: np.ndarray) -> Iterator[PossibleCause]:
    """Yield declared parameters with other values: fitted, the ends of the range, the default."""
    for name, field in get_fields(type(visit.rule)).items():
        right = getattr(visit.rule, name)
        words = FIELDS.get((visit.rule.name, name), f"{visit.rule.name} {name}")

        def at(value: Any, name: str = name) -> np.ndarray | None:
            return replace(visit, rule=changed(visit.rule, **{name: value})).output()

        others: list[Any] = [*field.choices]
        if field.kind is bool:
            others = [not right]
        if field.kind is float and isinstance(right, float):
            limits = field.marks.get(Range, Range())
            yield from _fitted(words, right, at, got, limits)
            others = [0.0, 1.0, *filter(np.isfinite, limits[:2]), field.default]
        for other in dict.fromkeys(others):
            if other != right and isinstance(other, str | bool | int | float):
                text = f"{words} {other:g}" if isinstance(other, float) else f"{words} {other}"
                yield f"{text} instead of {_show(right)}", lambda at=at, other=other: at(other)


def _neighbours(visit: Visit, got: np.ndarray, other: Visit, words: str) -> Iterator[PossibleCause]:
    """Yield inputs of the visit before or after this one."""
    alike = other.arrays.keys() == visit.arrays.keys()
    if alike and all(x.shape == visit.arrays[k].shape for k, x in other.arrays.items()):
        changed = visit.with_arrays(**other.arrays)
        yield f"the prediction of the step {words}", changed.output
        for name, x in other.arrays.items():
            text = f"the {WORDS.get(name, name)} prediction of the step {words}"
            yield text, visit.with_arrays(**{name: x}).output
    for slot in visit.part.inputs:
        if slot.number and slot.name in other.inputs:
            text = f"the {slot.words or slot.name} of the step {words}"
            neighbour = float(other.inputs[slot.name])
            found = _fit_of(visit, slot.name, got)
            # The fit has said it already, and rounding would choose between the two.
            if found is None or not math.isclose(found, neighbour, rel_tol=ALIKE):
                yield text, visit.with_inputs(**{slot.name: neighbour}).output


def _fitted(
    words: str,
    right: float,
    at: Callable[[float], np.ndarray | None],
    got: np.ndarray,
    limits: Range = Range(),  # noqa: B008
) -> Iterator[PossibleCause]:
    found = fit(at, right, got)
    if found is not None and found != right and limits.holds(round(found, 6)):
        text = f"{words} {found:.5g} instead of {right:g}"
        if right and abs(found / right - 1000.0) < 1.0:
            text = f"{words} times 1000: {found:.5g} instead of {right:g}"
        yield text, lambda: at(found)


def fit(at: Callable[[float], np.ndarray | None], start: float, got: np.ndarray) -> float | None:
    """Return the number at which a function is nearest to an array; None if it does not depend.

    By the method of Gauss and Newton, exact in one round where the function is linear.
    """
    value = start
    for _ in range(ROUNDS):
        size = SLOPE * max(abs(value), 1.0)
        here, there = at(value), at(value + size)
        if here is None or there is None:
            return None
        slope = (there - here) / size
        square = float(np.vdot(slope, slope))
        if not np.isfinite(square) or square == 0.0:
            return None if value == start else value
        change = float(np.vdot(slope, got - here)) / square
        value += change
        if abs(change) <= 1e-9 * max(abs(value), 1e-9):
            break
    return value if np.isfinite(value) else None


def _show(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
