"""`run_batch`: generate the rows of a request file, skipping those whose files exist."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict, Unpack

from ldmref.batch.executors import check_number, choose_executor
from ldmref.batch.folder import BatchFolder, ManifestLine, check_path, is_named_after, name_image
from ldmref.batch.keys import identify_model
from ldmref.batch.planning import BatchShard, CompleteRow, PlannedRow, plan_rows, select_shard
from ldmref.batch.rows import STDIN, RowFailure, RowSource, make_failure, read_rows
from ldmref.batch.summary import BatchCheck, BatchSummary, RowEvent
from ldmref.batch.tasks import (
    ModelSource,
    RowExecutor,
    RowOutcome,
    RowTask,
    load_source,
    make_task,
)
from ldmref.errors import Cancelled, LdmrefError, UsageError, did_you_mean, short_repr
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.generate import CancelFlag, check_callbacks

MAX_SHARDS = 100_000


class RowOptions(TypedDict, total=False):
    """Which rows are generated, and how they are read.

    Args:
        shard: (i, n): only part i of n, from 1 to n. Equal rows are in the same part. None: all
            rows.
        retry_errors: Whether rows that failed in an earlier run are tried again. Default: False.
        limit: The largest number of rows to generate in this run. None: all.
        folder: The folder to which paths in rows are relative. None: that of the file.
        config: The model's configuration, to check the rows before `model` loads it. None: the
            model is loaded first.
        complete: `complete(mode, values)` returns the values of a row with those that a
            configuration adds. None: the values of the row alone.
    """

    shard: tuple[int, int] | None
    retry_errors: bool
    limit: int | None
    folder: str | os.PathLike[str] | None
    config: ModelConfig | None
    complete: CompleteRow | None


class BatchOptions(RowOptions, total=False):
    """`RowOptions`, and who generates the rows.

    Args:
        executor: `serial`, the default, `process` or `ray`. The images do not depend on it.
        workers: The number of workers of `process` and `ray`. None: as many as there are cores.
        threads: The number of threads of each worker. Default: 1.
        address: The address of a Ray cluster. None: Ray is started on this machine.
        gpus: The number of GPUs of each worker of `ray`; may be a fraction. Default: 0.
    """

    executor: str
    workers: int | None
    threads: int
    address: str | None
    gpus: float


def run_batch(
    model: ModelSource,
    rows: RowSource,
    out: str | os.PathLike[str],
    *,
    report: Callable[[RowEvent], None] | None = None,
    cancel: CancelFlag | None = None,
    **options: Unpack[BatchOptions],
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
        report: Called with a `RowEvent` after every row; and before the first one, if rows are
            wrong or have failed in an earlier run. None: nothing is called.
        cancel: A `threading.Event`; once it is set, `Cancelled` is raised. Finished rows are
            kept. None: the batch cannot be cancelled.
        options: Which rows are generated (`shard`, `retry_errors`, `limit`), how they are read
            (`folder`, `config`, `complete`), and who generates them (`executor`, `workers`,
            `threads`, `address`, `gpus`); `BatchOptions` describes each.

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
    part, limit = _check_options(options, BatchOptions)
    check_callbacks(report, cancel, name="report")
    choose = choose_executor(
        options.get("executor", "serial"),
        options.get("workers"),
        options.get("threads", 1),
        options.get("address"),
        options.get("gpus", 0.0),
    )
    planned, wrong, loaded = _plan(model, rows, options, part)
    out_folder = BatchFolder(check_path(out), part)
    with out_folder.locked():
        loaded = loaded or load_source(model)
        retry = options.get("retry_errors", False)
        ledger = _open_ledger(loaded, planned, wrong, out_folder, retry)
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
    **options: Unpack[RowOptions],
) -> BatchCheck:
    """Check all rows and existing files, and estimate the time, without writing or generating.

    Nothing in the folder changes; `run_batch` with the same arguments generates the rows.

    Args:
        model: A model, or a function that loads it.
        rows: A file of JSON lines, "-" for standard input, or mappings.
        out: The folder of images and manifest; it does not have to exist.
        options: Which rows count, and how they are read; `RowOptions` describes each.

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
    part, limit = _check_options(options, RowOptions)
    planned, wrong, loaded = _plan(model, rows, options, part)
    loaded = loaded or load_source(model)
    retry = options.get("retry_errors", False)
    ledger = _open_ledger(loaded, planned, wrong, BatchFolder(check_path(out), part), retry)
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


