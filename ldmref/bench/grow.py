"""How the cost of ldmref grows with resolution, batch and steps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ldmref.bench.measure import times
from ldmref.bench.rows import Row
from ldmref.bench.run import count_flops
from ldmref.bench.works import inputs_of, model_of, ours
from ldmref.errors import UsageError

SERIES: dict[str, tuple[int, ...]] = {
    "resolution": (128, 256, 384, 512),
    "batch": (1, 2, 4, 8),
    "steps": (1, 2, 4, 8),
}
FIELDS = {"resolution": "size", "steps": "steps"}
SMALL: dict[str, tuple[int, ...]] = {
    "resolution": (16, 32, 64),
    "batch": (1, 2, 4),
    "steps": (1, 2, 4),
}


def grow(row: Row, what: str, values: Sequence[int], rounds: int = 3) -> Iterator[dict[str, Any]]:
    """Measure the row's work by ldmref at each value of resolution, batch or steps.

    Steps are those of whole pictures, text encoder and autoencoder included. Yields JSON-able
    points: `value`, `seconds` (median), `min`, `max`, `flops`, `gflops`, and since the point
    before `exponent`, the k of cost ~ value^k: 1 is proportional, 2 is quadratic.

    Raises:
        UsageError: the row's work has no such size.
        BackendUnavailable: the backend cannot run here.
    """
    if what == "steps":
        row = replace(row, work="picture")
    elif row.work == "text" or (row.work, what) == ("picture", "batch"):
        raise UsageError(
            f"{row.name} does not grow with {what}", code="E-GROW", hint="try a row of the U-Net"
        )
    model, last = model_of(row), None
    for value in values:
        batch = value if what == "batch" else None
        sized = replace(row, **{FIELDS[what]: value}) if what in FIELDS else row
        given = inputs_of(sized, model, batch)
        side = ours(sized, model, given)
        flops, taken = count_flops(sized, model, given), times(side, rounds)
        seconds = statistics.median(taken)
        point = {
            "row": row.name, "model": row.model, "backend": row.backend, "what": what,
            "value": value, "seconds": seconds, "min": min(taken), "max": max(taken),
            "flops": flops, "gflops": flops / seconds / 1e9, "exponent": None,
        }  # fmt: skip
        if last is not None:
            rise = math.log(seconds / last["seconds"])
            point["exponent"] = rise / math.log(value / last["value"])
        last = point
        yield point
