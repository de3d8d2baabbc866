"""Causes of a wrong array of a run that was followed: one change of what the run computes it from.

A change is another array of the run in its place, a number with another value, a step or a guidance
with another setting, or a parameter of the request or of the scheduler with another value. The last
ones are tried by making the run again; one that explains an array is tried on all others as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from ldmref.locate.faults.attention import NOT_WANTED
from ldmref.locate.law import choose_cause
from ldmref.locate.parts.guidance_faults import known_guidance_faults
from ldmref.locate.parts.hypotheses import ALIKE, fit, hypotheses
from ldmref.locate.parts.rules import PLAIN, GuidanceOfSteps, changed, other_guidances
from ldmref.locate.parts.scheduler_faults import (
    fit_shift,
    other_levels,
    other_tables,
    shift_levels,
)
from ldmref.locate.parts.token_faults import explain, mask_faults
from ldmref.locate.recorded.layouts import relative_error
from ldmref.locate.run.calls import OUTPUT, SCHEDULE, ArrayName
from ldmref.locate.run.changes import FittedChange, RunChange
from ldmref.locate.run.levels import SAME_LEVELS, RecordedLevels
from ldmref.locate.run.other_arrays import DECODER, Computed, OtherArrays, TriedArray
from ldmref.locate.run.pieces import WrongArray
from ldmref.locate.run.steps import SeenParts
from ldmref.models.model import LatentDiffusion
from ldmref.samplers.flow_spacings import shift_factor
from ldmref.samplers.guidances import Rescale
from ldmref.samplers.parts import COMBINE, STEP
from ldmref.samplers.path import FLOW
from ldmref.trace.model import Trace

FoundCause = tuple[str, float]
TRIES = 2  # arrays for which the run is made again with changes, each of another kind
DECLARED_FIRST = (SCHEDULE, DECODER, "taesd.decode")  # whose numbers are declared


@dataclass
class RunCauses:
    """Finds causes.

    Attributes:
        port: The recorded run.
        model: The model that ran.
        parts: The visits of the run.
        changes: The changes with which it may be made again.
        numbers: Numbers with which it may be made again.
        again: Makes it again with a change, up to an array or to its end, and returns what it
            computed.
        as_recorded: Returns what a run computes by the names of the recorded arrays.
        own_name: Returns the name that the run has for a recorded array. None: it is of several.
    """

    port: Trace
    model: LatentDiffusion
    parts: SeenParts
    changes: Sequence[RunChange]
    numbers: Sequence[FittedChange]
    again: Callable[[RunChange, ArrayName | None], Computed]
    as_recorded: Callable[[Computed], Computed] = lambda computed: computed
    own_name: Callable[[ArrayName], ArrayName | None] = lambda name: name
    _made: dict[str, RunChange] = field(default_factory=dict)
    _explained: dict[str, Computed] = field(default_factory=dict)
    _tried: set[tuple[str, str, str]] = field(default_factory=set)

    @cached_property
    def others(self) -> OtherArrays:
        """Makes other arrays in the place of one."""
        return OtherArrays(self.port, self.model, self.parts, self.own_name)

    def find(
        self, wrong: WrongArray, computed: Computed, error: float, allowed: float
    ) -> FoundCause | None:
        """Return the cause of a wrong array, and the error that it leaves; None: it is not found.

        Args:
            wrong: The array.
            computed: What the run computed.
            error: The error without a cause.
            allowed: The largest error that is rounding.
        """
        name, right = wrong.name, wrong.right
        kind = name.call.kind
        explained = ((words, run.get(name)) for words, run in self._explained.items())
        tiers: list[Iterable[TriedArray]] = [explained]
        if wrong.got.shape == right.shape:
            tiers.append(self._of_visits(name, wrong.got))
        tiers.append(self.others.of_latents(wrong))
        if kind in DECLARED_FIRST:
            tiers += self._of_runs(name)
        if kind == SCHEDULE:
            tiers.append(self._of_schedule(name, wrong.got))
        if name.call.network and "mask" in name.role and right.ndim == 2:
            tiers.append(mask_faults(right.astype(np.int64)))
            if right.all():
                tiers.append([(NOT_WANTED, np.asarray(wrong.got))])
        tiers.append(self.others.of_place(wrong, computed))
        return _of_ids(wrong) or choose_first(tiers, wrong, error, allowed)

    def find_by_runs(self, wrong: WrongArray, error: float, allowed: float) -> FoundCause | None:
        """Return the change of the run that explains an array, as `find` does.

        A number is another one, whatever made it.
        """
        if not wrong.got.size or not wrong.right.size:
            return None
        got, right = (np.asarray(x, np.float64) for x in (wrong.got, wrong.right))
        if right.size == got.size == 1:
            return f"{wrong.words} {got.item():.6g} instead of {right.item():.6g}", 0.0
        if got.ndim and np.ptp(got) == 0.0 and np.ptp(right) == 0.0:
            return f"{wrong.words} {got.flat[0]:.6g} instead of {right.flat[0]:.6g}", 0.0
        return choose_first(self._of_runs(wrong.name), wrong, error, allowed)

    def explain_levels(self, levels: RecordedLevels) -> None:
        """Find the change with which a run goes on other levels, and remember what it explains.

        One number of a schedule may be that of many: all of them together say which it is.

        Args:
            levels: The levels that were recorded.
        """
        name = ArrayName(f"{SCHEDULE}/", OUTPUT, "sigmas")
        if not self.parts.steps or not levels.names:
            return
        got, right = np.array(levels.sigmas), self.parts.steps[0].schedule.sigmas
        wrong = WrongArray(name, SCHEDULE, got, right)
        own = replace(self, as_recorded=lambda computed: computed, own_name=lambda name: name)
        tiers = [*own._of_runs(name), own._of_schedule(name, got)]
        found = choose_first(tiers, wrong, relative_error(got, right), SAME_LEVELS)
        if found is not None:
            arrays = {one: one.tensor_in(self.port) for one in levels.names}
            self._explained[found[0]] = {one: x for one, x in arrays.items() if x is not None}

    def _of_runs(self, name: ArrayName) -> list[Iterable[TriedArray]]:
        """Return what the run computes with each change, and then with each number fitted.

        [] if that was tried of an array of this kind, or of several arrays.
        """
        kind = (name.call.kind, name.side, name.role)
        own = self.own_name(name)
        if own is None or kind in self._tried or len(self._tried) == TRIES:
            return []
        self._tried.add(kind)
        changed = ((x.words, self._changed(x, name, own)) for x in self.changes)
        fits = (self._fitted(number, name, own) for number in self.numbers)
        return [changed, chain.from_iterable(fits)]

    def _changed(self, change: RunChange, name: ArrayName, own: ArrayName) -> np.ndarray | None:
        return self.as_recorded(self.again(change, own)).get(name)

    def _fitted(
        self, number: FittedChange, name: ArrayName, own: ArrayName
    ) -> Iterator[TriedArray]:
        """Yield what the run computes with a number that is fitted to what was recorded."""
        got = name.tensor_in(self.port)

        def at(value: float) -> np.ndarray | None:
            found = self._changed(number.at(number.read(value)), name, own)
            same = found is not None and got is not None and found.shape == got.shape
            return np.asarray(found, np.float64) if same else None

        start = number.read(number.right)
        value = None if got is None else fit(at, start, np.asarray(got, np.float64))
        if value is not None and not math.isclose(value, start, rel_tol=ALIKE):
            words = f"{number.words} {number.read(value):.5g} instead of {number.right:g}"
            self._made[words] = number.at(number.read(value))
            yield words, at(value)

    def _of_visits(self, name: ArrayName, got: np.ndarray) -> Iterator[TriedArray]:
        """Yield what the guidance or the step computes with one of its settings changed."""
        own = self.own_name(name)
        if own is None:
            return
        call = own.call
        if call.kind == COMBINE.call and own.side == OUTPUT and call in self.parts.guidances:
            for words, make in self._of_guidance(call, got):
                yield words, self._recorded(name, own, make())
        elif call.kind == STEP.call:
            steps = next((steps for steps in self.parts.steps if steps.has(call)), None)
            if steps is not None:
                for words, arrays in steps.alternatives.items():
                    if own in arrays:
                        yield words, self._recorded(name, own, arrays[own])
                yield from steps.noises(own, got)

    def _of_schedule(self, name: ArrayName, got: np.ndarray) -> Iterator[TriedArray]:
        """Yield other levels, times and tables of noise."""
        steps = self.parts.steps[0] if self.parts.steps else None
        own = self.own_name(name)
        if steps is None or own is None:
            return
        config, schedule = steps.config, steps.schedule
        others = [*other_levels(config, schedule, self.parts.tokens)]
        found: list[tuple[str, np.ndarray]] = []
        if own.role == "alphas_cumprod":
            found = [*other_tables(config)]
        elif own.role == "sigmas":
            found = [(words, other.sigmas) for words, other in others]
            if got.ndim == 1:
                shift = fit_shift(got, schedule.sigmas)
                words = f"sigma shift {shift:.5g}"
                if schedule.path is FLOW:
                    factor = shift_factor(config, self.parts.tokens, len(schedule.timesteps))
                    words = f"shift {factor * shift:.5g} instead of {factor:.5g}"
                found.append((words, shift_levels(schedule.sigmas, shift)))
            found.append(("the last sigma is missing", schedule.sigmas[:-1]))
            if got.ndim == 1 and got.size:
                last, right = float(got[-1]), float(schedule.sigmas[-1])
                ended = np.append(schedule.sigmas[:-1], last)
                found.append((f"the last sigma is {last:.4g} instead of {right:.4g}", ended))
        elif own.role == "timesteps":
            found = [(words, other.timesteps) for words, other in others]
            words = "the timesteps are truncated to whole numbers"
            found.append((words, np.floor(schedule.timesteps)))
            found.append(("the timesteps are in increasing order", schedule.timesteps[::-1]))
        for words, x in found:
            yield words, self._recorded(name, own, x)

    def _of_guidance(self, call: str, got: np.ndarray) -> Iterator[Any]:
        visits = self.parts.guidances
        order = [*visits]
        i = order.index(call)
        visit = visits[call]
        if isinstance(visit.rule, GuidanceOfSteps):
            visit = visit.rule.visited(visit)
        if visit.rule.name in PLAIN:  # without phi, guidance rescale is classifier-free
            visit = replace(visit, rule=changed(Rescale(), phi=0.0))
        before = visits[order[i - 1]] if i else None
        after = visits[order[i + 1]] if i + 1 < len(order) else None
        rules = other_guidances(visit.rule)
        causes = hypotheses(visit, np.asarray(got, np.float64), before, after, rules)
        yield from chain(known_guidance_faults(visit), causes)

    def _recorded(self, name: ArrayName, own: ArrayName, x: np.ndarray | None) -> np.ndarray | None:
        return None if x is None else self.as_recorded({own: x}).get(name)

    def remember(self, words: str) -> None:
        """Make the whole run again with a change that explained an array."""
        known = self._made | {change.words: change for change in self.changes}
        change = known.get(words)
        if change is not None and words not in self._explained:
            self._explained[words] = self.as_recorded(self.again(change, None))


def choose_first(
    tiers: Iterable[Iterable[TriedArray]], wrong: WrongArray, error: float, allowed: float
) -> FoundCause | None:
    """Return the cause of the first group that has one; None if none has."""
    found = (choose(tier, wrong, error, allowed) for tier in tiers)
    return next((x for x in found if x is not None), None)


def choose(
    tried: Iterable[TriedArray], wrong: WrongArray, error: float, allowed: float
) -> FoundCause | None:
    """Return the cause that explains an error, and what it leaves; None if none does."""
    known = ((words, wrong.take(x)) for words, x in tried if x is not None)
    left = ((words, relative_error(wrong.got, x)) for words, x in known if x.dtype.kind != "c")
    return choose_cause(left, error, allowed)


def _of_ids(wrong: WrongArray) -> FoundCause | None:
    """Return what is wrong with whole numbers, as a tokenizer returns them."""
    got, right = wrong.got, wrong.right
    mask = "mask" in wrong.name.role
    if mask or right.dtype.kind not in "iu" or got.shape != right.shape or right.ndim < 2:
        return None
    n = right.shape[-1]
    rows = zip(got.reshape(-1, n), right.reshape(-1, n), strict=True)
    text = next((explain(x, y, "")[0] for x, y in rows if not np.array_equal(x, y)), "")
    return (text, 0.0) if text else None
