"""Tables on standard output: aligned columns, or one JSON object per row."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import click

from ldmref.apps.cli.progress import one_line

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
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        start = [cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=False)]
        click.echo("  ".join([*start, line[-1]]).rstrip())


def join_first(names: Sequence[str], most: int = 5) -> str:
    """Return the first names of a list, separated by commas."""
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)
