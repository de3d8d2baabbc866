"""`ldmref check`: the identities as a table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from ldmref.errors import UsageError, VerifyError

if TYPE_CHECKING:
    from ldmref.check import CheckResult

option = click.option


@click.command()
@option("--backend", metavar="NAME", help="See ldmref backends.")
@option("--device", metavar="NAME", help="cpu, cuda:0, ...")
@option("--dtype", type=click.Choice(["float64", "float32"]), help="Default: float64.")
@option("--config", metavar="FILE", help="Settings; default: ./ldmref.toml.")
@option("--against", metavar="MODULE", help="Check this module's functions instead.")
@option("--cases", type=click.IntRange(1, 100_000), default=100, show_default=True,
        help="Random inputs per identity.")  # fmt: skip
@option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@option("--only", metavar="TEXT", default="", help="Only identities with this in their name.")
@option("--formulas", is_flag=True, help="Print the formulas too, as LaTeX.")
@option("--json", "as_json", is_flag=True, help="One JSON object per identity.")
def check(against: str | None, formulas: bool, as_json: bool, **flags: Any) -> None:
    """Check every identity of the mathematics on this machine.

    An identity computes the same quantity twice: with the function, and with an oracle that does
    not share its code. Errors (worst, and allowed) are in units of rounding of the dtype. With
    --against, the module's functions replace those of the same name in ldmref.math and
    ldmref.samplers. The exit code is 4 if an identity fails.
    """
    from ldmref.check import load_implementation, run
    from ldmref.loading import configured_backend

    backend = configured_backend(
        flags["backend"], flags["device"], flags["dtype"] or "float64", flags["config"]
    )
    module = load_implementation(against) if against else None
    results = run(
        backend, against=module, cases=flags["cases"], seed=flags["seed"], only=flags["only"]
    )
    count, failed, heading = 0, [], ""
    for result in results:
        count += 1
        if not result.holds:
            failed.append(result.identity)
        if as_json:
            click.echo(json.dumps(result.to_dict()))
            continue
        if result.function != heading:
            heading = result.function
            click.echo(f"{click.style(heading, bold=True)}  [{result.source}]")
            if formulas and result.formula:
                click.echo(f"  {result.formula}")
        click.echo(_line(result))
    if not count:
        raise UsageError(
            f"no identity to check in {against!r}" if against else f"no {flags['only']!r} to check",
            code="E-CHECK",
            hint="functions are looked up by their names in ldmref.math and ldmref.samplers",
        )
    if failed:
        raise VerifyError(
            f"{len(failed)} of {count} identities fail: {'; '.join(failed[:3])}"
            + (" ..." if len(failed) > 3 else ""),
            code="E-CHECK",
        )
    if not as_json:
        click.echo(f"all {count} identities hold on {backend!r}, {flags['cases']} cases each")


def _line(result: CheckResult) -> str:
    """Law, oracle, cases, worst and allowed error, verdict; then the worst case of a failure."""
    law = result.identity.removeprefix(f"{result.function}: ")
    line = (
        f"  {law:<52} {result.oracle:<38} {result.cases:>5} cases  "
        f"worst {result.worst:8.3g} of {result.allowed:<7g} {result.verdict}"
    )
    return f"{line}\n      {result.detail}" if result.detail else line


COMMANDS = (check,)
