"""Runs of ldmref as other programs record them: without the mode and the images of the request."""

from __future__ import annotations

from dataclasses import replace

from ldmref.trace import Trace


def of_another_program(trace: Trace) -> Trace:
    """Return a run whose mode and images are read from its arrays."""
    params = {k: x for k, x in (trace.manifest.get("params") or {}).items() if k != "mode"}
    entries = tuple(entry for entry in trace.entries if entry.call.kind != "inputs")
    return replace(trace, manifest={**trace.manifest, "params": params}, entries=entries)
