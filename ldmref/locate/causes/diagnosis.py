"""The cause of an error: a layout, a missing operation, another weight, or a known fault.

Only the part that is wrong is computed again, with one change at a time; if none explains a certain
fault, with two (`ldmref.locate.causes.pairs`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

import numpy as np

from ldmref.locate.causes.alike import AlikeLayers, without_numbers
from ldmref.locate.causes.elsewhere import ADDED_TWICE, NOT_ADDED
from ldmref.locate.causes.nearby import (
    activated,
    arrays_around,
    broadcasts,
    fit_tokens,
    is_usable,
    normalized,
    read_before,
)
from ldmref.locate.causes.pairs import Tried, likely_pairs, sample
from ldmref.locate.causes.part_faults import (
    hypotheses_of_each,
    is_block,
    is_large,
    is_small,
    known_hypotheses,
)
from ldmref.locate.faults.definition import rewirings
from ldmref.locate.faults.hypothesis import Hypothesis
from ldmref.locate.faults.table import ROTATIONS
from ldmref.locate.faults.tokens import other_filling
from ldmref.locate.faults.weights import fit_weights
from ldmref.locate.faults.whole import hidden_states
from ldmref.locate.law import GAIN, allowed_error, choose_cause, explains
from ldmref.locate.recorded.layouts import largest_value, recognise, relative_error
from ldmref.locate.recorded.names import find_entry, read_role
from ldmref.locate.replay.points import FollowedRun, Point

MAX_RERUNS = 400  # of a part that is wrong
MAX_RERUNS_OF_SMALL = 1200  # of one that is quickly computed again
LEAST_KNOWN = 1 / 8  # of an array that a fault says
SKIPPED = "{} is skipped: its output is its input"
AS_MUCH = 1.05  # factor between mean errors that tells no two numbers apart
NEAR = 50.0  # factor by which a cause that does not explain an error reduces it, to be worth a hint
LIKELY = 20.0  # factor by which a change that no table knows must reduce an error
NOISIEST = 3  # nearest faults whose own noise is computed
NAMES = {"input": "q"}  # roles of an attention in words
EQUALS = "equals the "  # a cause that says less than one of another order of operations
REORDERED = re.compile(
    r"reads the stream without the (attention|MLP)\b|is applied (after|before) the|are \w+ too|"
    r"the residual is the"
)
HINT = "nearest to {}, which leaves {:.2g}"


@dataclass(frozen=True)
class Cause:
    """A cause with the error that it leaves; "" and None if none was found."""

    cause: str = ""
    explained: float | None = None
    note: str = ""


@dataclass(frozen=True)
class _Wrong:
    """An array that is wrong, and what explains it: the law of `ldmref.locate.law`.

    Attributes:
        replay: The replay that computed the point.
        point: The array, in the expected order in memory.
        recorded: It, in float64 and without padding.
        error: Its relative error.
        floor: The noise floor of the part, relative.
        alike: What explained other layers of the call.
    """

    replay: FollowedRun
    point: Point
    recorded: np.ndarray
    error: float
    floor: float
    alike: AlikeLayers = field(default_factory=AlikeLayers)

    def error_of(self, array: np.ndarray) -> float:
        """Return the error that the recorded array has if it should be another one."""
        return relative_error(self.recorded, self.point.kept(array))

    def is_explained(self, left: float, floor: float = 0.0) -> bool:
        """Return whether an error is rounding, by the floor of the right part or of a wrong one."""
        return explains(left, self.error, allowed_error(max(self.floor, floor)))

    @cached_property
    def residual(self) -> Cause:
        """The tokens that were not added, or added twice."""
        return _find_residual(self)

    def noise_of(self, hypothesis: Hypothesis) -> float:
        """Return the noise floor of a part with a fault, which may be larger than without it."""
        exact = hypothesis.compute(self.replay, self.point)
        low = hypothesis.compute(self.replay, self.point, low=True)
        if exact is None or low is None or hypothesis.array is not None:
            return 0.0
        noise = _error_where_known(low, exact)
        return noise if np.isfinite(noise) else 0.0


def diagnose(
    replay: FollowedRun,
    point: Point,
    error: float,
    floor: float,
    certain: bool = False,
    *,
    alike: AlikeLayers | None = None,
) -> Cause:
    """Return the cause of an error.

    A cause leaves only rounding: of the right part or, for a known fault, of the part with it. If
    no cause does, the note says which one is nearest to a certain fault.

    Args:
        replay: The replay that computed the point.
        point: The array that is wrong, in the expected order in memory.
        error: Its relative error.
        floor: The noise floor of the part, relative.
        certain: Whether the error is a fault even if no cause is found.
        alike: What is known of the layers of other blocks. None: nothing is.
    """
    recorded = point.kept(np.asarray(point.recorded, np.float64))
    alike = AlikeLayers() if alike is None else alike
    wrong = _Wrong(replay, point, recorded, error, floor, alike)
    term = Cause()  # that a norm's output is not added, or not rotated
    for find in (_find_identity, lambda one: one.residual, _find_term):
        found = find(wrong)
        if found.cause and not _is_of_norm(found) and not _is_not_rotated(found, point):
            return _say_more(wrong, found) if certain else found
        term = term if term.cause else found
    kind = alike.kind_of(point)
    usual = alike.cause_of(kind)
    if usual:
        tried = _try_known_faults(wrong, usual)
        if is_block(point):
            tried += _try_known_faults(wrong, usual, each=True)
        found = _explain_by_fault(wrong, tried, certain)
        if not found.cause and certain:
            found = _find_rewiring(wrong, usual)
        if found.cause:
            return found
    if not alike.tries(kind):
        alike.fail(kind)
        found = _find_layout(wrong)
        return found if found.cause or not certain else _find_weights(wrong)
    tried = _try_known_faults(wrong)
    found = _explain_by_fault(wrong, tried, certain)
    if not found.cause and certain and is_block(point):
        tried += _try_known_faults(wrong, each=True)
        found = _explain_by_fault(wrong, tried, certain)
    if not found.cause and certain:
        found = _find_rewiring(wrong)
    found = found if found.cause else term
    for find in (_find_other_residual, _find_activated, _find_layout):
        found = found if found.cause else find(wrong)
    for find in (_find_weights, lambda one: _find_pair(one, tried)):
        found = found if found.cause or not certain else find(wrong)
    if found.cause:
        alike.explain(kind, found.cause)
        return found
    alike.fail(kind)
    return Cause(note=_nearest(wrong, tried)) if certain else found


def _say_more(wrong: _Wrong, found: Cause) -> Cause:
    """Return which operation is elsewhere or what is not added where an array equals another one.

    A sum that is skipped is such an array, too: what reads it reads its first term. So are tokens
    before a learned one fills them up.
    """
    skipped = {SKIPPED.format(call.name) for call in wrong.point.suspects if call.kind == "add"}
    if not found.cause.startswith(EQUALS) and found.cause not in skipped:
        return found
    filled = _find_filling(wrong)
    if filled.cause:
        return filled
    said = _find_rewiring(wrong)
    if REORDERED.search(said.cause):
        return said
    term = _find_term(wrong) if wrong.point.role else Cause()
    return term if term.cause.endswith(NOT_ADDED) and not _is_of_norm(term) else found


def _find_filling(wrong: _Wrong) -> Cause:
    """Find what fills up an image or a text instead of its learned token."""
    for words, array in other_filling(wrong.replay, wrong.point):
        left = wrong.error_of(array)
        if wrong.is_explained(left):
            return Cause(words, left)
    return Cause()


def _find_identity(wrong: _Wrong) -> Cause:
    """Find an array nearby that the recorded one equals: what should follow is missing."""
    point = wrong.point
    exchanged = _find_exchanged_inputs(wrong)
    if exchanged.cause:
        return exchanged
    for text, state in hidden_states(wrong.replay, point):
        left = wrong.error_of(state)
        if wrong.is_explained(left):
            return Cause(text, left)
    if len(point.suspects) == 1 and point.role:  # a single operation leads to this input
        (between,) = point.suspects
        left = wrong.error_of(np.asarray(between.inputs["input"]))
        if wrong.is_explained(left):
            return Cause(SKIPPED.format(between.name), left)
    for text, array in arrays_around(wrong.replay, point):
        if array is point.computed:
            continue
        left = wrong.error_of(array)
        if wrong.is_explained(left):
            if text in ("its input", f"the input of {point.call.name}"):
                return Cause(SKIPPED.format(point.call.name), left)
            return wrong.residual if wrong.residual.cause else Cause(f"equals {text}", left)
    return Cause()


def _find_exchanged_inputs(wrong: _Wrong) -> Cause:
    """Find another input of the layer that the recorded one equals, and that is it in turn."""
    point, port = wrong.point, wrong.replay.port
    entry = find_entry(port, wrong.replay.call, point.call) if point.role else None
    for role, array in point.call.inputs.items():
        if entry is None or role == point.role or not is_usable(array):
            continue
        left = wrong.error_of(array)
        recorded = read_role(port, entry.inputs, role, list(point.call.inputs))
        if recorded is None or not wrong.is_explained(left):
            continue
        if wrong.is_explained(relative_error(point.kept(recorded), np.asarray(point.computed))):
            first, second = sorted((point.role, role))
            return Cause(f"{NAMES.get(first, first)} and {second} are swapped", left)
    return Cause()


def _find_term(wrong: _Wrong) -> Cause:
    """Find an array nearby that was not added, or was added twice."""
    computed = np.asarray(wrong.point.computed, np.float64)
    if wrong.recorded.shape != computed.shape:
        return Cause()
    for text, array in arrays_around(wrong.replay, wrong.point):
        term = array[:, :, None, None] if array.ndim == 2 and computed.ndim == 4 else array
        if term.ndim != computed.ndim or not broadcasts(term.shape, computed.shape):
            continue
        for words, factor in ((NOT_ADDED, -1.0), (ADDED_TWICE, 1.0)):
            left = wrong.error_of(computed + factor * term)
            if wrong.is_explained(left):
                return Cause(f"{text} {words}", left)
    return Cause()


def _is_of_norm(found: Cause) -> bool:
    """Return whether a cause is that a norm's output is not added: a scale may lack its 1."""
    name = found.cause.removeprefix("the output of ").partition(" ")[0]
    return found.cause.startswith("the output of ") and "norm" in name.rpartition(".")[2]


