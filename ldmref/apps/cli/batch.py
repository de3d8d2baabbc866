"""`ldmref batch`: generate the images of a file of requests."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from ldmref.apps.cli.messages import shorten
from ldmref.apps.cli.options import PATH, option, with_options
from ldmref.apps.cli.progress import STYLES, ProgressBar, duration, one_line, say, stopping
from ldmref.apps.cli.session import CommandSession
from ldmref.apps.cli.settings import with_settings
from ldmref.apps.cli.shared_options import MODEL
from ldmref.apps.cli.standard_streams import check_stdout
from ldmref.batch import BatchCheck, BatchSummary, RowEvent, RowFailure, check_batch, run_batch
from ldmref.batch.executors import EXECUTORS
from ldmref.batch.planning import CompleteRow
from ldmref.errors import Cancelled, RowsFailed, UsageError, counted
from ldmref.modes.registry import MODES
from ldmref.support.config import Settings

RUNNING = (
    option(
        "-o",
        "--output",
        type=PATH,
        metavar="FOLDER",
        required=True,
        help="Folder for images, manifest.jsonl and errors.jsonl; created if needed.",
    ),
    option(
        "--executor",
        metavar="NAME",
        default="serial",
        help=f"How to run: {', '.join(EXECUTORS)}. The images do not depend on it. "
        "Default: serial.",
    ),
    option(
        "--workers",
        type=int,
        metavar="N",
        help="Number of workers of process and ray. Default: the number of cores.",
    ),
    option(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="Threads of each worker; another number may change the last bits. Default: 1.",
    ),
    option(
        "--address",
        metavar="HOST:PORT",
        help="Existing Ray cluster, for --executor ray. Default: start Ray on this machine.",
    ),
    option(
        "--gpus-per-worker",
        "gpus",
        type=float,
        default=0.0,
        metavar="X",
        help="GPUs of each worker of ray; may be a fraction.",
    ),
    option(
        "--shard",
        metavar="I/N",
        help="Run only part I of N, from 1/N to N/N; then run once without it to merge.",
    ),
    option("--retry-errors", is_flag=True, help="Try rows again that failed in an earlier run."),
    option("--limit", type=int, metavar="N", help="Generate at most N rows in this run."),
    option(
        "--dry-run",
        is_flag=True,
        help="Check every row and existing file, and estimate the time, without generating.",
    ),
    option("--json", "as_json", is_flag=True, help="Print one JSON object per image or error."),
    option("-q", "--quiet", is_flag=True, help="Print only errors."),
    option("-v", "--verbose", is_flag=True, help="Also print every row, and tracebacks of errors."),
    option(
        "--progress",
        type=click.Choice(STYLES),
        default="auto",
        help="How to show progress. Default: a bar if standard error is a terminal.",
    ),
)


@click.command()
@click.argument("requests", type=PATH, metavar="FILE.jsonl")
@with_options(RUNNING, MODEL)
def batch(
    requests: str,
    output: str,
    shard: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Generate the images of a file of requests, one JSON object per line; - is standard input.

    A row holds the parameters of a mode ("mode", by default txt2img) and may have a "custom_id".
    Running the command again verifies the existing files and generates only what is missing.

    Example: ldmref batch requests.jsonl -o out
    """
    if as_json:
        check_stdout()
    part = None if shard is None else parse_shard(shard)
    session = CommandSession(flags)
    with session.planning() as config:
        pass  # each row is planned on its own
    source = session.loader()
    shared = {
        "shard": part,
        "retry_errors": flags["retry_errors"],
        "limit": flags["limit"],
        "config": config,
        "complete": complete_rows(session.configured),
    }
    if flags["dry_run"]:
        check = check_batch(source, requests, output, **shared)
        show_check(check, as_json)
        return
    show = BatchConsole(flags["quiet"], flags["verbose"], as_json, flags["progress"])
    running = {key: flags[key] for key in ("executor", "workers", "threads", "address", "gpus")}
    with stopping() as stop:
        try:
            summary = run_batch(
                source, requests, output, **shared, **running, report=show.row, cancel=stop
            )
        except Cancelled as error:
            show.clear()
            partial_summary: BatchSummary = error.partial
            left = counted(partial_summary.left, "row")
            error.args = (f"stopped; {left} left: run the command again",)
            raise
    show.finish(summary)


def parse_shard(text: str) -> tuple[int, int]:
    """Return (I, N) from I/N.

    Raises:
        UsageError: It is written otherwise.
    """
    index, _, count = text.partition("/")
    if not (index.isascii() and index.isdigit() and count.isascii() and count.isdigit()):
        raise UsageError(
            f"cannot read the shard {text!r}",
            code="E-SHARD",
            hint="the parts of 4 are 1/4, 2/4, 3/4 and 4/4",
        )
    return int(index), int(count)


