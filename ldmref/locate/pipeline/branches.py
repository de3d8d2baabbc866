"""The parts of a recorded branch (`ldmref record --branch`), each with its own request.

The steps before a branch are those of its trunk. A multistep sampler keeps the trunk's
history, unless the branch changes the sampler or the noise levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ldmref.trace.model import Trace, TraceEntry


@dataclass(frozen=True)
class BranchParts:
    """The parts of a trace.

    Attributes:
        trunk: The whole trace, with the request of the first steps.
        requests: One part for each request.
        samplings: One part for each run of steps that share their history.
    """

    trunk: Trace
    requests: tuple[Trace, ...]
    samplings: tuple[Trace, ...]


def split_branches(port: Trace) -> BranchParts:
    """Return the parts of a trace: the trace itself if it is no branch."""
    branch = port.manifest.get("branch")
    schedules = [e for e in port.entries if e.call.kind == "schedule"]
    requests = _requests(branch) if isinstance(branch, dict) else []
    if len(requests) < 2 or len(requests) != len(schedules):
        return BranchParts(port, (port,), (port,))
    bounds = [port.entries.index(schedule) for schedule in schedules[1:]]
    pieces = np.split(np.arange(len(port.entries)), bounds)
    parts = [
        _trace_of(port, [port.entries[i] for i in piece], params)
        for piece, params in zip(pieces, requests, strict=True)
    ]
    samplings = [parts[0]]
    for before, part in pairwise(parts):
        if _sampler_of(before) == _sampler_of(part):
            entries = (*samplings[-1].entries, *part.entries)
            samplings[-1] = replace(samplings[-1], entries=entries)
        else:
            samplings.append(_with_levels(part))
    trunk = _trace_of(port, list(port.entries), requests[0])
    return BranchParts(trunk, tuple(parts), tuple(samplings))


def _requests(recipe: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the request of each part, from the first steps on; [] if it is not described."""
    if "trunk" not in recipe:
        return [recipe]
    trunk, changes = recipe["trunk"], recipe.get("changes")
    if not isinstance(trunk, dict) or not isinstance(changes, dict):
        return []
    before = _requests(trunk)
    return [*before, {**before[-1], **changes}] if before else []


def _trace_of(port: Trace, entries: list[TraceEntry], params: Mapping[str, Any]) -> Trace:
    """Return the trace of some entries, with their request."""
    return replace(port, entries=tuple(entries), manifest={**port.manifest, "params": params})


def _levels(part: Trace) -> list[float]:
    """Return the noise levels of a part; its first entry is its schedule."""
    name = part.entries[0].outputs.get("sigmas")
    return [] if name is None else np.ravel(part.tensors[name]).astype(float).tolist()


def _sampler_of(part: Trace) -> tuple[Any, ...]:
    """Return the sampler, its eta and its noise levels: equal ones keep the history."""
    steps = [e for e in part.entries if e.call.kind == "sampler" and not e.layer]
    eta = steps[0].attributes.get("eta") if steps else None
    return part.entries[0].attributes.get("sampler"), eta, _levels(part)


def _with_levels(part: Trace) -> Trace:
    """Return a part whose request has its noise levels, which begin at that of the first state."""
    params = {**part.manifest["params"], "sigmas": _levels(part)}
    return replace(part, manifest={**part.manifest, "params": params})
