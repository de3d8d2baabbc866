"""The likely causes of a wrong result, for formulas and for the pieces of the capstone.

A cause changes what the right function gets or returns; the one whose result is the wrong one is
named. `of_results` needs only the right result: its sign, a factor 2, a root, a sum in place of a
mean. `of_arguments` computes the right function again: exchanged arguments, one without its root or
left out. `of_terms` looks at the coefficient of each argument in a sum.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Parts = Mapping[str, np.ndarray]
EXACT = 1e-6  # of the error: what a cause may leave of it


class Mistake(NamedTuple):
    """A likely mistake, and the result that a function with it returns."""

    text: str
    result: Callable[[], Parts]


# text after "this is the result if", and the change of a result
ELEMENTS: tuple[tuple[str, Callable[[np.ndarray], np.ndarray]], ...] = (
    ("the sign is the opposite", lambda y: -y),
    ("a factor 1/2 is missing, or a factor 2 is too many", lambda y: 2.0 * y),
    ("a factor 2 is missing, or a factor 1/2 is too many", lambda y: 0.5 * y),
    ("a root is missing: this is the square", lambda y: np.sign(y) * y**2),
    ("a root is taken that does not belong there", lambda y: np.sign(y) * np.abs(y) ** 0.5),
    ("numerator and denominator are exchanged", lambda y: 1.0 / y),
    ("1 minus the result is meant", lambda y: 1.0 - y),
    ("a logarithm is missing", np.exp),
    ("a logarithm is taken that does not belong there", np.log),
    ("bits are meant in place of nats", lambda y: y / math.log(2.0)),
    (
        "the logarithm of 2 multiplies, where it belongs in the denominator",
        lambda y: y * math.log(2.0) ** 2,
    ),
    ("the last two axes are exchanged", lambda y: np.swapaxes(y, -1, -2)),
    ("the last axis is reversed", lambda y: y[..., ::-1]),
    ("both halves of the last axis are exchanged", lambda y: np.roll(y, y.shape[-1] // 2, axis=-1)),
)
# text after "this is the result if", and the change of an argument
ARGUMENTS: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("{} has the opposite sign", lambda a: -a),
    ("{} is left out, as if it were 0", lambda a: 0.0 * a),
    ("{} has no effect, as if it were 1", lambda a: 0.0 * a + 1.0),
    ("a factor 1/2 of {} is missing, or a factor 2 is too many", lambda a: 2.0 * a),
    ("a factor 2 of {} is missing, or a factor 1/2 is too many", lambda a: 0.5 * a),
    ("{} stands in place of its root", lambda a: a**2),
    ("the root of {} is taken once too often", lambda a: _real_root(a)),
    ("{} stands in place of 1 minus it", lambda a: 1.0 - a),
    ("{} is divided by, where it multiplies, or the other way round", lambda a: 1.0 / a),
    ("1 is added to {}", lambda a: 1.0 + a),
    ("1 is subtracted from {}", lambda a: a - 1.0),
)


def _real_root(a: Any) -> Any:
    """Return the root of a number or an array of any library; of negative ones NaN."""
    return math.nan if isinstance(a, int | float) and a < 0 else a**0.5


def named(got: Parts, right: Parts, mistakes: Iterable[Mistake], same: float = EXACT) -> str:
    """Return the text of the first mistake that leaves less than `same` of the error; or "".

    Numbers that are not finite in one of both results are left out, unless they are most.
    """
    known = {n: _finite(got[n], y) for n, y in right.items()}
    got, right = ({n: known[n](y) for n, y in parts.items()} for parts in (got, right))
    error = mean_difference(got, right)
    if error == 0.0 or not all(np.isfinite(y).all() for y in (*got.values(), *right.values())):
        return ""
    if error == np.inf:  # another shape
        error = float(np.mean([np.mean(np.abs(y)) for y in right.values()]))
    for mistake in mistakes:
        with np.errstate(all="ignore"):
            try:
                result = {name: known[name](y) for name, y in mistake.result().items()}
            except Exception:  # ldmref's function may reject what a mistake makes of its arguments
                continue
            if mean_difference(got, result) <= same * error:
                return mistake.text
    return ""


def _finite(got: np.ndarray, right: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that leaves out what is not finite in one of two arrays of one shape."""
    if got.shape != right.shape:
        return np.asarray
    known = np.isfinite(got) & np.isfinite(right)
    if known.all() or 2 * known.sum() < known.size:
        return np.asarray
    return lambda y: np.asarray(y)[known] if np.shape(y) == known.shape else np.asarray(y)