def _is_not_rotated(found: Cause, point: Point) -> bool:
    """Return whether a cause is an array that a part equals which rotates: a fault may say more."""
    return found.cause.startswith("equals ") and any(
        call.kind in ROTATIONS for call in point.suspects
    )


def _find_residual(wrong: _Wrong) -> Cause:
    """Find the tokens that a block or a norm reads, which were not added to its result."""
    computed = np.asarray(wrong.point.computed, np.float64)
    for text, array in _streams(wrong):
        for words, factor in (("missing", -1.0), ("added twice", 1.0)):
            left = wrong.error_of(computed + factor * array)
            if wrong.is_explained(left):
                return Cause(f"the residual is {words}: {text}", left)
    return Cause()


def _find_activated(wrong: _Wrong) -> Cause:
    """Find an activation that is applied before a layer."""
    for text, array in activated(wrong.point):
        left = wrong.error_of(array)
        if wrong.is_explained(left):
            return Cause(text, left)
    return Cause()


def _find_other_residual(wrong: _Wrong) -> Cause:
    """Find an array that was added instead of the tokens that a block or a norm reads."""
    computed = np.asarray(wrong.point.computed, np.float64)
    wanted, right = sample(wrong.recorded), sample(computed)
    replay = wrong.replay
    others = [*arrays_around(replay, wrong.point), *read_before(replay), *normalized(replay)]
    fits = [(text, x) for text, whole in others for x in fit_tokens(whole, computed)]
    for stream, old in _streams(wrong, axes=(3, 4)):
        for text, new in fits:
            apart = right + sample(new) - sample(old) - wanted
            if largest_value(apart) > wrong.error * largest_value(right) / GAIN:
                continue
            left = wrong.error_of(computed + new - old)
            if wrong.is_explained(left):
                return Cause(f"the residual is {text} instead of {stream}", left)
    return Cause()


