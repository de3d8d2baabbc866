"""`ldmref check`: the identities as a table."""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from ldmref.cli.progress import say
from ldmref.errors import OutputError, UsageError, VerifyError

if TYPE_CHECKING:
    from ldmref.backends import Backend
    from ldmref.check import CheckResult

option = click.option


@click.command()
@option("--backend", metavar="NAME", help="See ldmref backends.")
@option("--device", metavar="NAME", help="cpu, cuda:0, ...")
@option("--dtype", type=click.Choice(["float64", "float32"]), help="Default: float64.")
@option("--config", metavar="FILE", help="Settings; default: ./ldmref.toml.")
@option("--against", metavar="MODULE|FILE", help="Check this module's functions instead.")
@option(
    "--cases",
    type=click.IntRange(1, 100_000),
    default=100,
    show_default=True,
    help="Random inputs per identity.",
)
@option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@option("--case", type=click.IntRange(0, 2**32 - 1), help="Only the case of this number.")
@option("--save", metavar="FILE.npz", help="Write the worst case of the first identity that fails.")
@option("--overwrite", is_flag=True, help="Replace the file of --save.")
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
    from ldmref.loading import open_backend

    save = _check_file(flags["save"], flags["overwrite"])
    backend = open_backend(
        flags["backend"], flags["device"], flags["dtype"] or "float64", flags["config"]
    )
    module = None if against is None else load_implementation(against)
    if module:
        _report_unknown_functions(module)
    results = run(
        backend,
        against=module,
        cases=flags["cases"],
        seed=flags["seed"],
        only=flags["only"],
        case=flags["case"],
    )
    count = 0
    failed = []
    heading = ""
    for result in results:
        count += 1
        if not result.holds:
            failed.append(result)
        if as_json:
            click.echo(json.dumps(result.to_dict()))
            continue
        if result.function != heading:
            heading = result.function
            click.echo(f"{click.style(heading, bold=True)}  [{result.source}]")
            if formulas and result.formula:
                click.echo(f"  {result.formula}")
        click.echo(_line(result))
    _report_left_out(backend, module, flags["only"])
    if not count:
        raise _nothing_to_check(against, flags["only"])
    if save and failed:
        _save(save, failed[0], module, backend, flags)
    elif save:
        say(f"note: {flags['save']} is not written, since no identity fails")
    if failed:
        names = "; ".join(result.identity for result in failed[:3])
        raise VerifyError(
            f"{len(failed)} of {count} identities fail: {names}"
            + (" ..." if len(failed) > 3 else ""),
            code="E-CHECK",
        )
    if not as_json:
        cases = f"case {flags['case']}" if flags["case"] is not None else f"{flags['cases']} cases"
        click.echo(f"all {count} identities hold on {backend!r}, {cases} each")


def _check_file(name: str | None, overwrite: bool) -> Path | None:
    """The file of --save, refused before anything is computed if it cannot be written.

    Raises:
        UsageError: its name does not end in .npz.
        OutputError: it exists (unless `overwrite`), or cannot be written.
    """
    from ldmref.io.atomic import check_writable

    if name is None:
        return None
    path = Path(name)
    if path.suffix != ".npz":
        message = f"a case is saved as NumPy arrays, which {name!r} is not"
        raise UsageError(message, code="E-FORMAT", hint="give a name that ends in .npz")
    if path.is_dir():
        raise OutputError(f"{name!r} is a folder", code="E-EXISTS", hint="name a file in it")
    try:
        check_writable(path, overwrite)
    except OutputError as error:
        hint = error.hint.replace("overwrite=True", "--overwrite")
        raise OutputError(str(error), code=error.code, hint=hint) from error
    return path


def _save(
    path: Path, result: CheckResult, module: ModuleType | None, backend: Backend, flags: Any
) -> None:
    """Write the worst case of a failing identity."""
    from ldmref.check import identities
    from ldmref.check.identity import Functions
    from ldmref.check.saving import case_arrays, save_case

    (identity,) = (i for i in identities() if i.name == result.identity)
    arrays = case_arrays(identity, Functions(module), backend, flags["seed"], result.case)
    save_case(path, arrays, flags["overwrite"])
    say(f"note: case {result.case} of {result.identity} is in {path}")


def _report_left_out(backend: Backend, module: ModuleType | None, only: str) -> None:
    """Say how many gradients a library that records none leaves out."""
    from ldmref.check.identity import Functions
    from ldmref.check.runner import can_run, selected

    identities = selected(Functions(module), only, all_of_them=module is None)
    left_out = [identity for identity in identities if not can_run(identity, backend)]
    if left_out:
        gradients = "gradient is" if len(left_out) == 1 else "gradients are"
        say(
            f"note: {len(left_out)} {gradients} not compared, since {backend.name} records none; "
            "--backend torch does"
        )


def _line(result: CheckResult) -> str:
    """Law, oracle, cases, worst and allowed error, verdict; then the worst case of a failure."""
    law = result.identity.removeprefix(f"{result.function}: ")
    line = (
        f"  {law:<52} {result.oracle:<38} {result.cases:>5} cases  "
        f"worst {result.worst:8.3g} of {result.allowed:<7g} {result.verdict}"
    )
    calls = [*result.calls[:_CALLS], *(["..."] if len(result.calls) > _CALLS else [])]
    return "\n      ".join([line, *filter(None, [result.detail]), *calls, *result.notes])


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
