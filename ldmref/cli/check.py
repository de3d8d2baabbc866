"""`ldmref check`: the identities, as a table."""

from __future__ import annotations

import json
from typing import Any

import click

from ldmref.errors import UsageError, VerifyError

option = click.option


@click.command()
@option("--backend", metavar="NAME", help="See ldmref backends.")
@option("--device", metavar="NAME", help="cpu, cuda:0, ...")
@option("--dtype", type=click.Choice(["float64", "float32"]), help="Default: float64.")
@option("--config", metavar="FILE", help="Settings; default: ./ldmref.toml.")
@option("--against", metavar="MODULE", help="Check this module's functions instead.")
@option("--cases", type=click.IntRange(1, 100_000), default=100, show_default=True)
@option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@option("--only", metavar="TEXT", default="", help="Only identities with this in their name.")
@option("--formulas", is_flag=True, help="Print the formulas too, as LaTeX.")
@option("--json", "as_json", is_flag=True, help="One JSON object per identity.")
def check(against: str | None, formulas: bool, as_json: bool, **flags: Any) -> None:
    """Run every identity of the mathematics again, on this machine.

    An identity computes the same thing twice: by the function, and by an oracle that does not share
    its code. WORST and ALLOWED are errors in units of rounding of the dtype. With --against, the
    module's functions take the place of those of the same name in ldmref.math and
    ldmref.samplers. Exit code 4 if one fails.
    """
    from ldmref import check as checks
    from ldmref.loading import configured_backend

    backend = configured_backend(
        flags["backend"], flags["device"], flags["dtype"] or "float64", flags["config"]
    )
    module = checks.load_implementation(against) if against else None
    rows = checks.run(
        backend, against=module, cases=flags["cases"], seed=flags["seed"], only=flags["only"]
    )
    count, failed, heading = 0, [], ""
    for row in rows:
        count += 1
        if not row.holds:
            failed.append(row.identity)
        if as_json:
            click.echo(json.dumps(row.to_dict()))
            continue
        if row.function != heading:
            heading = row.function
            click.echo(f"{click.style(heading, bold=True)}  [{row.source}]")
            if formulas and row.formula:
                click.echo(f"  {row.formula}")
        click.echo(_line(row))
    if not count:
        raise UsageError(
            f"no identity to check in {against!r}" if against else f"no {flags['only']!r} to check",
            code="E-CHECK",
            hint="functions are found by the names of ldmref.math and ldmref.samplers",
        )
    if failed:
        raise VerifyError(
            f"{len(failed)} of {count} identities fail: {'; '.join(failed[:3])}"
            + (" ..." if len(failed) > 3 else ""),
            code="E-CHECK",
        )
    if not as_json:
        click.echo(f"all {count} identities hold on {backend!r}, {flags['cases']} cases each")


def _line(row: Any) -> str:
    """Law, oracle, cases, worst error, allowed error, verdict; below it where they part."""
    law = row.identity.removeprefix(f"{row.function}: ")
    line = (
        f"  {law:<52} {row.oracle:<38} {row.cases:>5} cases  "
        f"worst {row.worst:8.3g} of {row.allowed:<7g} {row.verdict}"
    )
    return f"{line}\n      {row.detail}" if row.detail else line


COMMANDS = (check,)
