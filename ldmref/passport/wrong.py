"""Dumps with one known fault each, made of the table of `ldmref.locate.faults`.

A kit holds them to show whoever reads a port's dump that their own check finds these faults.
Each is the smallest dump in which the fault shows: one layer, with its inputs and a wrong output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Protocol

import numpy as np

from ldmref.backends.named import LayerCall
from ldmref.locate.diff import diff_traces
from ldmref.locate.faults.hypothesis import Hypothesis
from ldmref.locate.faults.table import FAULTS, Fault
from ldmref.locate.findings import DiffReport
from ldmref.locate.recorded.layouts import relative_error
from ldmref.locate.replay.definition import NetworkReplay
from ldmref.locate.replay.networks import try_network
from ldmref.locate.replay.points import FollowedRun, Point, PointObserver
from ldmref.models.model import LatentDiffusion
from ldmref.passport.kit import WrongDump
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace, TraceEntry, build_trace, tensor_name

LEAST = 3e-5  # relative change of an array that a fault makes: well above rounding in float32
SITES = 2  # layers of a call at which a fault is tried
DTYPE = "float32"  # in which the dumps are stored


WrongDumps = Sequence[tuple[WrongDump, Mapping[str, np.ndarray]]]


class FollowedOriginal(Protocol):
    """The original of ports whose right run is followed, to change it."""

    def follow(self, port: Trace, call: TraceCall, observer: PointObserver) -> None:
        """Run a call in float64, and show the observer every recorded array."""
        ...

    def judge(self, port: Trace) -> DiffReport:
        """Judge a dump of a port in `DTYPE`."""
        ...


class FollowedModel:
    """A model of ldmref as the original.

    Args:
        model: The model in float32.
    """

    def __init__(self, model: LatentDiffusion):
        self.model = model

    def follow(self, port: Trace, call: TraceCall, observer: PointObserver) -> None:
        """Run a call in float64, and show the observer every recorded array."""
        network, _ = try_network(self.model, port, call)
        if network is not None:
            NetworkReplay(port, call, "float64").follow(network, observer)

    def judge(self, port: Trace) -> DiffReport:
        """Judge a dump of a port in `DTYPE`."""
        return diff_traces(port, self.model, dtype=DTYPE)


@dataclass(frozen=True)
class Site:
    """A layer with a fault: what a port would have recorded there.

    Attributes:
        fault: The row of the tables.
        node: The layer, `CALL/LAYER`.
        text: The fault in words.
        tensors: The dump, in float32.
    """

    fault: Fault
    node: str
    text: str
    tensors: Mapping[str, np.ndarray] = field(repr=False)

    @property
    def size(self) -> int:
        """The bytes of the dump."""
        return sum(x.nbytes for x in self.tensors.values())


def wrong_dumps(trace: Trace, original: FollowedOriginal) -> tuple[WrongDumps, dict[str, str]]:
    """Return a dump for each known fault, and why the others have none.

    The dump is of the first layer at which the judge of ports names the fault.

    Args:
        trace: The right run of a kit in float64, with the inputs of all layers.
        original: Its original.

    Returns:
        Dumps with their tensors; and a reason by the name of each fault without a dump.
    """
    sites: dict[str, list[Site]] = {}
    for hidden, call in product((False, True), first_calls(trace)):
        for name, found in _follow(trace, original, call, hidden).items():
            sites.setdefault(name, []).extend(found)
    dumps = []
    left_out = {}
    for fault in FAULTS:
        tried = sorted(sites.get(fault.name, []), key=lambda site: site.size)
        if not tried:
            left_out[fault.name] = "no layer of this model shows it"
        for site in tried:
            cause = find_cause(site, original)
            if cause.startswith(site.text):
                row = WrongDump(fault.name, site.node, site.text, cause, fault.source)
                dumps.append((row, site.tensors))
                break
        else:
            left_out.setdefault(fault.name, "it is not named where it was tried")
    return dumps, left_out


def first_calls(trace: Trace) -> list[TraceCall]:
    """Return the first call of each network, in the order of the run."""
    found: dict[str, TraceCall] = {}
    for call in trace.calls:
        if not call.is_host:
            found.setdefault(call.kind, call)
    return list(found.values())


def _follow(
    trace: Trace, original: FollowedOriginal, call: TraceCall, hidden: bool
) -> Mapping[str, list[Site]]:
    """Return sites by fault of a right call; with `hidden`, of modules without what is in them."""
    kept = list(trace.of_call(call))
    if hidden:
        names = {entry.layer for entry in kept}
        kept = [e for e in kept if e.layer.rpartition(".")[0] not in names - {""}]
    port = replace(trace, entries=tuple(kept))
    observer = _Changer(port, call)
    original.follow(port, call, observer)
    return observer.found


class _Changer:
    """Follows a right run, and keeps for each fault some layers with it."""

    def __init__(self, trace: Trace, call: TraceCall):
        self.trace = trace
        self.call = call
        self.found: dict[str, list[Site]] = {}

    def observe(self, replay: FollowedRun, point: Point) -> np.ndarray:
        """Try each fault at a point of the right run."""
        computed = np.asarray(point.computed)
        if computed.dtype.kind == "f" and not np.isnan(computed).any():
            for fault in FAULTS:
                found = self.found.setdefault(fault.name, [])
                if len(found) < SITES:
                    found += self._try(fault, replay, point)
        return point.recorded

    def skip(self, call: LayerCall, why: str) -> None:
        """Leave out a layer, of which a right run has none."""

    def refuse(self, call: LayerCall, inputs: Mapping[str, np.ndarray], why: str) -> None:
        """Leave out a layer, as those of a right run fit their weights."""

    def _try(self, fault: Fault, replay: FollowedRun, point: Point) -> list[Site]:
        """Return a fault of this row at a point, at most one: the first that clearly shows."""
        computed = np.asarray(point.computed)
        for hypothesis in _hypotheses(fault, replay, point):
            with np.errstate(all="ignore"):
                array = hypothesis.compute(replay, point)
            if array is None or array.shape != computed.shape or not np.isfinite(array).all():
                continue
            if relative_error(array, computed) >= LEAST:
                node = f"{self.call}/{point.call.name}".rstrip("/")
                tensors = self._dump(replay, point, array)
                return [Site(fault, node, hypothesis.text, tensors)] if tensors else []
        return []

    def _dump(self, replay: FollowedRun, point: Point, wrong: np.ndarray) -> dict[str, np.ndarray]:
        """Return what a port would have recorded of the part around a point, up to it."""
        layer, frame = point.call.name, point.frame.name
        own = self.trace.find(self.call, layer)
        if own is None:
            return {}
        before = list(self.trace.of_call(self.call))
        before = before[: before.index(own)] if layer else before
        inside = f"{frame}." if frame else ""
        led = [e for e in before if e.layer and e.layer.startswith(inside) and e.layer != layer]
        if not (frame and point.role):  # of a whole network, what the part reads is enough
            led = [e for e in led if e.layer in {*point.after, *replay.skips}]
        found: dict[str, np.ndarray] = {}
        if point.role or point.call.composite:
            for entry in (self.trace.find(self.call), self.trace.find(self.call, frame)):
                found |= self._read(entry, "input")  # so that the shapes of everything are known
            for entry in led:
                found |= self._read(entry, "output")
        found |= self._read(own, "input")
        side, roles = ("input", own.inputs) if point.role else ("output", own.outputs)
        found[_name(own, side, point.role or list(roles)[point.part])] = wrong
        return {
            name: x.astype(np.float32) if x.dtype.kind == "f" else x for name, x in found.items()
        }

    def _read(self, entry: TraceEntry | None, side: str) -> dict[str, np.ndarray]:
        """Return the recorded inputs or outputs of a layer by the names of a dump."""
        if entry is None:
            return {}
        roles = entry.inputs if side == "input" else entry.outputs
        return {_name(entry, side, role): self.trace.tensors[name] for role, name in roles.items()}


def _hypotheses(fault: Fault, replay: FollowedRun, point: Point) -> Iterator[Hypothesis]:
    """Yield what a fault may be of a part as a whole, or of one of its operations."""
    yield from fault.hypotheses(replay, point)
    for call in point.suspects:
        yield from fault.hypotheses(replay, point, [call])


def _name(entry: TraceEntry, side: str, role: str) -> str:
    return tensor_name(entry.call, entry.layer, side, role)


def find_cause(site: Site, original: FollowedOriginal) -> str:
    """Return the cause that the judge of ports names for a dump; "" if it names none."""
    report = original.judge(build_trace(dict(site.tensors)))
    wrong = [row for row in report.faults if row.name == site.node]
    return wrong[0].cause if wrong else ""
