"""`ldmref batch`: generate the images of a file of requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from ldmref.apps.cli.batch_console import BatchConsole, show_check
from ldmref.apps.cli.options import PATH, option, with_options
from ldmref.apps.cli.progress import STYLES, stopping
from ldmref.apps.cli.session import CommandSession
from ldmref.apps.cli.settings import with_settings
from ldmref.apps.cli.shared_options import MODEL
from ldmref.apps.cli.standard_streams import check_stdout
from ldmref.batch import BatchSummary, check_batch, run_batch
from ldmref.batch.executors import EXECUTORS
from ldmref.batch.planning import CompleteRow
from ldmref.errors import Cancelled, UsageError, counted
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
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    progress: str,
    retry_errors: bool,
    limit: int | None,
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
        "retry_errors": retry_errors,
        "limit": limit,
        "config": config,
        "complete": complete_rows(session.configured),
    }
    if dry_run:
        check = check_batch(source, requests, output, **shared)
        show_check(check, as_json)
        return
    show = BatchConsole(quiet, verbose, as_json, progress)
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
