"""The terms of a port: which conventions it has, adopted so that all layers agree.

A network is followed in ldmref's own terms. Where an array is right in another convention
(`ldmref.locate.recorded.conventions`), the run begins again with all arrays that it concerns. What
remains wrong then is compared with what is wrong without it, so one wrong layer among right ones
stays a fault. Later calls of the network have the conventions of the earlier ones: a mixture is a
fault.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, product
from typing import Generic, TypeVar

import numpy as np

from ldmref.locate.causes.known_causes import KnownCauses
from ldmref.locate.law import GAIN, explains
from ldmref.locate.recorded.conventions import (
    ORDER,
    TOKEN_AXES,
    Candidate,
    Convention,
    NetworkConventions,
    turn_call,
)
from ldmref.locate.recorded.joint_masks import find_text_masks
from ldmref.locate.recorded.kept_rows import KeptRows, RowCounts
from ldmref.locate.recorded.layouts import relative_error
from ldmref.locate.recorded.several_outputs import SelectedOutputs, with_selected
from ldmref.locate.recorded.unfilled import UnfilledModels
from ldmref.locate.replay.networks import find_definition
from ldmref.locate.replay.points import FollowedRun, Point
from ldmref.models.control import ControlNet
from ldmref.models.model import LatentDiffusion
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace, tensor_name

Result = TypeVar("Result")
WORDS = "{} of the port has other conventions than ldmref, which are no fault: {}"
NO_MASK = "no mask: all tokens are read, which is right if none of them is padding"
AdoptedTerms = Mapping[str, Convention]  # by subject
# The least rows without a cause where latents were read in another order: what the first layers
# read, and what the network returns.
WRONG_LAYOUT = 2


class TermsFound(Exception):
    """Ends a run in terms that are not the port's."""

    def __init__(self, convention: Convention):
        super().__init__(convention.text)
        self.convention = convention


@dataclass
class NetworkTerms:
    """What is known of the terms of a port's calls of one network.

    Attributes:
        declared: The conventions that there are.
        adopted: Those that the port has.
        own: Subjects of which the port has ldmref's convention.
        lengths: Numbers of tokens of arrays that are right in ldmref's order.
        rows: In words, other numbers of rows that arrays have.
        masks: By call and role, masks that the port does not have: its layers read all tokens.
        taken: The expected rows of such arrays, by the numbers of rows.
        outputs: By call and role, the names of the arrays that are its outputs, of further ones.
    """

    declared: NetworkConventions
    adopted: dict[str, Convention] = field(default_factory=dict)
    own: set[str] = field(default_factory=set)
    lengths: set[int] = field(default_factory=set)
    rows: dict[str, None] = field(default_factory=dict)
    masks: dict[TraceCall, Mapping[str, np.ndarray]] = field(default_factory=dict)
    taken: dict[RowCounts, tuple[np.ndarray, ...]] = field(default_factory=dict)
    outputs: dict[TraceCall, SelectedOutputs] = field(default_factory=dict)

    def describe(self) -> list[str]:
        """Return the conventions in words."""
        texts = [*(one.text for one in self.adopted.values()), *self.rows]
        return [*texts, NO_MASK] if self.masks else texts


class PortTerms:
    """The terms of a port's calls, by their kind."""

    def __init__(self) -> None:
        self.known: dict[str, NetworkTerms] = {}
        self.unfilled = UnfilledModels()

    def of_call(
        self,
        port: Trace,
        model: LatentDiffusion,
        call: TraceCall,
        controlnets: Sequence[ControlNet],
    ) -> NetworkTerms:
        """Return the terms of a network's calls.

        Args:
            port: The trace.
            model: The model that ran.
            call: One of the calls.
            controlnets: The ControlNets of the run.
        """
        if call.kind not in self.known:
            network, _ = find_definition(model, port, call, controlnets)
            declared = NetworkConventions(model, network, port, call.kind)
            self.known[call.kind] = NetworkTerms(declared)
        return self.known[call.kind]

    def describe(self) -> Iterator[str]:
        """Yield the conventions of each network that ldmref does not have."""
        for kind, terms in self.known.items():
            if texts := terms.describe():
                yield WORDS.format(kind, "; ".join(texts))

    def turn(self, port: Trace) -> Trace:
        """Return a port with the arrays of all calls in ldmref's terms."""
        for call in port.calls if self.known else ():
            terms = self.known.get(call.kind)
            port = port if terms is None else turn_call(port, call, [*terms.adopted.values()])
        outputs = {call: x for terms in self.known.values() for call, x in terms.outputs.items()}
        port = with_selected(port, outputs)
        masks = {call: x for terms in self.known.values() for call, x in terms.masks.items()}
        return _with_masks(port, masks)


