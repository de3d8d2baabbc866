"""Judge arrays that should be normal noise: only their distribution is known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ldmref.locate.findings import DIFFERS, Row
from ldmref.locate.layouts import first_nonfinite
from ldmref.locate.normal import deviation_from_normal
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.trace.model import TraceEntry


def judge_normal(
    context: PipelineContext, entry: TraceEntry, kind: str, z: np.ndarray, segment: str = ""
) -> Row:
    """Return the row of an array that should have mean 0 and variance 1 in every element.

    Args:
        context: The run.
        entry: The call.
        kind: What it computes.
        z: The array.
        segment: What leads to it.
    """
    bad = first_nonfinite(z)
    if bad:
        return Row(entry.call, "", kind, math.inf, verdict=DIFFERS, note=bad, segment=segment)
    if not z.size:  # as for all arrays without elements, nothing differs
        return Row(entry.call, "", kind, segment=segment)
    error, allowed, cause = deviation_from_normal(z)
    row = Row(entry.call, "", kind, error, allowed, segment=segment)
    return replace(row, verdict=DIFFERS, cause=cause) if cause else row


def judge_noises(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for the noises of all steps, of which only the distribution is known."""
    for entry in context.calls("sampler"):
        for role in entry.inputs:
            noise = context.read(entry, role) if role.partition(".")[0] == "noise" else None
            if noise is not None:
                context.compared(entry, role)
                yield judge_normal(context, entry, "noise", noise)
