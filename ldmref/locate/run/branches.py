"""A recorded branch (`ldmref record --branch`): parts of a run, each with its own request.

The steps before a branch are those of its trunk. A multistep sampler keeps the trunk's history,
unless the branch changes the sampler or the noise levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ldmref.backends.named import AGAIN
from ldmref.locate.run.calls import INPUT, OUTPUT, SCHEDULE, ArrayName
from ldmref.locate.run.views import RunView
from ldmref.samplers.parts import STEP
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace, TraceEntry


@dataclass(frozen=True)
class BranchPart:
    """A part of a run.

    Attributes:
        port: What was recorded of it, with its request.
        view: The steps that share their history with those of the part, as a run of its request.
        begins_anew: Whether its first step has no history, and its noise is not that of a run.
    """

    port: Trace
    view: RunView
    begins_anew: bool


def split_branches(port: Trace) -> list[BranchPart]:
    """Return the parts of a recorded branch; [] if the trace is none."""
    parts = _parts_of(port)
    if not parts:
        return []
    samplings = [[parts[0]]]
    for before, part in pairwise(parts):
        if _sampler_of(before) == _sampler_of(part):
            samplings[-1].append(part)
        else:
            samplings.append([part])
    return [*_views_of(samplings)]


def _views_of(samplings: Sequence[Sequence[Trace]]) -> Iterator[BranchPart]:
    for number, sampling in enumerate(samplings):
        entries = tuple(entry for part in sampling for entry in part.entries)
        whole = replace(sampling[0], entries=entries)
        for part in sampling:
            params = dict(part.manifest["params"])
            if number:
                params = {k: x for k, x in params.items() if k not in ("steps", "schedule")}
                asked = {**params, "sigmas": _levels(part)}
                part = replace(part, manifest={**part.manifest, "params": asked})
                params["sigmas"] = _levels_left(sampling[0])
            view = _renumbered(whole, params)
            if number:
                _begin_with(view, samplings[number - 1][-1])
            yield BranchPart(part, view, begins_anew=bool(number))


def _begin_with(view: RunView, before: Trace) -> None:
    """Let a view begin with the last state before it; its noise is that of a later step."""
    states = [e.outputs[OUTPUT] for e in before.entries if e.call.kind == STEP.call and not e.layer]
    first, *_ = [name for name in view.recorded if name.call.kind == STEP.call and name.role == "x"]
    if states:
        view.recorded.pop(first)
        view.numbers[first] = np.asarray(before.tensors[states[-1]])
    for name in [*view.recorded]:
        if name.call.kind == STEP.call and name.role.startswith("noise"):
            view.recorded.pop(name)


def _parts_of(port: Trace) -> list[Trace]:
    """Return the parts of a trace, one for each request; [] if it is no branch."""
    branch = port.manifest.get("branch")
    schedules = [e for e in port.entries if e.call.kind == SCHEDULE]
    requests = _requests(branch) if isinstance(branch, dict) else []
    if len(requests) < 2 or len(requests) != len(schedules):
        return []
    bounds = [port.entries.index(schedule) for schedule in schedules[1:]]
    pieces = np.split(np.arange(len(port.entries)), bounds)
    return [
        _trace_of(port, [port.entries[i] for i in piece], params)
        for piece, params in zip(pieces, requests, strict=True)
    ]


def _requests(recipe: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the request of each part, from the first steps on; [] if it is not described."""
    if "trunk" not in recipe:
        return [recipe]
    trunk, changes = recipe["trunk"], recipe.get("changes")
    if not isinstance(trunk, dict) or not isinstance(changes, dict):
        return []
    before = _requests(trunk)
    if not before:
        return []
    kept = {k: x for k, x in before[-1].items() if k != "eta" or "sampler" not in changes}
    return [*before, {**kept, **changes}]


def _trace_of(port: Trace, entries: list[TraceEntry], params: Mapping[str, Any]) -> Trace:
    """Return the trace of some entries, with their request."""
    return replace(port, entries=tuple(entries), manifest={**port.manifest, "params": params})


def _levels(part: Trace) -> list[float]:
    """Return the noise levels of a part; its first entry is its schedule."""
    name = part.entries[0].outputs.get("sigmas")
    return [] if name is None else np.ravel(part.tensors[name]).astype(float).tolist()


def _levels_left(part: Trace) -> list[float]:
    """Return the noise levels from that at which a part begins."""
    visits = part.entries[0].attributes.get("visits")
    first = visits[0] if isinstance(visits, list) and visits else 0
    return _levels(part)[first:]


def _sampler_of(part: Trace) -> tuple[Any, ...]:
    """Return the sampler, its eta and its noise levels: equal ones keep the history."""
    steps = [e for e in part.entries if e.call.kind == STEP.call and not e.layer]
    eta = steps[0].attributes.get("eta") if steps else None
    return part.entries[0].attributes.get("sampler"), eta, _levels(part)


def _renumbered(part: Trace, params: Mapping[str, Any]) -> RunView:
    """Return a part of a run whose calls are numbered from 0, without its schedule."""
    first: dict[str, int] = {}
    for entry in part.entries:
        kind, number = entry.call.kind, max(entry.call.number, 0)
        first[kind] = min(first.get(kind, number), number)
    manifest = {k: x for k, x in part.manifest.items() if k != "branch"}
    view = RunView(replace(part, manifest=manifest), params)
    for entry in part.entries:
        if entry.call.kind == SCHEDULE:
            continue
        own = f"{_shifted(entry.call, first[entry.call.kind])}/{entry.layer}"
        for side, roles in ((INPUT, entry.inputs), (OUTPUT, entry.outputs)):
            for role in roles:
                name = ArrayName(entry.name, side, role)
                view.pair(name._replace(entry=own), name)
    return view


def _shifted(call: TraceCall, first: int) -> str:
    """Return the name of a call whose number is smaller by the first one."""
    number = call.number - first
    if f".{call.number:03}" in call:
        return f"{call.kind}.{number:03}"
    return f"{call.kind}{AGAIN}{number}" if number > 0 else call.kind
