"""`ldmref differences`: where other implementations differ from the definitions."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from ldmref.apps.cli.info import as_json
from ldmref.apps.cli.progress import print_line
from ldmref.differences import find_differences, list_programs


@click.command()
@click.argument("programs", metavar="[PROGRAM]...", nargs=-1)
@click.option("--sampler", metavar="NAME", help="Only differences of this sampler.")
@as_json
def differences(programs: tuple[str, ...], sampler: str | None, as_json: bool) -> None:
    """List where other implementations differ from the definitions or from each other.

    Each difference has a number and the test that shows it. With one PROGRAM: the differences of
    that program; with two: those that concern both, as in ldmref differences diffusers ComfyUI.
    """
    rows = find_differences(programs, sampler)
    if as_json:
        for row in rows:
            record = asdict(row) | {"versions": row.versions}
            click.echo(json.dumps(record, ensure_ascii=False))
        return
    heading = ""
    for row in rows:
        if row.section != heading:
            heading = row.section
            print_line("", heading)
        print_line(f"  {', '.join(row.versions)}: {row.difference}")
        print_line(f"      {row.number}  [{row.test}]")
        if row.newer:
            print_line(f"      {row.newer}")
    if not rows:
        print_line(f"no difference is known; programs: {', '.join(list_programs())}")


COMMANDS = (differences,)
