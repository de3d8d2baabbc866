"""`diff_traces`: judge every layer and every computation between the networks of a port."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from ldmref.errors import abbreviated
from ldmref.locate.assumed import find_shown_masks, without_assumed
from ldmref.locate.causes.elsewhere import join_causes
from ldmref.locate.findings import DIFFERS, UNKNOWN, DiffReport, Row
from ldmref.locate.judging import NOT_RECORDED, Judge
from ldmref.locate.original import CallProgress, compare
from ldmref.locate.pipeline import judge_host
from ldmref.locate.preflight import unlike_ours
from ldmref.locate.recorded.argument_names import with_declared_arguments
from ldmref.locate.recorded.makers import name_as_makers
from ldmref.locate.recorded.padding import PaddingFinder
from ldmref.locate.recorded.terms import PortTerms, TermsObserver, follow_in_terms
from ldmref.locate.recorded.unfilled import (
    LESS,
    describe_unfilled,
    describe_unmasked,
    may_lack_mask,
)
from ldmref.locate.recorded.unnamed import ComputedArrays, sort_unvisited
from ldmref.locate.replay.definition import NetworkReplay
from ldmref.locate.replay.networks import (
    RecordedNetwork,
    find_definition,
    find_wrong_axes,
    name_unknown_pipeline,
    passes_tokens,
    try_network,
)
from ldmref.locate.replay.points import PointObserver
from ldmref.locate.replay.unvisited import LayerRemarks, RunReads
from ldmref.locate.rows import is_within
from ldmref.models.control import ControlNet
from ldmref.models.family import family_of
from ldmref.models.model import LatentDiffusion
from ldmref.ports.arguments import names_of
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace, without_own_arguments

MAX_LISTED = 5
AFTER_OWN = "it follows an attention that ldmref does not have, whose output was not recorded"
NOT_DEFINED = "layers are not in ldmref's definition of"
NO_LAYER = "none of its layers has a name of this network"
NOT_TOGETHER = "{} layers of {} in another form than ldmref's definition, and no output: {}"
ALONE = "ldmref computes none of its layers by itself"


def diff_traces(
    port: Trace,
    model: LatentDiffusion | None,
    reference: Trace | None = None,
    *,
    controlnets: Sequence[ControlNet] = (),
    guide: LatentDiffusion | None = None,
    dtype: str | None = None,
    progress: CallProgress | None = None,
) -> DiffReport:
    """Find the layers and computations of a port whose results differ from ldmref's.

    Each recorded layer is computed again in float64 from the port's own recorded input and the
    checkpoint's weights, so several faults are found in one run, and neither the same seed nor a
    reference trace is needed. Memory is bounded by one network, in float32, and a few arrays. The
    gradients of a training step need PyTorch, and the U-Net in float64 with all gradients.

    Args:
        port: The trace of the port.
        model: The model that the port ran, with parameters in float32. None: one that ldmref does
            not know, whose layers are only compared with those of the reference.
        reference: A trace of the same run, for the inherited differences, and for the request
            if the port's trace does not name one. None: there is none.
        controlnets: The ControlNets of the run, in their order; without them, their calls are not
            judged.
        guide: The weaker model of a run with autoguidance, whose calls begin with `guide.`. None:
            they are not judged.
        dtype: The port's number format. None: as recorded.
        progress: Called as `progress(calls done, calls, call)`. None: nothing is called.

    Returns:
        A row for each recorded layer, for what leads to its input, and for each computation of the
        pipeline.

    Raises:
        UsageError: The trace has no call of a network of the model, or of the pipeline; or it holds
            no results, or the reference none (`ldmref.locate.preflight`); or there is neither a
            model nor a reference.

    >>> import numpy as np
    >>> import ldmref
    >>> from ldmref.locate import diff_traces
    >>> from ldmref.trace import build_trace
    >>> model = ldmref.random_model("tiny")
    >>> x = np.ones((1, 4, 8, 8))
    >>> port = build_trace({"unet.000/conv_in/input": x, "unet.000/conv_in/output": x})
    >>> report = diff_traces(port, model)
    >>> [(row.name, row.verdict) for row in report.rows]
    [('unet.000/conv_in', 'differs')]
    """
    original = None if model is None else ModelOriginal(model, controlnets, guide)
    port = without_own_arguments(port)
    if model is not None:
        port = name_as_makers(with_declared_arguments(port, model.config), model)
    return compare(port, original, reference, dtype, progress)


class ModelOriginal:
    """A model of ldmref, with which the calls of a port are compared.

    Args:
        model: The model that the port ran, with parameters in float32.
        nets: The ControlNets of the run, in their order.
        guide: The weaker model of a run with autoguidance. None: its calls are not judged.
    """

    def __init__(
        self,
        model: LatentDiffusion,
        nets: Sequence[ControlNet] = (),
        guide: LatentDiffusion | None = None,
    ):
        self.model = model
        self.nets = nets
        self.guide = guide
        self.padding = PaddingFinder()
        self.remarks = LayerRemarks()
        self.terms = PortTerms()

    @property
    def family(self) -> str:
        """The name of the model's family."""
        return family_of(self.model.config).name

    @property
    def controlnets(self) -> int:
        """Number of ControlNets of the run."""
        return len(self.nets)

    def judge_call(self, port: Trace, call: TraceCall, dtype: str, gaps: list[str]) -> list[Row]:
        """Return the rows of one call; of a network that was not given, one "not judged"."""
        if call.network.startswith("controlnet") and not self.nets:
            return [Row(call, "", verdict=UNKNOWN, note="no ControlNet was given")]
        if call.is_guide and self.guide is None:
            return [Row(call, "", verdict=UNKNOWN, note="no weaker model was given")]
        if call.network:
            judged = self.guide if call.is_guide and self.guide is not None else self.model
            called = JudgedCall(port, judged, call, dtype, self.nets, self.padding)
            return called.judge(gaps, self.remarks, self.terms)
        if not call.is_host:
            gaps.append(f"{call} is no call of a trace")
        return []

    def judge_host(self, port: Trace, dtype: str, notes: list[str]) -> list[Row]:
        """Return the rows of what is computed between the networks.

        The remarks begin with those on layers of the networks whose calls were judged before.
        """
        notes += [*self.remarks.describe(), *self.terms.describe()]
        port = self.terms.turn(port)
        return judge_host(port, self.model, dtype, notes, self.nets, self.guide)