def _with_masks(port: Trace, masks: Mapping[TraceCall, Mapping[str, np.ndarray]]) -> Trace:
    """Return a port whose calls were given masks that they do not have."""
    changed = []
    added: dict[str, np.ndarray] = {}
    for call, arrays in masks.items():
        entry = port.find(call)
        if entry is not None:
            names = {role: tensor_name(call, "", "input", role) for role in arrays}
            added |= {names[role]: x for role, x in arrays.items()}
            changed.append(replace(entry, inputs={**entry.inputs, **names}))
    return port.with_entries(changed, added)


class TermsObserver:
    """Sees the arrays of one run, and ends it where one is right in another convention.

    Args:
        terms: What is known of the network.
        adopted: The conventions in which the run is followed.
        closed: Subjects that are not looked for.
        causes: What explains wrong arrays of the call, in all runs of it with the same weights.
        looks: Whether it looks for conventions at all.
    """

    def __init__(
        self,
        terms: NetworkTerms,
        adopted: AdoptedTerms,
        closed: set[str],
        causes: KnownCauses,
        looks: bool = True,
    ):
        self.terms = terms
        self.causes = causes
        self.looks = looks
        self.adopted = adopted
        self.closed = closed
        self.own: set[str] = set()
        self.lengths: set[int] = set()
        self.rows: dict[str, None] = {}

    def without_looking(self) -> TermsObserver:
        """Return what sees a run with other arguments in the same terms."""
        return TermsObserver(self.terms, self.adopted, self.closed, self.causes, looks=False)

    def note_rows(self, rows: KeptRows) -> None:
        """Note that an array has another number of rows, and which of them are the expected."""
        self.rows[rows.text] = None
        if rows.taken:
            self.terms.taken.setdefault(rows.counts, rows.taken)

    def without_filling(self, x: np.ndarray) -> Iterator[np.ndarray]:
        """Yield an array of a layer without the rows that fill its sequence up, in ldmref's order.

        Only what was seen in the rows of other arrays says which these are.

        Args:
            x: The array, of any axes behind that of the tokens.
        """
        order = self.adopted.get(ORDER)
        for (*counts, length), taken in self.terms.taken.items():
            axes = [axis for axis, size in enumerate(x.shape) if {size} == {*counts}]
            if not axes or counts[0] == length:
                continue
            before, behind = x.shape[: axes[0]], x.shape[axes[0] + 1 :]
            rows = x.reshape(*before, counts[0], -1)
            turned = x.ndim in TOKEN_AXES and x.shape[-2] == counts[0]  # as all such arrays are
            if order is not None and order.length == counts[0] and not turned:
                rows = order.turn(rows)
            if len(taken) == len(rows) and before:
                kept = np.stack([part[..., at, :] for part, at in zip(rows, taken, strict=True)])
                yield kept.reshape(*before, length, *behind)
            elif all(np.array_equal(at, taken[0]) for at in taken):
                yield rows[..., taken[0], :].reshape(*before, length, *behind)

    def pass_by(self, point: Point, passed: Point) -> None:
        """Note what a right array shows.

        Args:
            point: The array.
            passed: The array with the rows that the port has.
        """
        subject = self.terms.declared.is_own(point)
        if subject and subject not in self.adopted:
            self.own.add(subject)
        if point.computed.ndim in (3, 4) and ORDER not in self.adopted:
            cut = passed.recorded.size != point.recorded.size and passed.recorded.ndim > 1
            self.lengths.add((passed.recorded if cut else point.computed).shape[-2])

    def look(
        self, replay: FollowedRun, point: Point, error: float, limit: Callable[[Candidate], float]
    ) -> None:
        """Look for a convention in which a wrong array is right.

        Args:
            replay: The replay that computed it.
            point: The array.
            error: Its relative error.
            limit: Returns the largest error that is rounding in other terms.

        Raises:
            TermsFound: There is one.
        """
        if not self.looks:
            return
        for found in self.terms.declared.find(replay, point, self.adopted):
            one = found.convention
            if one.subject in self.closed or one.subject in self.adopted:
                continue
            if one.length in self.terms.lengths | self.lengths and one.length:
                continue  # others of its kind are right as they are
            left = relative_error(point.kept(found.recorded), point.kept(found.computed))
            if left <= error / GAIN and explains(left, error, limit(found)):
                raise TermsFound(one)