def mean_difference(got: Parts, other: Parts) -> float:
    """Return the mean difference; infinite if shapes differ or a number is not finite."""
    if any(got[name].shape != np.shape(value) for name, value in other.items()):
        return np.inf
    parts = [np.mean(np.abs(got[name] - np.asarray(v, float))) for name, v in other.items()]
    mean = float(np.mean(parts))
    return mean if np.isfinite(mean) else np.inf


def of_results(right: Parts) -> Iterator[Mistake]:
    """Yield the mistakes that the right result alone shows.

    >>> right = {"mean": np.asarray([1.0, -2.0]), "variance": np.asarray([0.25, 0.5])}
    >>> got = right | {"variance": np.asarray([0.0625, 0.25])}
    >>> named(got, right, of_results(right))
    'variance: a root is missing: this is the square'
    """
    ends = [*dict.fromkeys(_part_of(name) for name in right)]
    for part in ["", *ends] if len(ends) > 1 else [""]:
        prefix = f"{part}: " if part else ""
        for text, change in ELEMENTS:
            yield Mistake(prefix + text, _changed(right, part, change))
        for text, change in _sums_and_means():
            yield Mistake(prefix + text, _changed(right, part, change))
    for a, b in itertools.combinations(ends, 2):
        exchanged = {a: b, b: a}
        yield Mistake(
            f"{a} and {b} are exchanged",
            lambda e=exchanged: {n: right[_beside(n, e.get(_part_of(n), ""))] for n in right},
        )


def _part_of(name: str) -> str:
    """Return the part's name; parts of several calls are called "0.mean", "1.mean"."""
    return name.rpartition(".")[2]


def _beside(name: str, part: str) -> str:
    """Return the name of another part of the same call."""
    call, dot, own = name.rpartition(".")
    return call + dot + (part or own)


def _changed(right: Parts, part: str, change: Callable[[np.ndarray], Any]) -> Callable[[], Parts]:
    return lambda: {n: change(y) if part in ("", _part_of(n)) else y for n, y in right.items()}


def _sums_and_means() -> Iterator[tuple[str, Callable[[np.ndarray], Any]]]:
    """Yield reductions that do not belong: over all axes, the first, the last, or all others."""
    names = {
        "all entries": lambda y: tuple(range(y.ndim)),
        "the examples": lambda y: (0,),
        "the entries of an example": lambda y: tuple(range(1, y.ndim)),
        "the last axis": lambda y: (y.ndim - 1,),
    }
    for (where, axes), (what, reduce) in itertools.product(
        names.items(), (("sum", np.sum), ("mean", np.mean))
    ):
        text = f"the {what} over {where} is taken, which does not belong there"
        yield text, lambda y, a=axes, r=reduce: r(y, axis=a(y))
        yield text, lambda y, a=axes, r=reduce: r(y, axis=a(y), keepdims=True) + 0.0 * y


def of_missing_reductions(got: Parts, right: Parts) -> Iterator[Mistake]:
    """Yield the mistake that got has more axes, over which the right result is a sum or a mean."""
    for what, reduce in (("sum", np.sum), ("mean", np.mean)):
        for first in (False, True):
            reduced = [_reduced(reduce, got[n], y.ndim, first) for n, y in right.items()]
            if all(_equal(a, y) for a, y in zip(reduced, right.values(), strict=True)):
                where = "the first axes" if first else "the entries"
                yield Mistake(f"the {what} over {where} is missing", lambda: got)


def _reduced(
    reduce: Callable[..., np.ndarray], y: np.ndarray, left: int, first: bool
) -> np.ndarray:
    """Reduce the first or the last axes of y, of which `left` are left."""
    more = y.ndim - left
    if more <= 0:
        return np.zeros(0)
    return reduce(y, axis=tuple(range(more) if first else range(left, y.ndim)))


def of_counts(right: Parts, inputs: Mapping[str, np.ndarray]) -> Iterator[Mistake]:
    """Yield a sum in place of a mean, or the other way round; `inputs` is an array of each call."""
    counts = {
        "all entries": lambda x: x.size,
        "the examples": len,
        "the entries of an example": lambda x: x[0].size,
        "the last axis": lambda x: x.shape[-1],
    }
    for where, count in counts.items():
        numbers = {name: float(count(inputs[name])) for name in right}
        if min(numbers.values()) > 1.0:
            yield Mistake(
                f"a mean over {where} is missing: this is the sum",
                lambda n=numbers: {name: n[name] * y for name, y in right.items()},
            )
            yield Mistake(
                f"the mean over {where} stands in place of the sum",
                lambda n=numbers: {name: y / n[name] for name, y in right.items()},
            )