def _check_options(
    options: RowOptions, known: type[RowOptions]
) -> tuple[BatchShard | None, int | None]:
    """Return the shard and the limit of options whose names are known.

    Raises:
        UsageError: There is another name, or one of them has a wrong value.
    """
    for name in options:
        if name not in known.__annotations__:
            hint = did_you_mean(name, known.__annotations__)
            raise UsageError(f"a batch has no option {name!r}", code="E-USAGE", hint=hint)
    limit = options.get("limit")
    check_number("limit", limit)
    return check_shard(options.get("shard")), limit


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
    model: ModelSource, rows: RowSource, options: RowOptions, part: BatchShard | None
) -> tuple[list[PlannedRow], list[RowFailure], LatentDiffusion | None]:
    """Return the rows that can be generated, those that cannot, and the model if it was needed."""
    loaded = None
    config, folder = options.get("config"), options.get("folder")
    if config is None:
        loaded = load_source(model)
        config = loaded.config
    read = read_rows(rows)
    if folder is None:
        from_file = isinstance(rows, str | os.PathLike) and os.fspath(rows) != STDIN
        folder = Path(os.fspath(rows)).parent if from_file else Path()  # type: ignore[arg-type]
    checked = select_shard(plan_rows(read, config, Path(folder), options.get("complete")), part)
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


# -- the account of a run --------------------------------------------------------------------------


IMAGE_FIELDS = ("index", "file", "sha256", "params", "warnings")


