"""`ldmref differences`: where other implementations differ from the definitions."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from ldmref.apps.cli.info import as_json
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
            click.echo(json.dumps(asdict(row), ensure_ascii=False))
        return
    heading = ""
    for row in rows:
        if row.section != heading:
            heading = row.section
            click.echo(click.style(heading, bold=True))
        click.echo(f"  {', '.join(row.programs)}: {row.difference}")
        click.echo(f"      {row.number}  [{row.test}]")
    if not rows:
        click.echo(f"no difference is known; programs: {', '.join(list_programs())}")


COMMANDS = (differences,)