@dataclass(frozen=True)
class FollowedTerms(Generic[Result]):
    """A run, with the terms in which it was followed."""

    result: Result
    adopted: AdoptedTerms
    seen: TermsObserver


def follow_in_terms(
    terms: NetworkTerms,
    port: Trace,
    call: TraceCall,
    follow: Callable[[Trace, TermsObserver], Result],
    count: Callable[[Result], tuple[int, int]],
) -> Result:
    """Follow a call in the terms of its port, which are noted.

    Args:
        terms: What is known of the network's calls; more is added.
        port: The trace.
        call: The call.
        follow: Follows the call of a trace in ldmref's terms.
        count: Returns the number of faults that it found, and of those without a cause.

    Returns:
        The result with the fewest faults; of the least number of conventions, where some have as
        few.
    """

    causes = KnownCauses()

    def run(
        closed: set[str], layout: AdoptedTerms, again: Collection[str] = ()
    ) -> FollowedTerms[Result]:
        adopted = {name: one for name, one in terms.adopted.items() if name not in again}
        adopted.update(layout)
        while True:
            seen = TermsObserver(terms, adopted, closed | terms.own, causes)
            try:
                turned = turn_call(port, call, [*adopted.values()])
                return FollowedTerms(follow(turned, seen), adopted, seen)
            except TermsFound as found:
                adopted = {**adopted, found.convention.subject: found.convention}

    def count_faults(followed: FollowedTerms[Result]) -> tuple[int, int]:
        return count(followed.result)

    def count_unexplained(followed: FollowedTerms[Result]) -> tuple[int, int]:
        faults, unexplained = count_faults(followed)
        return unexplained, faults

    layouts = _list_layouts(terms, call)
    best = run(set(), layouts[0])
    for layout in layouts[1:]:
        faults, unexplained = count_faults(best)
        enough = unexplained < WRONG_LAYOUT if {} in layouts else not faults
        if enough:
            break
        best = min(best, run(set(), layout), key=count_faults)
    subjects = {subject for layout in layouts for subject in layout}
    layout = {name: one for name, one in best.adopted.items() if name in subjects}
    if {} in layouts:  # either was possible
        terms.own |= subjects - layout.keys()
    order = terms.adopted.get(ORDER)
    if order is not None and any(count_faults(best)):  # the tokens may have another number here
        other = run(set(), layout, (ORDER,))
        if ORDER in other.adopted and other.adopted[ORDER].text == order.text:
            best = min(other, best, key=count_unexplained)  # a wrong order hides faults
    added = best.adopted.keys() - terms.adopted.keys() - layout.keys()
    if added and any(count_faults(best)):
        without: Iterator[set[str]] = chain(({one} for one in sorted(added)), (set(added),))
        closed = [*without] if len(added) > 1 else [set(added)]
        best = min((*(run(one, layout) for one in reversed(closed)), best), key=count_faults)
    terms.adopted.update(best.adopted)
    terms.own |= best.seen.own
    terms.lengths |= best.seen.lengths
    terms.rows |= best.seen.rows
    return best.result


def _list_layouts(terms: NetworkTerms, call: TraceCall) -> list[AdoptedTerms]:
    """Return the layouts in which the latents and the mask of a call may be, if not known yet."""
    known = {*terms.adopted, *terms.own}
    declared = terms.declared
    kinds = [
        [one for one in found if not one or one.subject not in known] or [None]
        for found in (
            declared.find_layouts(call),
            find_text_masks(declared.network, declared.port, call),
        )
    ]
    return [{one.subject: one for one in pair if one} for pair in product(*kinds)]