@dataclass
class ReplayedCall:
    """What the replays of a call found.

    Attributes:
        judge: The judge, with its rows.
        visited: The layers that were computed.
        reads: What the last run of the definition read.
        network: The network. None: its arguments do not fit.
        problem: Why the run could not be completed. "": it was.
        masks: By role, masks that were not recorded, and with which the layers agree alone.
        unnamed: Layers that the definition has no name for, and whose arrays it computes.
    """

    judge: Judge
    visited: set[str] = field(default_factory=set)
    reads: RunReads = field(default_factory=RunReads)
    network: RecordedNetwork | None = None
    problem: str = ""
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    unnamed: set[str] = field(default_factory=set)


def _count_faults(found: ReplayedCall) -> tuple[int, int]:
    """Return the number of rows of a call that differ, and of those without a cause."""
    rows = [row for row in found.judge.rows if row.verdict == DIFFERS]
    return len(rows), sum(not row.cause for row in rows)


def _own_attention(port: Trace, call: TraceCall) -> Mapping[str, str]:
    """Return the layers of a call whose attention ldmref does not have, with what computes it."""
    whole = port.find(call)
    found = {} if whole is None else whole.attributes.get("own_attention")
    return found if isinstance(found, dict) else {}


def _after_own(row: Row, of_port: Mapping[str, str]) -> Row:
    """Return a row; what an attention that ldmref does not have leads to has that as its reason."""
    follows = of_port and row.verdict == UNKNOWN and row.note == NOT_RECORDED
    return replace(row, note=AFTER_OWN) if follows else row


