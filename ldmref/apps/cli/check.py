"""`ldmref check`: check the identities of the mathematics, and print a table of errors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ldmref.apps.cli import check_backends
from ldmref.apps.cli.progress import say
from ldmref.errors import InputError, OutputError, UsageError, VerifyError, closest, did_you_mean

if TYPE_CHECKING:
    from ldmref.backends import Backend
    from ldmref.check import CheckResult, FlowStepReport

option = click.option
MAX_CALLS = 4  # shown for a failing case


@click.group(invoke_without_command=True)
@option(
    "--backend",
    metavar="NAME",
    help="Library to check: numpy, torch, onnx, openvino, cupy or a plug-in; see ldmref backends. "
    "Default: numpy.",
)
@option("--device", metavar="NAME", help="Device: cpu, cuda:0, ... Default: the backend's.")
@option(
    "--dtype", type=click.Choice(["float64", "float32"]), help="Number format. Default: float64."
)
@option("--config", metavar="FILE", help="Configuration file. Default: ./ldmref.toml.")
@option(
    "--against", metavar="MODULE|FILE[:NAME]", help="Check the functions of another Python module."
)
@option(
    "--cases",
    type=click.IntRange(1, 100_000),
    default=100,
    metavar="N",
    help="Number of random inputs per identity. Default: 100.",
)
@option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    metavar="N",
    help="Seed of the random inputs. Default: 0.",
)
@option(
    "--case",
    type=click.IntRange(0, 2**32 - 1),
    metavar="N",
    help="Check only the case with this number.",
)
@option("--save", metavar="FILE.npz", help="Save the worst case of the first identity that fails.")
@option("--overwrite", is_flag=True, help="Replace the file given with --save.")
@option("--only", metavar="TEXT", default="", help="Check only identities with TEXT in the name.")
@option(
    "--hard",
    is_flag=True,
    help="Also check the edges of each range: alpha-bar near 0 and 1, equal Gaussians, tails, ...",
)
@option("--formulas", is_flag=True, help="Also print the formulas, as LaTeX.")
@option("--json", "as_json", is_flag=True, help="Print one JSON object per identity.")
@click.pass_context
def check(
    ctx: click.Context, against: str | None, formulas: bool, as_json: bool, **flags: Any
) -> None:
    """Check the mathematics of ldmref, or of your implementation, on this machine.

    Each identity computes a quantity twice: with the function, and with an oracle that does not
    share its code. Errors (worst and allowed) are in units of rounding of the number format. The
    exit code is 4 if an identity fails.

    With --against my_package.module or --against ./file.py, the functions of that module replace
    the functions with the same names in ldmref.math and ldmref.samplers. With --against
    my_package.module:step, the function is called, and its variant among the published stochastic
    steps of flow models (Flow-GRPO, Dance, CPS, ...) is printed, or what it lacks.

    The pieces of the course's capstone (residual_block, unet, encode, train, generate, ...) are
    compared with the embedded model if their arguments have the names of the page; with --against
    blocks.py:residual_block only this one is, whatever its arguments are called.

    The commands below check backends instead of formulas.
    """
    if ctx.invoked_subcommand:
        _refuse_flags(ctx)
        return
    from ldmref.check import PIECES, load_implementation, run
    from ldmref.loading import open_backend

    module_name, function_name = split_function(against or "")
    piece = function_name if function_name in PIECES else ""
    if function_name and not piece:
        check_flow_step(module_name, function_name, as_json)
        return
    save = _check_file(flags["save"], flags["overwrite"])
    backend = open_backend(
        flags["backend"], flags["device"], flags["dtype"] or "float64", flags["config"]
    )
    module = None if against is None else load_implementation(module_name)
    if module and piece:
        find_function(module, module_name, piece)
    elif module:
        _report_unknown_functions(module)
    results = run(
        backend,
        against=module,
        cases=flags["cases"],
        seed=flags["seed"],
        only=flags["only"],
        case=flags["case"],
        hard=flags["hard"],
        piece=piece,
    )
    count = 0
    failed = []
    heading = ""
    noun = ("identity", "identities")
    for result in results:
        count += 1
        if not result.holds:
            failed.append(result)
        if result.function in PIECES:
            noun = ("check", "checks")
        if as_json:
            click.echo(json.dumps(result.to_dict()))
            continue
        if result.function != heading:
            heading = result.function
            click.echo(f"{click.style(heading, bold=True)}  [{result.source}]")
            if formulas and result.formula:
                click.echo(f"  {result.formula}")
        click.echo(_format_result(result))
    if not piece:
        _report_unchecked_gradients(backend, module, flags["only"])
    if not count:
        raise _no_identity_error(against, flags["only"])
    if save and failed:
        _save_case(save, failed[0], module, backend, flags)
    elif save:
        say(f"note: {flags['save']} was not written, because no identity failed")
    if failed:
        names = "; ".join(result.identity for result in failed[:3])
        which = f"{len(failed)} of {count} {noun[1]} fail" if count > 1 else f"the {noun[0]} fails"
        more = " ..." if len(failed) > 3 else ""
        hint = _tensor_hint(module, backend)
        raise VerifyError(f"{which}: {names}{more}", code="E-CHECK", hint=hint)
    if not as_json:
        cases = f"case {flags['case']}" if flags["case"] is not None else f"{flags['cases']} cases"
        which = f"the {noun[0]} holds" if count == 1 else f"all {count} {noun[1]} hold"
        click.echo(f"{which} on {backend!r}, {cases}{' each' * (count > 1)}")


def _refuse_flags(ctx: click.Context) -> None:
    """Refuse flags before the name of a command, which would have no effect."""
    for param in ctx.command.params:
        if ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE:
            message = f"{param.opts[0]} must come after {ctx.invoked_subcommand}"
            raise UsageError(message, code="E-USAGE")


def _check_file(name: str | None, overwrite: bool) -> Path | None:
    """Check the file of --save before anything is computed, and return its path.

    Raises:
        UsageError: Its name does not end in .npz.
        OutputError: It exists (unless `overwrite`), or cannot be written.
    """
    from ldmref.io.atomic import check_writable

    if name is None:
        return None
    path = Path(name)
    if path.suffix != ".npz":
        message = f"a case is saved as a NumPy archive, and {name!r} does not end in .npz"
        raise UsageError(message, code="E-FORMAT", hint="choose a name that ends in .npz")
    if path.is_dir():
        raise OutputError(f"{name!r} is a folder", code="E-EXISTS", hint="choose a file in it")
    try:
        check_writable(path, overwrite)
    except OutputError as error:
        hint = error.hint.replace("overwrite=True", "--overwrite")
        raise OutputError(str(error), code=error.code, hint=hint) from error
    return path


def _save_case(
    path: Path, result: CheckResult, module: ModuleType | None, backend: Backend, flags: Any
) -> None:
    """Write the worst case of a failing identity."""
    from ldmref.check import identities
    from ldmref.check.identity import Functions
    from ldmref.check.saving import case_arrays, save_case

    found = [i for i in identities(hard=True) if i.name == result.identity]
    if not found:
        say(f"note: {path} was not written, because {result.function} is a piece, without cases")
        return
    (identity,) = found
    arrays = case_arrays(identity, Functions(module), backend, flags["seed"], result.case)
    save_case(path, arrays, flags["overwrite"])
    say(f"note: saved case {result.case} of {result.identity} to {path}")


def _report_unchecked_gradients(backend: Backend, module: ModuleType | None, only: str) -> None:
    """Print how many gradients are not checked because the library does not compute any."""
    from ldmref.check.identity import Functions
    from ldmref.check.runner import can_run, selected

    identities = selected(Functions(module), only, all_of_them=module is None)
    left_out = [identity for identity in identities if not can_run(identity, backend)]
    if left_out:
        gradients = "gradient is" if len(left_out) == 1 else "gradients are"
        say(
            f"note: {len(left_out)} {gradients} not checked, because {backend.name} computes none; "
            "use --backend torch"
        )


def _format_result(result: CheckResult) -> str:
    """Format a result in one line, followed by the details of a failure."""
    law = result.identity.removeprefix(f"{result.function}: ")
    line = (
        f"  {law:<52} {result.oracle:<38} {result.cases:>5} cases  "
        f"worst {result.worst:8.3g} of {result.allowed:<5g} ({result.basis}), "
        f"ratio {result.ratio:<7.2g} {result.verdict}"
    )
    more = ["..."] if len(result.calls) > MAX_CALLS else []
    calls = [*result.calls[:MAX_CALLS], *more]
    return "\n      ".join([line, *filter(None, [result.detail]), *calls, *result.notes])


def _report_unknown_functions(module: ModuleType) -> None:
    """Print the functions of a module that are not checked, and names that may be meant."""
    from ldmref.check import nearly_pieces, unknown_functions

    unknown = unknown_functions(module)
    for name, parameters in nearly_pieces(module).items():
        say(f"note: {name} is not marked, because the capstone's has the arguments {parameters}")
        unknown.pop(name, None)
    for name, close in unknown.items():
        if close:
            say(f"warning: {name} is not checked: did you mean {close}?")
    others = [name for name, close in unknown.items() if not close]
    if others:
        say(f"note: not checked, because ldmref has no such function: {', '.join(others)}")


def _tensor_hint(module: ModuleType | None, backend: Backend) -> str:
    """Return a hint for functions of tensors that got other arrays."""
    names = {getattr(value, "__name__", "") for value in vars(module or object).values()}
    is_torch = any(name == "torch" or name.startswith("torch.") for name in names)
    if backend.name == "torch" or not is_torch:
        return ""
    return f"functions get arrays of {backend.name}; if yours want tensors, add --backend torch"


def _no_identity_error(against: str | None, only: str) -> UsageError:
    from ldmref.check import identities

    hint = "functions are looked up by name in ldmref.math and ldmref.samplers"
    if against is None:
        close = closest(only, {identity.function for identity in identities()})
        hint = f"did you mean {close!r}?" if close else "ldmref check --cases 1 lists all names"
        return UsageError(f"no identity matches {only!r}", code="E-CHECK", hint=hint)
    which = f" of {only!r}" if only else ""
    return UsageError(f"no identity{which} applies to {against!r}", code="E-CHECK", hint=hint)


for command in check_backends.COMMANDS:
    check.add_command(command)
COMMANDS = (check,)


# -- steps of flow matching ------------------------------------------------------------------------


OF_ETA = ("Dance", "Precise", "DDPM posterior", "flow DDIM", "ancestral RF")


def split_function(against: str) -> tuple[str, str]:
    """Return (module or file, function) of "module:function"; the function is "" without one."""
    module, _, function = against.rpartition(":")
    return (module, function) if module and function.isidentifier() else (against, "")


def find_function(module: ModuleType, module_name: str, name: str) -> Callable[..., Any]:
    """Return a function of a module.

    Raises:
        InputError: The module has no such function.
    """
    function = getattr(module, name, None)
    if not callable(function):
        names = [other for other, value in vars(module).items() if callable(value)]
        message = f"{module_name!r} has no function {name!r}"
        raise InputError(message, code="E-AGAINST", hint=did_you_mean(name, names))
    return function


def check_flow_step(module_name: str, function_name: str, as_json: bool) -> None:
    """Print the variant of a function, and raise VerifyError if it is unknown or lacks something.

    Raises:
        InputError: The module has no such function.
        VerifyError: It is no published step, or something is missing.
    """
    from ldmref.check import identify_flow_step, load_implementation

    function = find_function(load_implementation(module_name), module_name, function_name)
    report = identify_flow_step(function)
    if as_json:
        click.echo(json.dumps(report.to_dict()))
    else:
        click.echo(f"{function_name} of {module_name}: {click.style(_name(report), bold=True)}")
        if report.guard:
            click.echo(f"  guard at s = 1: {report.guard}")
        click.echo(f"  log-density: {report.density}")
        for sentence in report.missing:
            click.echo(f"  missing: {sentence}")
    if not report.is_whole:
        what = report.missing[0] if report.missing else "its transition is not known"
        raise VerifyError(f"{function_name}: {what}", code="E-CHECK")


def _name(report: FlowStepReport) -> str:
    if math.isnan(report.level):
        return report.name
    letter = "eta" if report.name in OF_ETA else "a"
    return f"{report.name}, {letter} = {report.level:.3g}"