def complete_rows(configured: Settings) -> CompleteRow:
    """Return the function that adds the settings of `[defaults]` to the values of a row."""

    def complete(mode: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
        completed = with_settings(mode, dict(values), configured)
        takes = MODES[mode].parameters
        return {
            name: value
            for name, value in completed.items()
            if name in values or (name in takes and value is not None)
        }

    return complete


COMMANDS = (batch,)


# -- what is printed -------------------------------------------------------------------------------


MOST_SHOWN = 10  # failures that are printed at once


class BatchConsole:
    """The output of a batch: progress on standard error, JSON on standard output."""

    def __init__(self, quiet: bool, verbose: bool, as_json: bool, progress: str):
        self._quiet = quiet
        self._verbose = verbose
        self._as_json = as_json
        self._bar = ProgressBar("none" if quiet else progress)

    def clear(self) -> None:
        """Remove the progress bar."""
        self._bar.clear()

    def row(self, event: RowEvent) -> None:
        """Show a row that has finished, or the rows that have failed before."""
        seconds = round(event.seconds, 3)
        self.clear()
        if not self._quiet:
            say_failures(event.failures)
        if self._verbose and not self._quiet:
            for line in event.lines:
                say(one_line(f"line {line['line']}  {line['file']}  {duration(event.seconds)}"))
        if self._as_json:
            for line in event.lines:
                click.echo(json.dumps({**line, "seconds": seconds}))
            for failure in event.failures:
                click.echo(json.dumps({"error": failure.to_json()}))
        if event.done == 1:
            self._bar.start = time.monotonic() - event.seconds
        if event.done:
            self._bar.update(event.done, event.total, 0, 1, unit="rows")

    def finish(self, summary: BatchSummary) -> None:
        """Print the numbers of the run.

        Raises:
            RowsFailed: Some rows are wrong or have failed.
        """
        self.clear()
        numbers = {
            "generated": summary.generated,
            "verified": summary.verified,
            "failed": summary.failed,
            "left": summary.left,
        }
        if self._as_json:
            files = {
                "manifest": str(summary.manifest),
                "errors": summary.errors and str(summary.errors),
            }
            totals = {"rows": summary.rows, "images": summary.images} | numbers
            click.echo(
                json.dumps({"summary": totals | files | {"seconds": round(summary.seconds, 3)}})
            )
        if not self._quiet:
            parts = [f"{number} {word}" for word, number in numbers.items() if number]
            text = (
                f"{summary.manifest}  {counted(summary.rows, 'row')}: {', '.join(parts) or 'none'}"
            )
            say(one_line(f"{text}, {duration(summary.seconds)}"))
        if summary.failed:
            fail_rows(summary.failed, summary.rows, f"see {summary.errors}")


def describe_failure(failure: RowFailure) -> str:
    """Return a line about a row that failed."""
    name = f" ({failure.custom_id})" if failure.custom_id else ""
    return f"line {failure.line}{name}: {failure.code}: {failure.message}"


def show_check(check: BatchCheck, as_json: bool) -> None:
    """Print the result of a dry run: the numbers, and the first failures.

    Raises:
        RowsFailed: Some rows are wrong.
    """
    numbers = {"rows": check.rows, "verified": check.verified, "left": check.left}
    if as_json:
        for failure in check.failures:
            click.echo(json.dumps({"error": failure.to_json()}))
        more = {"images": check.images, "failed": len(check.failures), "seconds": check.seconds}
        click.echo(json.dumps({"check": numbers | more}))
    else:
        _say_check(check)
    if check.failures:
        fail_rows(len(check.failures), check.rows, "they would be skipped")


def say_failures(failures: Sequence[RowFailure]) -> None:
    """Print the first failures, with their hints, and the number of the others."""
    for failure in failures[:MOST_SHOWN]:
        say(one_line(f"ldmref: {describe_failure(failure)}"))
        if failure.hint:
            say(one_line(f"hint: {shorten(failure.hint)}"))
    if len(failures) > MOST_SHOWN:
        say(f"ldmref: and {len(failures) - MOST_SHOWN} rows more")


def _say_check(check: BatchCheck) -> None:
    say_failures(check.failures)
    say(
        f"{counted(check.rows, 'row')}: {check.verified} done, {check.left} to generate "
        f"({counted(check.images, 'image')}), {len(check.failures)} wrong; "
        f"at least {duration(check.seconds)} with one worker"
    )


def fail_rows(failed: int, rows: int, where: str) -> None:
    """Raise the error of a batch of which some rows are wrong or failed."""
    raise RowsFailed(
        f"{failed} of {counted(rows, 'row')} failed: {where}",
        code="E-ROWS",
        hint="wrong rows are checked again in the next run; --retry-errors also tries those "
        "whose generation failed",
    )
