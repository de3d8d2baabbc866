"""The output of `ldmref batch`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import click

from ldmref.apps.cli.messages import shorten
from ldmref.apps.cli.progress import ProgressBar, duration, one_line, say
from ldmref.batch import BatchCheck, BatchSummary, RowEvent, RowFailure
from ldmref.errors import RowsFailed, counted

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
