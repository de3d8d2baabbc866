"""Runs of ldmref as other programs record them, whose requests cannot be run again."""

from __future__ import annotations

from dataclasses import replace

from ldmref.trace import Trace


def of_another_program(trace: Trace) -> Trace:
    """Return a run whose request ldmref cannot run again: it is judged part by part."""
    params = {k: x for k, x in (trace.manifest.get("params") or {}).items() if k != "mode"}
    entries = tuple(entry for entry in trace.entries if entry.call.kind != "inputs")
    return replace(trace, manifest={**trace.manifest, "params": params}, entries=entries)
