"""`ldmref pitfalls`: what ports get wrong, and the test that says so."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from ldmref.apps.cli.info import as_json
from ldmref.apps.cli.progress import print_line
from ldmref.locate.pitfalls import find_pitfalls


@click.command()
@click.argument("words", metavar="[WORD]...", nargs=-1)
@as_json
def pitfalls(words: tuple[str, ...], as_json: bool) -> None:
    """List what ports of diffusion models get wrong: symptom, cause, test, number, thread.

    With WORDs: the rows that contain all of them, such as ldmref pitfalls padding mask.
    """
    rows = find_pitfalls(words)
    if as_json:
        for row in rows:
            click.echo(json.dumps(asdict(row) | {"links": row.links}, ensure_ascii=False))
        return
    heading = ""
    for row in rows:
        if row.subject != heading:
            heading = row.subject
            print_line("", heading)
        print_line(f"  {row.symptom}: {row.hypothesis}")
        number = f"  {row.number}" if row.number else ""
        threads = f"  [{', '.join(row.threads)}]" if row.threads else ""
        print_line(f"      test: {row.test}{number}{threads}")
    if not rows:
        print_line("no pitfall is known with these words; ldmref pitfalls lists all")


COMMANDS = (pitfalls,)