def _streams(wrong: _Wrong, axes: Collection[int] = (3,)) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what norms and blocks before an output read, of its shape.

    Args:
        wrong: The output.
        axes: How many axes it may have: 3 are tokens, 4 images.
    """
    point, replay = wrong.point, wrong.replay
    computed = np.asarray(point.computed)
    floats = computed.dtype.kind == "f" and computed.shape == wrong.recorded.shape
    if computed.ndim not in axes or not floats:
        return
    near = [(call.name, call.inputs.get("input")) for call in (*point.suspects, *point.norms)]
    named = [(f"the input of {name}", x) for name, x in near if _is_named_norm(name)]
    named += [(text, x) for text, x in read_before(replay) if _is_named_norm(text)]
    roles = point.frame.inputs.items() if point.frame.name else ()
    named += [(f"the input of {point.frame.name} ({role})", x) for role, x in roles]
    for text, whole in named:
        for x in fit_tokens(whole, computed):
            yield text, x


def _is_named_norm(name: str) -> bool:
    return "norm" in name.rpartition(".")[2]


def _find_layout(wrong: _Wrong) -> Cause:
    computed = np.asarray(wrong.point.computed, np.float64)
    if computed.size < 2:  # any number is another one, scaled
        return Cause()
    close = allowed_error(wrong.floor)
    layout = recognise(wrong.recorded, computed, close)
    if layout is None and wrong.point.padding is not None:  # rows of others may be there
        whole = np.asarray(wrong.point.recorded)
        layout = recognise(whole, computed, close, wrong.point.kept)
    if layout is None:
        return Cause()
    return Cause(layout.text, relative_error(wrong.point.kept(layout.array), computed))


def _find_rewiring(wrong: _Wrong, words: str = "") -> Cause:
    """Find what an operation of the definition reads or does instead, of these words or any.

    There are so many that one must leave far less than the error.
    """
    unlike = wrong.recorded.shape != np.shape(wrong.point.computed)
    if unlike or not wrong.alike.looks_further:
        return Cause()
    wrong.alike.vain += 1
    for text, array in rewirings(wrong.replay, wrong.point, words):
        left = wrong.error_of(array)
        if wrong.is_explained(left) and left <= wrong.error / LIKELY:
            wrong.alike.vain = 0
            return Cause(text, left)
    return Cause()


def _find_weights(wrong: _Wrong) -> Cause:
    """Find weights with which a layer returns what was recorded."""
    point, call = wrong.point, wrong.point.call
    if point.role or not call.parameters or point.padding is not None:
        return Cause()
    found = fit_weights(call, {**wrong.replay.parameters(call), **point.inputs}, wrong.recorded)
    if found is None:
        return Cause()
    left = wrong.error_of(found.array)
    return Cause(found.text, left) if wrong.is_explained(left) else Cause()


def _try_known_faults(wrong: _Wrong, words: str = "", each: bool = False) -> list[Tried]:
    """Compute the part with every known fault, or with those of these words alone.

    Args:
        wrong: The array that is wrong.
        words: The fault in words without numbers. "": any.
        each: Whether to change each operation of a large part alone, and nothing else.
    """
    point = wrong.point
    tried = []
    right = sample(point.computed)
    most = MAX_RERUNS_OF_SMALL if is_small(point) else MAX_RERUNS
    hypotheses = hypotheses_of_each(wrong.replay, point) if each else None
    for hypothesis in islice(hypotheses or known_hypotheses(wrong.replay, point), most):
        if words and without_numbers(hypothesis.text) != words:
            continue
        result = hypothesis.compute(wrong.replay, point)
        if result is not None:
            left = _error_where_known(wrong.recorded, result, point.computed)
            known = result.shape == wrong.recorded.shape
            effect = sample(result) - right if known else np.zeros(0)
            tried.append(Tried(hypothesis, left, effect))
    tried.sort(key=lambda one: not wrong.alike.is_known(one.hypothesis.text))
    return tried


def _explain_by_fault(wrong: _Wrong, tried: list[Tried], certain: bool) -> Cause:
    """Return the known fault that explains the array; a later one only if it is clearly better."""
    found = choose_cause(((t, t.left) for t in tried), wrong.error, allowed_error(wrong.floor))
    best = found and found[0]
    if best is None and certain:
        nearest = sorted(tried, key=lambda one: one.left)[:NOISIEST]
        near = (one for one in nearest if one.left <= wrong.error / GAIN)
        noisy = (
            one for one in near if wrong.is_explained(one.left, wrong.noise_of(one.hypothesis))
        )
        best = next(noisy, None)
    best = best and _choose_number(wrong, tried, best)
    return Cause() if best is None else Cause(best.hypothesis.text, best.left)


def _choose_number(wrong: _Wrong, tried: list[Tried], best: Tried) -> Tried:
    """Return the fault of another number that leaves the least, if several numbers explain it.

    The largest difference is the same for all of them where rounding is larger than theirs; the
    mean square tells them apart. Of those that leave as much, it is the first one.
    """
    words = without_numbers(best.hypothesis.text)
    alike = [t for t in tried if without_numbers(t.hypothesis.text) == words]
    alike = [t for t in alike if t is best or wrong.is_explained(t.left)]
    difference = sample(wrong.recorded) - sample(wrong.point.computed)
    if len(alike) < 2 or any(t.effect.shape != difference.shape for t in alike):
        return best
    left = [float(np.mean((difference - t.effect) ** 2)) for t in alike]
    return next(t for t, x in zip(alike, left, strict=True) if x <= AS_MUCH**2 * min(left))


def _find_pair(wrong: _Wrong, tried: list[Tried]) -> Cause:
    """Find the pair of known faults that explains an array which none of both explains."""
    point, recorded = wrong.point, wrong.recorded
    if recorded.shape != np.shape(point.computed) or is_large(point):
        return Cause()
    best = Cause()
    for first, second in likely_pairs(sample(recorded) - sample(point.computed), tried):
        both = first.hypothesis.joined(second.hypothesis)
        result = None if both is None else both.compute(wrong.replay, point)
        if both is None or result is None:
            continue
        left = relative_error(recorded, result)
        alone = min(first.left, second.left)  # a pair must be better than each of its faults
        if not explains(left, min(alone, wrong.error), allowed_error(wrong.floor)):
            continue
        if best.explained is None or left < best.explained:
            best = Cause(both.text, left)
    return best


def _nearest(wrong: _Wrong, tried: list[Tried]) -> str:
    """Return the fault or relation that reduces an error most, in words; "" if none does by far."""
    limit = wrong.error / NEAR
    near = [(one.left, one.hypothesis.text) for one in tried if one.left <= limit]
    computed = np.asarray(wrong.point.computed, np.float64)
    layout = recognise(wrong.recorded, computed, limit)
    if layout is not None:
        near.append((relative_error(layout.array, computed), layout.text))
    return HINT.format(*reversed(min(near))) if near else ""


def _error_where_known(
    recorded: np.ndarray, result: np.ndarray, right: np.ndarray | None = None
) -> float:
    """Return the relative error where a fault says a number; not if it says few of them.

    Numbers that are as right without the fault say nothing of it.
    """
    result = np.asarray(result)
    known = ~np.isnan(result) if result.dtype.kind == "f" else np.ones(result.shape, bool)
    if known.all() or recorded.shape != result.shape or known.mean() < LEAST_KNOWN:
        return relative_error(recorded, result)
    left = relative_error(recorded[known], result[known])
    if right is None:
        return left
    without = relative_error(recorded[known], np.asarray(right)[known])
    return left if explains(left, without, left) else float("inf")