@dataclass(frozen=True)
class JudgedCall:
    """A call of a network of a port, which is judged layer by layer.

    Attributes:
        port: The trace.
        model: The model that ran.
        call: The call.
        dtype: The number format by which the port is judged.
        controlnets: The ControlNets of the run.
        padding: Finds rows of padding.
    """

    port: Trace
    model: LatentDiffusion
    call: TraceCall
    dtype: str
    controlnets: Sequence[ControlNet]
    padding: PaddingFinder

    def judge(self, gaps: list[str], remarks: LayerRemarks, terms: PortTerms) -> list[Row]:
        """Return the rows of the call.

        Args:
            gaps: What is not compared is added here.
            remarks: What is said of layers that are no gap is added here.
            terms: The terms of the port's calls, which are added to.
        """
        port, call = self.port, self.call
        of_port = _own_attention(port, call)
        replayed = self.replay_in_terms(terms)
        visited, problem = replayed.visited, replayed.problem
        inside = [row for row in replayed.judge.rows if not is_within(row.layer, of_port)]
        rows = [_after_own(row, of_port) for row in join_causes(inside)]
        for layer, kind in of_port.items():  # layers whose attention is another function
            note = f"its attention is that of {kind}, which ldmref does not have"
            rows.append(Row(call, layer, verdict=UNKNOWN, note=note))
        known = {entry.layer for entry in port.of_call(call) if entry.layer}
        known = {layer for layer in known if not is_within(layer, of_port)}
        unknown = known - visited
        if unknown and not problem and replayed.network is not None:
            network = replayed.network.network
            apart = sort_unvisited(port, call, network, replayed.reads, visited, self.dtype)
            unknown &= {*apart.left} - replayed.unnamed
            remarks.note_unread(call.network, apart.unread)
        whole = port.find(call)
        together = unlike_ours({} if whole is None else whole.attributes)
        if together and any(not row.layer and row.verdict != UNKNOWN for row in rows):
            remarks.note_together(call.network, together)
        elif together:
            gaps.append(NOT_TOGETHER.format(len(together), call, abbreviated(together, MAX_LISTED)))
        if unknown:
            listed = abbreviated(sorted(unknown), MAX_LISTED)
            text = f"{len(unknown)} {NOT_DEFINED} {call.network}: {listed}"
            gaps.append(f"{len(unknown)} layers were not judged: {listed}" if problem else text)
        if known and not known & visited:
            note = f"cannot be replayed: {problem}" if problem else NO_LAYER if unknown else ALONE
            rows.append(Row(call, "", verdict=UNKNOWN, note=note))
        return rows

    def replay_in_terms(self, terms: PortTerms) -> ReplayedCall:
        """Return what the replay of the call in the terms of its port found."""

        def follow(
            turned: Trace,
            seen: TermsObserver,
            model: LatentDiffusion = self.model,
            unmasked: bool = False,
        ) -> ReplayedCall:
            return replace(self, port=turned, model=model).replay(seen, unmasked)

        port, model, call = self.port, self.model, self.call
        known = terms.of_call(port, model, call, self.controlnets)
        before = {**known.rows}
        found = follow_in_terms(known, port, call, follow, _count_faults)
        faults, unexplained = _count_faults(found)
        best = found, known.rows, []
        others = [
            (describe_unfilled(call, layers), partial(follow, model=other), LESS)
            for layers, other in (terms.unfilled.find(model, call) if unexplained else ())
        ]
        padded = found.network is not None and self.padding.find(model, found.network)
        if padded and may_lack_mask(found.judge.rows):
            said = describe_unmasked(call, found.judge.rows)
            others.append((said, partial(follow, unmasked=True), 1))
        for said, other, less in others:
            known.rows = {**before}
            changed = follow_in_terms(known, port, call, other, _count_faults)
            few = _count_faults(changed)[0] <= faults / less
            if few and _count_faults(changed) < _count_faults(best[0]):
                best = changed, known.rows, said
        found, known.rows, said = best
        found.judge.rows[:0] = said
        if found.masks:
            known.masks[call] = found.masks
        whole = port.find(call)
        if whole is not None and len(whole.outputs) > len(found.reads.outputs) > 0:
            known.outputs[call] = found.reads.outputs
        return found

    def replay(self, terms: TermsObserver, unmasked: bool = False) -> ReplayedCall:
        """Return the judge of the call, the layers that were computed, and why others were not.

        If `unmasked`, no attention has the mask of its padding. If the recorded or assumed arrays
        do not fit each other, a second replay judges each layer that is left by its own input.
        """
        call = self.call
        found = ReplayedCall(Judge(call, self.dtype, terms))
        part = self.port
        for assume in (False, True):
            found.reads = RunReads()
            network, found.problem = try_network(self.model, part, call, self.controlnets, assume)
            if network is not None:
                found.network = network
                padding = self.padding.find(self.model, network)
                own = [*_own_attention(self.port, call)]
                run = NetworkReplay(part, call, self.dtype, padding, own, unmasked)
                self._follow(found, run, terms)
            if not found.problem or assume:
                break
            whole = self.port.find(call)
            if whole is not None and whole.inputs:
                axes = find_wrong_axes(self.model, self.port, call, self.controlnets)
                problem = axes or found.problem
                found.judge.rows.append(self.describe_unfit(problem))
            done = {"", *found.visited}
            rest = [e for e in self.port.entries if e.call != call or e.layer not in done]
            part = replace(self.port, entries=tuple(rest))
        return found

    def _follow(self, found: ReplayedCall, run: NetworkReplay, terms: TermsObserver) -> None:
        """Follow a run of the call, and add what is found."""
        network, rows = found.network, found.judge.rows
        assert network is not None
        before = len(rows)
        found.problem = run.follow(network, found.judge, visited=found.visited, reads=found.reads)

        def judge_again(other: RecordedNetwork) -> list[Row]:
            judge = Judge(self.call, self.dtype, terms.without_looking())
            run.follow(other, judge)
            return judge.rows

        def watch(observer: PointObserver, other: RecordedNetwork) -> str:
            return run.follow(other, observer)

        rows[before:] = without_assumed(rows[before:], network, judge_again)
        found.masks = find_shown_masks(rows[before:], network, watch)
        if not found.problem and not any(row.verdict == DIFFERS for row in rows):
            found.unnamed = self._find_unnamed(found, run, terms)

    def _find_unnamed(
        self, found: ReplayedCall, run: NetworkReplay, terms: TermsObserver
    ) -> set[str]:
        """Return the layers that were not visited, and whose arrays a right run computes."""
        port, call = run.port, self.call
        left = [e for e in port.of_call(call) if e.layer and e.layer not in found.visited]
        if not left or found.network is None:
            return set()
        computed = ComputedArrays(port, left, self.dtype, terms.without_filling)
        judged = {"", *found.visited}
        computed.note_entries(e for e in port.of_call(call) if e.layer in judged)
        judge = Judge(call, self.dtype, terms.without_looking())
        run.follow(found.network, judge, reads=RunReads(), computed=computed)
        return computed.find_right(found.reads)

    def describe_unfit(self, problem: str) -> Row:
        """Return the row of a call whose arrays do not fit the definition.

        A pipeline that the family does not read may call its networks with arrays of another
        meaning, and tokens are the latents of ports that write the network alone. A network that
        was given its first input in another form, such as a list, was given none that is judged.

        Args:
            problem: Why they do not fit.
        """
        port, model, call = self.port, self.model, self.call
        note = f"cannot be replayed: {problem}"
        kind = name_unknown_pipeline(port, model)
        if kind:
            note += f"; {kind} is no pipeline that {model.family.name} reads"
            return Row(call, "", verdict=UNKNOWN, note=note)
        if passes_tokens(port, model, call):
            note += "; it holds tokens, which do not say the height and width of their latents"
            return Row(call, "", verdict=UNKNOWN, note=note)
        whole = port.find(call)
        network, _ = find_definition(model, port, call, self.controlnets)
        names = names_of(network, network.inputs[0])
        if whole is not None and not whole.inputs.keys() & {*names}:
            note += f"; its first input has none of the names {', '.join(names)}"
            return Row(call, "", verdict=UNKNOWN, note=note)
        return Row(call, "", error=float("inf"), verdict=DIFFERS, note=note)
