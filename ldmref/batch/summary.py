"""The reports of a batch: after a row, after a run, and after a check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ldmref.batch.folder import ManifestLine
from ldmref.batch.rows import RowFailure


@dataclass(frozen=True)
class RowEvent:
    """A row that has just finished; or, with `done` 0, the rows that have failed before.

    Args:
        lines: Its lines of the manifest, one per image; those of all rows that are equal.
        failures: Why it failed; empty if it did not.
        seconds: The time that it took, in seconds.
        done: The number of rows that have finished in this run.
        total: The number of rows that this run generates.

    >>> import tempfile
    >>> import ldmref
    >>> from ldmref.batch import run_batch
    >>> model = ldmref.random_model("tiny")
    >>> rows = [{"prompt": "a red heart", "steps": 2}, {"prompt": "a cat", "steps": -1}]
    >>> done = []
    >>> summary = run_batch(model, rows, tempfile.mkdtemp(), report=lambda e: done.append(e.done))
    >>> done
    [0, 1]
    """

    lines: Sequence[ManifestLine]
    failures: Sequence[RowFailure]
    seconds: float
    done: int
    total: int


@dataclass(frozen=True)
class BatchSummary:
    """The result of a run; all numbers except for `images` count rows.

    Args:
        rows: The rows of the file, or of the shard.
        images: The images that exist now for these rows.
        generated: The rows that were generated in this run.
        verified: The rows that existed before, with unchanged files.
        failed: The rows that are wrong or have failed, now or before.
        left: The rows that a limit or a stop has left for the next run.
        seconds: The time of the run.
        manifest: The manifest.
        errors: The file of the failures; None if there are none.

    >>> import tempfile
    >>> import ldmref
    >>> from ldmref.batch import run_batch
    >>> model = ldmref.random_model("tiny")
    >>> rows = [{"prompt": "a red heart", "steps": 2}, {"prompt": "a cat", "steps": -1}]
    >>> summary = run_batch(model, rows, tempfile.mkdtemp())
    >>> summary.generated, summary.failed, summary.errors.name
    (1, 1, 'errors.jsonl')
    """

    rows: int
    images: int
    generated: int
    verified: int
    failed: int
    left: int
    seconds: float
    manifest: Path
    errors: Path | None


@dataclass(frozen=True)
class BatchCheck:
    """The result of a check without generating.

    Args:
        rows: The rows of the file, or of the shard.
        verified: The rows that exist, with unchanged files.
        left: The rows to generate.
        images: The images of these.
        failures: The rows that are wrong or have failed before.
        seconds: A lower bound of the time that one worker takes.

    >>> import tempfile
    >>> import ldmref
    >>> from ldmref.batch import check_batch
    >>> model = ldmref.random_model("tiny")
    >>> rows = [{"prompt": "a red heart", "steps": 2}, {"prompt": "a cat", "steps": -1}]
    >>> check = check_batch(model, rows, tempfile.mkdtemp())
    >>> check.rows, check.left, check.failures[0].code
    (2, 1, 'E-STEPS')
    """

    rows: int
    verified: int
    left: int
    images: int
    failures: Sequence[RowFailure]
    seconds: float