@dataclass
class BatchLedger:
    """The rows of a batch by key, and the images that exist for them.

    Args:
        folder: The folder of the batch.
        planned: All rows that can be generated, with their keys.
        wrong: The rows that cannot.
        done: The lines of the images of each key that is complete and verified.
        failed: The failure of each key whose generation failed.
    """

    folder: BatchFolder
    planned: Sequence[PlannedRow]
    wrong: Sequence[RowFailure]
    done: dict[str, list[ManifestLine]] = field(default_factory=dict)
    failed: dict[str, LdmrefError] = field(default_factory=dict)
    _rows: dict[str, list[PlannedRow]] = field(default_factory=dict, init=False)
    _orphans: list[ManifestLine] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        for planned in self.planned:
            self._rows.setdefault(planned.key, []).append(planned)

    def rows_of(self, key: str) -> list[PlannedRow]:
        """Return the rows of a key, in the order of their lines."""
        return self._rows[key]

    # -- what exists ------------------------------------------------------------------------------

    def read(self, retry_errors: bool = False) -> None:
        """Read the manifests and errors of the folder, and verify every file by its digest."""
        known: dict[str, dict[int, ManifestLine]] = {}
        for line in self.folder.read_all("manifest"):
            if isinstance(line.get("key"), str) and isinstance(line.get("index"), int):
                known.setdefault(line["key"], {})[line["index"]] = line
        for key, rows in self._rows.items():
            lines = [known.get(key, {}).get(i) for i in range(rows[0].images)]
            whole = [line for line in lines if line is not None and self.folder.verify(line)]
            if len(whole) == rows[0].images:
                self.done[key] = [{name: line.get(name) for name in IMAGE_FIELDS} for line in whole]
        gone = [lines for key, lines in sorted(known.items()) if key not in self._rows]
        self._orphans = [
            {**line, "line": None}
            for lines in gone
            for _, line in sorted(lines.items())
            if is_named_after(line) and (self.folder.path / line["file"]).is_file()
        ]
        for line in () if retry_errors else self.folder.read_all("errors"):
            key = line.get("key")
            if key in self._rows and key not in self.done:
                code, message, hint = (str(line.get(k)) for k in ("code", "message", "hint"))
                self.failed[key] = LdmrefError(message, code=code, hint=hint)

    def begin(self) -> list[RowFailure]:
        """Write the failures that are known before anything is generated, and return them."""
        failures = self.list_failures()
        self.folder.write_sorted(self.folder.errors, [f.to_json() for f in failures])
        return failures

    def list_open(self) -> list[PlannedRow]:
        """Return the first row of every key that is neither done nor failed."""
        return [
            rows[0]
            for key, rows in self._rows.items()
            if key not in self.done and key not in self.failed
        ]

    def list_files(self) -> Iterator[str]:
        """Yield the name of every file of the rows."""
        for key, rows in self._rows.items():
            first = rows[0]
            for i in range(first.images):
                yield name_image(key, first.row.custom_id, i, first.images)

    # -- what is new ------------------------------------------------------------------------------

    def record(self, outcome: RowOutcome) -> list[ManifestLine]:
        """Write the images of a row, or its error, and return the lines of the manifest.

        Raises:
            OutputError: They cannot be written.
        """
        if outcome.error is not None:
            code, message, hint = outcome.error
            self.record_failure(outcome.key, LdmrefError(message, code=code, hint=hint))
            return []
        first = self._rows[outcome.key][0]
        images: list[ManifestLine] = []
        for i, image in enumerate(outcome.images):
            name = name_image(outcome.key, first.row.custom_id, i, len(outcome.images))
            self.folder.write_image(name, image.png)
            values = (i, name, image.sha256, dict(image.params), list(outcome.warnings))
            images.append(dict(zip(IMAGE_FIELDS, values, strict=True)))
        self.done[outcome.key] = images
        lines = [line for row in self._rows[outcome.key] for line in self._lines_of(row)]
        self.folder.append(self.folder.manifest, lines)
        return lines

    def record_failure(self, key: str, error: LdmrefError) -> None:
        """Write the error of a row."""
        self.failed[key] = error
        failures = [failure.to_json() for failure in self.failures_of(key)]
        self.folder.append(self.folder.errors, failures)

    # -- numbers ----------------------------------------------------------------------------------

    def count_done(self) -> int:
        """Return the number of rows that are done."""
        return sum(row.key in self.done for row in self.planned)

    def count_images(self) -> int:
        """Return the number of images of the rows; equal rows share theirs."""
        return sum(len(lines) for lines in self.done.values())

    # -- the files at the end ---------------------------------------------------------------------

    def failures_of(self, key: str) -> list[RowFailure]:
        """Return the failures of the rows of a key; none unless it failed."""
        error = self.failed.get(key)
        if error is None:
            return []
        return [make_failure(p.row.line, p.row.custom_id, error, key) for p in self._rows[key]]

    def list_failures(self) -> list[RowFailure]:
        """Return all failures, sorted by line."""
        generated = [failure for key in self.failed for failure in self.failures_of(key)]
        return sorted([*self.wrong, *generated], key=lambda failure: failure.line)

    def finish(self) -> None:
        """Write the sorted manifest and errors; those of shards are part of a whole batch's.

        Images of rows that the requests no longer hold keep their lines, with `line` null.
        """
        lines = [line for row in self.planned for line in self._lines_of(row)]
        self.folder.write_sorted(self.folder.manifest, [*lines, *self._own_orphans()])
        failures = [failure.to_json() for failure in self.list_failures()]
        self.folder.write_sorted(self.folder.errors, failures)
        self.folder.remove_shards()

    def _own_orphans(self) -> Iterable[ManifestLine]:
        """Return the lines to keep; a shard leaves them to the whole batch."""
        return self._orphans if self.folder.shard is None else ()

    def _lines_of(self, planned: PlannedRow) -> list[ManifestLine]:
        row = planned.row
        start = {"line": row.line, "custom_id": row.custom_id, "key": planned.key}
        return [start | image for image in self.done.get(planned.key, ())]
