"""The passes of a trace: runs that follow each other, or batches of one run.

Each begins with a schedule, and is judged by itself. What a pass prepares before its schedule comes
after the last step, or the decoder, of the pass before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from ldmref.trace.model import Trace, TraceEntry

ENDS = ("sampler", "vae.decode", "taesd.decode")  # calls with which a pass may end
LISTS = ("prompt", "negative_prompt")


def split_passes(port: Trace) -> tuple[Trace, ...]:
    """Return the passes of a trace, each with its own request; the trace itself if it is one."""
    if port.manifest.get("branch") is not None:
        return (port,)
    entries = list(port.entries)
    starts = [i for i, e in enumerate(entries) if e.call.kind == "schedule"]
    bounds = [0]
    for before, start in pairwise(starts):
        ends = [i for i in range(before, start) if _ends(entries[i])]
        if ends:
            bounds.append(ends[-1] + 1)
    if len(bounds) < 2:
        return (port,)
    pieces = [entries[i:j] for i, j in pairwise([*bounds, len(entries)])]
    requests = _requests(port, pieces)
    return tuple(
        replace(port, entries=tuple(piece), manifest={**port.manifest, **request})
        for piece, request in zip(pieces, requests, strict=True)
    )


def _ends(entry: TraceEntry) -> bool:
    return entry.call.startswith(ENDS)


def _requests(port: Trace, pieces: list[list[TraceEntry]]) -> list[Mapping[str, Any]]:
    """Return what changes in the manifest for each pass."""
    recorded = port.manifest.get("requests")
    recorded = recorded if isinstance(recorded, list) else []
    if len(recorded) == len(pieces) and all(isinstance(r, dict) for r in recorded):
        params = port.manifest.get("params") or {}
        kept = {k: x for k, x in params.items() if not any(k in r for r in recorded)}
        return [{"request": r, "params": kept} for r in recorded]
    params = dict(port.manifest.get("params") or {})
    sizes = [_images(port, piece) for piece in pieces]
    total = sum(sizes)
    ends = np.cumsum(sizes).tolist()
    found = []
    for size, end in zip(sizes, ends, strict=True):
        changed = {
            name: _part(params[name], total, end - size, end)
            for name in LISTS
            if isinstance(params.get(name), list) and params[name]
        }
        found.append({"params": params | changed})
    return found


def _part(prompts: list[Any], total: int, start: int, end: int) -> list[Any]:
    """Return the prompts of some images of a run, each once for every image."""
    each = total // len(prompts)
    spread = [prompt for prompt in prompts for _ in range(each)]
    return spread[start:end] if len(spread) == total else prompts


def _images(port: Trace, piece: list[TraceEntry]) -> int:
    """Return how many images a pass makes."""
    for entry in piece:
        if entry.call.startswith("sampler") and not entry.layer:
            name = entry.inputs.get("x", entry.inputs.get("sample"))
            return 0 if name is None else len(np.atleast_1d(port.tensors[name]))
    return 0
