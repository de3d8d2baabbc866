"""Batches: many requests from one file, resumable, on one process, several, or a cluster.

`run_batch(model, "requests.jsonl", "out")` generates the images of every row and writes a manifest.
Running it again verifies what exists and generates the rest. The images do not depend on the
executor, the order or the number of workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldmref.support.lazy import export_lazily

if TYPE_CHECKING:
    from ldmref.batch.batch_run import check_batch as check_batch
    from ldmref.batch.batch_run import run_batch as run_batch
    from ldmref.batch.rows import BatchRow as BatchRow
    from ldmref.batch.rows import RowFailure as RowFailure
    from ldmref.batch.rows import read_rows as read_rows
    from ldmref.batch.summary import BatchCheck as BatchCheck
    from ldmref.batch.summary import BatchSummary as BatchSummary
    from ldmref.batch.summary import RowEvent as RowEvent

__getattr__, __dir__, __all__ = export_lazily(__name__)
