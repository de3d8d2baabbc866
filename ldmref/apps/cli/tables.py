"""Tables on standard output: aligned columns, or one JSON object per row."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import click

from ldmref.apps.cli.progress import one_line, print_line
from ldmref.support.columns import align_columns

TableRow = dict[str, Any]


def print_rows(
    rows: list[TableRow], as_json: bool, cells: Callable[[TableRow], Sequence[object]]
) -> None:
    """Print one JSON object per row, or aligned columns of its cells."""
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    table = [[one_line(str(cell)) for cell in cells(row)] for row in rows]
    for line in align_columns(table):
        print_line(line)


def join_first(names: Sequence[str], most: int = 5) -> str:
    """Return the first names of a list, separated by commas."""
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)
