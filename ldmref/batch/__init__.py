"""Batches: many requests from one file, resumable, on one process, several, or a cluster.

`run_batch(model, "requests.jsonl", "out")` generates the images of every row and writes a manifest.
Running it again verifies what exists and generates the rest. The images do not depend on the
executor, the order or the number of workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldmref.lazy import export_lazily

if TYPE_CHECKING:
    from ldmref.batch.rows import BatchRow, RowFailure, read_rows
    from ldmref.batch.run import check_batch, run_batch
    from ldmref.batch.summary import BatchCheck, BatchSummary, RowEvent

_MODULES = {
    "BatchCheck": "summary",
    "BatchRow": "rows",
    "BatchSummary": "summary",
    "RowEvent": "summary",
    "RowFailure": "rows",
    "check_batch": "run",
    "read_rows": "rows",
    "run_batch": "run",
}

__all__ = [
    "BatchCheck",
    "BatchRow",
    "BatchSummary",
    "RowEvent",
    "RowFailure",
    "check_batch",
    "read_rows",
    "run_batch",
]

__getattr__, __dir__ = export_lazily(__name__, _MODULES)
