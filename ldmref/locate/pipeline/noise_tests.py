"""Judge arrays that should be normal noise: only their distribution is known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from ldmref.locate.findings import DIFFERS, Row
from ldmref.locate.normal import deviation_from_normal
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.coverage import RecordedArray
from ldmref.locate.recorded.layouts import first_nonfinite


def judge_normal(
    context: PipelineContext, recorded: RecordedArray, kind: str, segment: str = ""
) -> Row:
    """Return the row of an array that should have mean 0 and variance 1 in every element.

    Args:
        context: The run.
        recorded: The array.
        kind: What its call computes.
        segment: What leads to it.
    """
    z = recorded.array
    bad = first_nonfinite(z)
    row = context.row(recorded, kind, segment=segment)
    if bad:
        return replace(row, error=math.inf, verdict=DIFFERS, note=bad)
    if not z.size:  # as for all arrays without elements, nothing differs
        return row
    error, allowed, cause = deviation_from_normal(z)
    row = replace(row, error=error, allowed=allowed)
    return replace(row, verdict=DIFFERS, cause=cause) if cause else row


def judge_noises(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for the noises of all steps, of which only the distribution is known."""
    for entry in context.calls("sampler"):
        for role in entry.inputs:
            noise = context.recorded(entry, role) if role.partition(".")[0] == "noise" else None
            if noise is not None:
                yield judge_normal(context, noise, "noise")
