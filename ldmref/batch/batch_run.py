"""`run_batch`: generate the rows of a request file, skipping those whose files exist."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ldmref.batch.executors import check_number, choose_executor
from ldmref.batch.folder import BatchFolder, check_path
from ldmref.batch.keys import identify_model
from ldmref.batch.ledger import BatchLedger
from ldmref.batch.planning import BatchShard, CompleteRow, PlannedRow, plan_rows, select_shard
from ldmref.batch.rows import STDIN, RowFailure, RowSource, read_rows
from ldmref.batch.summary import BatchCheck, BatchSummary, RowEvent
from ldmref.batch.tasks import (
    ModelSource,
    RowExecutor,
    RowOutcome,
    RowTask,
    load_source,
    make_task,
)
from ldmref.errors import Cancelled, LdmrefError, UsageError, short_repr
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.callbacks import check_callbacks
from ldmref.modes.generate import CancelFlag

MAX_SHARDS = 100_000


def run_batch(
    model: ModelSource,
    rows: RowSource,
    out: str | os.PathLike[str],
    *,
    executor: str = "serial",
    workers: int | None = None,
    threads: int = 1,
    shard: tuple[int, int] | None = None,
    retry_errors: bool = False,
    limit: int | None = None,
    address: str | None = None,
    gpus: float = 0.0,
    folder: str | os.PathLike[str] | None = None,
    config: ModelConfig | None = None,
    complete: CompleteRow | None = None,
    report: Callable[[RowEvent], None] | None = None,
    cancel: CancelFlag | None = None,
) -> BatchSummary:
    """Generate the images of all rows that are not there yet.

    Every row is checked before any is generated. A row that is wrong or fails is written to
    `errors.jsonl` and does not stop the others. Existing files are verified by their SHA-256, and
    generated again if they are missing or damaged.

    Args:
        model: A model; or a function that loads it, such as
            `functools.partial(ldmref.load, "emoji")`. Workers receive the function, which must
            therefore be picklable.
        rows: A file of JSON lines, "-" for standard input, or mappings.
        out: The folder for images and manifest, which is created if needed.
        executor: `serial`, `process` or `ray`. The images do not depend on it.
        workers: The number of workers of `process` and `ray`. None: as many as there are cores.
        threads: The number of threads of each worker.
        shard: (i, n): only part i of n, from 1 to n. Equal rows are in the same part. None: all
            rows.
        retry_errors: Whether rows that failed in an earlier run are tried again.
        limit: The largest number of rows to generate in this run. None: all.
        address: The address of a Ray cluster. None: Ray is started on this machine.
        gpus: The number of GPUs of each worker of `ray`; may be a fraction.
        folder: The folder to which paths in rows are relative. None: that of the file.
        config: The model's configuration, to check the rows before `model` loads it. None: the
            model is loaded first.
        complete: `complete(mode, values)` returns the values of a row with those that a
            configuration adds. None: the values of the row alone.
        report: Called with a `RowEvent` after every row; and before the first one, if rows are
            wrong or have failed in an earlier run. None: nothing is called.
        cancel: A `threading.Event`; once it is set, `Cancelled` is raised. Finished rows are
            kept. None: the batch cannot be cancelled.

    Returns:
        The numbers of rows.

    Raises:
        UsageError: An argument is wrong.
        InputError: The file of rows cannot be read, or the model cannot be loaded.
        OutputError: Another batch writes into the folder, or it cannot be written.
        BackendUnavailable: Ray is not installed.
        Cancelled: `cancel` was set; its `partial` is the `BatchSummary`.

    Example:
        >>> import ldmref, tempfile
        >>> from ldmref.batch import run_batch
        >>> model = ldmref.random_model("tiny")
        >>> rows = [{"prompt": "a red heart", "steps": 2}, {"prompt": "a cat", "steps": 2}]
        >>> summary = run_batch(model, rows, tempfile.mkdtemp())
        >>> summary.rows, summary.generated, summary.failed
        (2, 2, 0)
    """
    start = time.monotonic()
    part = check_shard(shard)
    check_number("limit", limit)
    check_callbacks(report, cancel, name="report")
    choose = choose_executor(executor, workers, threads, address, gpus)
    planned, wrong, loaded = _plan(model, config, rows, folder, complete, part)
    out_folder = BatchFolder(check_path(out), part)
    with out_folder.locked():
        loaded = loaded or load_source(model)
        ledger = _open_ledger(loaded, planned, wrong, out_folder, retry_errors)
        out_folder.remove_leftovers(ledger.list_files())
        verified = ledger.count_done()
        todo = ledger.list_open()[:limit]
        failures = ledger.begin()
        if report is not None and failures:
            report(RowEvent((), failures, 0.0, 0, len(todo)))
        generating = _Generating(ledger, len(todo), report)
        stopped = None
        try:
            if todo:
                workforce = choose(model, loaded, len(todo))
                del loaded  # other workers have their own
                generating.run(workforce, todo, cancel)
        except Cancelled as error:
            stopped = error
        ledger.finish()
    failures = ledger.list_failures()
    done = ledger.count_done()
    summary = BatchSummary(
        rows=len(planned) + len(wrong),
        images=ledger.count_images(),
        generated=done - verified,
        verified=verified,
        failed=len(failures),
        left=len(planned) + len(wrong) - done - len(failures),
        seconds=time.monotonic() - start,
        manifest=out_folder.manifest,
        errors=out_folder.errors if failures else None,
    )
    if stopped is not None:
        stopped.partial = summary
        raise stopped
    return summary


def check_batch(
    model: ModelSource,
    rows: RowSource,
    out: str | os.PathLike[str],
    *,
    shard: tuple[int, int] | None = None,
    retry_errors: bool = False,
    limit: int | None = None,
    folder: str | os.PathLike[str] | None = None,
    config: ModelConfig | None = None,
    complete: CompleteRow | None = None,
) -> BatchCheck:
    """Check all rows and existing files, and estimate the time, without writing or generating.

    Nothing in the folder changes; `run_batch` with the same arguments generates the rows.

    Args:
        model: A model, or a function that loads it.
        rows: A file of JSON lines, "-" for standard input, or mappings.
        out: The folder of images and manifest; it does not have to exist.
        shard: (i, n): only part i of n, from 1 to n. None: all rows.
        retry_errors: Whether rows that failed in an earlier run count as rows to generate.
        limit: The largest number of rows to generate. None: all.
        folder: The folder to which paths in rows are relative. None: that of the file.
        config: The model's configuration, to check the rows without the model. None: the model's.
        complete: `complete(mode, values)` returns the values of a row with those that a
            configuration adds. None: the values of the row alone.

    Returns:
        The numbers of rows, the failures and a lower bound of the time.

    Raises:
        UsageError: An argument is wrong.
        InputError: The file of rows cannot be read, or the model cannot be loaded.
        OutputError: The folder cannot be read.

    >>> import tempfile
    >>> import ldmref
    >>> from ldmref.batch import check_batch
    >>> model = ldmref.random_model("tiny")
    >>> rows = [{"prompt": "a red heart", "steps": 2}, {"prompt": "a cat", "steps": -1}]
    >>> check_batch(model, rows, tempfile.mkdtemp()).images
    1
    """
    part = check_shard(shard)
    check_number("limit", limit)
    planned, wrong, loaded = _plan(model, config, rows, folder, complete, part)
    loaded = loaded or load_source(model)
    ledger = _open_ledger(loaded, planned, wrong, BatchFolder(check_path(out), part), retry_errors)
    todo = ledger.list_open()[:limit]
    costs = [row.plan(loaded.config).estimate(loaded).seconds for row in todo]
    return BatchCheck(
        rows=len(planned) + len(wrong),
        verified=ledger.count_done(),
        left=sum(len(ledger.rows_of(row.key)) for row in todo),
        images=sum(row.images for row in todo),
        failures=ledger.list_failures(),
        seconds=sum(costs),
    )


def check_shard(shard: tuple[int, int] | None) -> BatchShard | None:
    """Return a shard (i, n) with 1 <= i <= n.

    Raises:
        UsageError: It is something else.
    """
    if shard is None:
        return None
    whole = isinstance(shard, tuple) and len(shard) == 2 and all(type(n) is int for n in shard)
    if not whole or not 1 <= shard[0] <= shard[1] <= MAX_SHARDS:
        raise UsageError(
            f"a shard is part i of n with 1 <= i <= n <= {MAX_SHARDS}, not {short_repr(shard)}",
            code="E-SHARD",
            hint="the parts of 4 are 1/4, 2/4, 3/4 and 4/4",
        )
    return BatchShard(*shard)


def _plan(
    model: ModelSource,
    config: ModelConfig | None,
    rows: RowSource,
    folder: str | os.PathLike[str] | None,
    complete: CompleteRow | None,
    part: BatchShard | None,
) -> tuple[list[PlannedRow], list[RowFailure], LatentDiffusion | None]:
    """Return the rows that can be generated, those that cannot, and the model if it was needed."""
    loaded = None
    if config is None:
        loaded = load_source(model)
        config = loaded.config
    read = read_rows(rows)
    if folder is None:
        from_file = isinstance(rows, str | os.PathLike) and os.fspath(rows) != STDIN
        folder = Path(os.fspath(rows)).parent if from_file else Path()  # type: ignore[arg-type]
    checked = select_shard(plan_rows(read, config, Path(folder), complete), part)
    wrong = [row for row in checked if isinstance(row, RowFailure)]
    return [row for row in checked if isinstance(row, PlannedRow)], wrong, loaded


def _open_ledger(
    loaded: LatentDiffusion,
    planned: Sequence[PlannedRow],
    wrong: Sequence[RowFailure],
    folder: BatchFolder,
    retry_errors: bool,
) -> BatchLedger:
    """Give rows their keys, and verify what exists."""
    identity = identify_model(loaded)
    ledger = BatchLedger(folder, [row.with_key(identity) for row in planned], wrong)
    ledger.read(retry_errors)
    return ledger


class _Generating:
    """Runs tasks, and records and reports every outcome."""

    def __init__(
        self, ledger: BatchLedger, total: int, report: Callable[[RowEvent], None] | None
    ) -> None:
        self._ledger = ledger
        self._total = total
        self._report = report
        self._done = 0

    def run(
        self, executor: RowExecutor, todo: Sequence[PlannedRow], cancel: CancelFlag | None
    ) -> None:
        """Generate the rows."""
        with contextlib.closing(executor.run(self._make_tasks(todo), cancel)) as outcomes:
            for outcome in outcomes:
                self._record(outcome)

    def _make_tasks(self, todo: Sequence[PlannedRow]) -> Iterator[RowTask]:
        """Yield a task for each row; a row whose image has changed fails."""
        for planned in todo:
            try:
                yield make_task(planned)
            except LdmrefError as error:
                described = (error.code, str(error), error.hint)
                self._record(RowOutcome(planned.key, error=described))

    def _record(self, outcome: RowOutcome) -> None:
        self._done += 1
        lines = self._ledger.record(outcome)
        failures = self._ledger.failures_of(outcome.key)
        if self._report is not None:
            event = RowEvent(lines, failures, outcome.seconds, self._done, self._total)
            self._report(event)
