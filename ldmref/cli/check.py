"""`ldmref check`: the identities as a table."""

from __future__ import annotations

import json
from difflib import get_close_matches
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from ldmref.cli.progress import say
from ldmref.errors import UsageError, VerifyError

if TYPE_CHECKING:
    from ldmref.check import CheckResult

option = click.option


@click.command()
@option("--backend", metavar="NAME", help="See ldmref backends.")
@option("--device", metavar="NAME", help="cpu, cuda:0, ...")
@option("--dtype", type=click.Choice(["float64", "float32"]), help="Default: float64.")
@option("--config", metavar="FILE", help="Settings; default: ./ldmref.toml.")
@option("--against", metavar="MODULE|FILE", help="Check this module's functions instead.")
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
    --against my_package.module or --against ./file.py, the functions of that module replace those
    of the same name in ldmref.math and ldmref.samplers. The exit code is 4 if an identity fails.
    """
    from ldmref.check import load_implementation, run
    from ldmref.loading import configured_backend

    backend = configured_backend(
        flags["backend"], flags["device"], flags["dtype"] or "float64", flags["config"]
    )
    module = None if against is None else load_implementation(against)
    if module:
        _report_unknown_functions(module)
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
        raise _nothing_to_check(against, flags["only"])
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
    calls = [*result.calls[:_CALLS], *(["..."] if len(result.calls) > _CALLS else [])]
    return "\n      ".join([line, *filter(None, [result.detail]), *calls])


_CALLS = 4  # shown of a failing case


def _report_unknown_functions(module: ModuleType) -> None:
    """Say which functions of another implementation are not checked, and what may be meant."""
    from ldmref.check import unknown_functions

    unknown = unknown_functions(module)
    for name, close in unknown.items():
        if close:
            say(f"warning: {name} is not checked: did you mean {close}?")
    others = [name for name, close in unknown.items() if not close]
    if others:
        say(f"note: not checked, since ldmref has no function of that name: {', '.join(others)}")


def _nothing_to_check(against: str | None, only: str) -> UsageError:
    from ldmref.check import identities

    hint = "functions are looked up by their names in ldmref.math and ldmref.samplers"
    if against is None:
        close = get_close_matches(only, {identity.function for identity in identities()}, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "ldmref check --cases 1 lists all names"
        return UsageError(f"no {only!r} to check", code="E-CHECK", hint=hint)
    which = f" of {only!r}" if only else ""
    return UsageError(f"no identity{which} to check in {against!r}", code="E-CHECK", hint=hint)


COMMANDS = (check,)