def of_arguments(
    names: Sequence[str],
    compute: Callable[[Callable[[dict[str, Any]], dict[str, Any]]], Parts],
    defaults: Mapping[str, Any],
) -> Iterator[Mistake]:
    """Yield mistakes in one argument, and two that are exchanged.

    Args:
        names: Names of the arguments that are numbers or arrays.
        compute: `compute(change)` returns the right results for arguments that are changed.
        defaults: Values of arguments that may be left out.
    """
    for name, default in defaults.items():
        others = (default, not default) if isinstance(default, bool) else (default,)
        for value in others:
            yield Mistake(
                f"{name} has no effect, as if it were {value}",
                lambda n=name, v=value: compute(lambda a: a | {n: v}),
            )
    for a, b in itertools.combinations(names, 2):
        yield Mistake(
            f"{a} and {b} are exchanged",
            lambda a=a, b=b: compute(lambda args: args | {a: args[b], b: args[a]}),
        )
    for name, (text, change) in itertools.product(names, ARGUMENTS):
        yield Mistake(
            text.format(name),
            lambda n=name, c=change: compute(lambda args: args | {n: c(args[n])}),
        )


def of_differences(got: Parts, right: Parts, inputs: Mapping[str, Parts]) -> Iterator[Mistake]:
    """Yield the mistake that a multiple of an argument, or a constant, is added to the result.

    Args:
        got: Wrong results of all calls.
        right: The right results.
        inputs: By argument, its value in the call of each result.
    """
    if any(got[n].shape != y.shape for n, y in right.items()):
        return
    gap = np.concatenate([(got[n] - y).ravel() for n, y in right.items()])
    for text, terms in _terms(right, inputs):
        length = float(terms @ terms)
        factor = float(gap @ terms) / length if length else 0.0
        if factor and np.allclose(gap, factor * terms, rtol=0.0, atol=EXACT * np.abs(gap).max()):
            more = "larger" if factor > 0 else "smaller"
            yield Mistake(
                f"the sign, a factor or the constant of a term is wrong: it is {more} by "
                f"{abs(factor):.6g}{text}",
                lambda: got,
            )


def _terms(right: Parts, inputs: Mapping[str, Parts]) -> Iterator[tuple[str, np.ndarray]]:
    yield "", np.concatenate([np.ones(y.size) for y in right.values()])
    changes = {"": lambda x: x, "^2": np.square, "exp": np.exp, "log": np.log}
    for (name, values), (change, function) in itertools.product(inputs.items(), changes.items()):
        summed = [_summed(function(values[n]), y) for n, y in right.items()]
        found = [x for x in summed if x is not None and np.isfinite(x).all()]
        if len(found) == len(summed):
            text = f" {name}{change}" if change in ("", "^2") else f" {change}({name})"
            yield text, np.concatenate([np.ravel(x) for x in found])


def _summed(x: np.ndarray, like: np.ndarray) -> np.ndarray | None:
    """Sum an argument over its last axes to the shape of the result; None if that is another."""
    if x.ndim > like.ndim:
        x = np.sum(x, axis=tuple(range(like.ndim, x.ndim)))
    x = x.reshape(-1, *(1,) * (like.ndim - 1)) if x.ndim == 1 < like.ndim else x
    try:
        return np.broadcast_to(x, like.shape)
    except ValueError:
        return None


COEFFICIENTS = ELEMENTS[:7]


def of_terms(theirs: Mapping[str, np.ndarray], ours: Mapping[str, np.ndarray]) -> str:
    """Name what is wrong with coefficients by argument, if every wrong one has a cause; or "".

    >>> right, wrong = np.asarray([0.6, 0.8]), np.asarray([0.36, 0.64])
    >>> of_terms({"x0": right, "eps": wrong}, {"x0": right, "eps": right})
    'in the coefficient of eps a root is missing: this is the square'
    """
    wrong = [name for name, own in ours.items() if not _equal(theirs[name], own)]
    causes = [_coefficient(name, theirs, ours) for name in wrong]
    return "; ".join(causes) if causes and all(causes) else ""


def _coefficient(
    name: str, theirs: Mapping[str, np.ndarray], ours: Mapping[str, np.ndarray]
) -> str:
    got = theirs[name]
    if not np.any(got):
        return f"the term of {name} is missing"
    for text, change in COEFFICIENTS:
        with np.errstate(all="ignore"):
            if _equal(got, change(ours[name])):
                return f"in the coefficient of {name} {text}"
    for other, coefficient in ours.items():
        if other != name and _equal(got, coefficient):
            return f"{name} has the coefficient of {other}"
        if other != name and _equal(got, 1.0 - coefficient):
            return f"the coefficient of {name} is 1 minus that of {other}"
    if _equal(got, np.ones_like(got)):
        return f"{name} has no coefficient"
    return ""


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    scale = max(1e-300, float(np.max(np.abs(b), initial=0.0)))
    close = a.shape == b.shape and np.max(np.abs(a - b), initial=0.0) <= EXACT * scale
    return bool(close and np.isfinite(scale))
