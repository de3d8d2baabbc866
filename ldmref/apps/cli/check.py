"""`ldmref check`: check the identities of the mathematics, and print a table of errors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ldmref.apps.cli.options import with_options
from ldmref.apps.cli.progress import one_line, print_line, say
from ldmref.apps.cli.shared_options import BACKEND, CONFIG
from ldmref.errors import InputError, OutputError, UsageError, VerifyError, closest, did_you_mean
from ldmref.support.foreign_code import printing_to_stderr

if TYPE_CHECKING:
    from ldmref.backends import Backend
    from ldmref.check import CheckResult, FlowStepReport
    from ldmref.check.images import ImageComparison
    from ldmref.testing.measured import MeasuredOperation

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
    with printing_to_stderr():
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
    checked = _print_results(results, formulas, as_json)
    count = len(checked)
    failed = [result for result in checked if not result.holds]
    pieces = any(result.function in PIECES for result in checked)
    noun = ("check", "checks") if pieces else ("identity", "identities")
    if failed and not as_json:
        _explain_numbers(failed, backend)
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
        print_line(f"{which} on {backend!r}, {cases}{' each' * (count > 1)}")


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


def _explain_numbers(failed: list[CheckResult], backend: Backend) -> None:
    """Say in words what the numbers of failing identities are; pieces say it in their rows."""
    from ldmref.check.backend_inputs import unit_of_rounding

    if all(result.basis not in ("derived", "probable") for result in failed):
        return
    unit = unit_of_rounding(backend)
    print_line(
        f"worst: the largest error, in units of rounding ({unit:.2g} of the result's size); of: "
        "what rounding may cause, for certain (derived) or as seven standard"
    )
    print_line(
        "deviations of it (probable); ratio: worst / of, up to 1 for a right answer; from 1e10 on "
        "another formula, between them lost digits"
    )


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


def _print_results(
    results: Iterable[CheckResult], formulas: bool, as_json: bool
) -> list[CheckResult]:
    """Print each result when it is there, and return all of them."""
    checked: list[CheckResult] = []
    for result in results:
        heading = checked[-1].function if checked else ""
        checked.append(result)
        if as_json:
            click.echo(json.dumps(result.to_dict()))
            continue
        if result.function != heading:
            print_line(f"  [{result.source}]", result.function)
            if formulas and result.formula:
                print_line(f"  {result.formula}")
        for line in _format_result(result):
            print_line(line)
    return checked


def _format_result(result: CheckResult) -> list[str]:
    """Return a result in one line, followed by the details of a failure."""
    law = result.identity.removeprefix(f"{result.function}: ")
    line = (
        f"  {law:<52} {result.oracle:<38} {result.cases:>5} cases  "
        f"worst {result.worst:8.3g} of {result.allowed:<5g} ({result.basis}), "
        f"ratio {result.ratio:<7.2g} {result.verdict}"
    )
    more = ["..."] if len(result.calls) > MAX_CALLS else []
    calls = [*result.calls[:MAX_CALLS], *more]
    details = [*filter(None, [result.detail]), *calls, *result.notes]
    return [line, *(f"      {line}" for detail in details for line in detail.split("\n"))]


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

    with printing_to_stderr():
        function = find_function(load_implementation(module_name), module_name, function_name)
        report = identify_flow_step(function)
    if as_json:
        click.echo(json.dumps(report.to_dict()))
    else:
        print_line(f"{function_name} of {module_name}: {_name(report)}")
        if report.guard:
            print_line(f"  guard at s = 1: {report.guard}")
        print_line(f"  log-density: {report.density}")
        for sentence in report.missing:
            print_line(f"  missing: {sentence}")
    if not report.is_whole:
        what = report.missing[0] if report.missing else "its transition is not known"
        error = VerifyError(f"{function_name}: {what}", code="E-CHECK")
        error.is_printed = as_json
        raise error


def _name(report: FlowStepReport) -> str:
    if math.isnan(report.level):
        return report.name
    letter = "eta" if report.name in OF_ETA else "a"
    return f"{report.name}, {letter} = {report.level:.3g}"


# -- operations and images of backends -------------------------------------------------------------


SEED = option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    metavar="N",
    help="Seed of the random inputs. Default: 0.",
)


@click.command()
@with_options(BACKEND, (CONFIG, SEED))
@option(
    "--cases",
    type=click.IntRange(1, 100_000),
    default=100,
    metavar="N",
    help="Number of random inputs per operation. Default: 100.",
)
@option("--only", metavar="NAME", help="Check only this operation.")
@option("--json", "as_json", is_flag=True, help="Print one JSON object per operation.")
def operations(cases: int, seed: int, only: str | None, as_json: bool, **flags: Any) -> None:
    """Check the operations of a backend against their error bounds.

    Each operation runs on random inputs, easy and hard, and on the inputs of the conformance suite.
    Errors are differences from the NumPy reference (in float64, for float64 in extended precision),
    relative to the largest value of the result. The ratio is the largest error / bound. A bound is
    derived from the rounding of each step, or calibrated: docs/evidence.md. The exit code is 4
    if an error exceeds its bound.
    """
    from ldmref.backends.bounds import OPERATIONS
    from ldmref.loading import open_backend
    from ldmref.testing import check_backend
    from ldmref.testing.measured import measure_errors

    if only is not None and only not in OPERATIONS:
        hint = did_you_mean(only, OPERATIONS)
        raise UsageError(f"no operation is called {only!r}", code="E-CHECK", hint=hint)
    backend = open_backend(
        flags["backend"], flags["device"], flags["dtype"], flags["config"], flags["speed"]
    )
    failed = []
    for row in measure_errors(backend, [only] if only else OPERATIONS, cases, seed):
        print_line(json.dumps(row.to_dict()) if as_json else _format_operation(row))
        if not row.ok:
            failed.append(row.operation)
    checks = [c for c in check_backend(backend) if only in (None, c.operation)]
    defects = [check for check in checks if not check.ok]
    for check in defects:
        say(one_line(str(check)))
    if as_json:
        counts = {"conformance": len(checks), "ok": len(checks) - len(defects)}
        click.echo(json.dumps(counts | {"failed": [str(check) for check in defects]}))
    else:
        print_line(f"conformance: {len(checks) - len(defects)} of {len(checks)} comparisons hold")
    failed += [check.operation for check in defects]
    if failed:
        names = ", ".join(dict.fromkeys(failed))
        raise VerifyError(f"errors exceed their bounds: {names}", code="E-CHECK")
    if not as_json:
        print_line(f"all errors are within their bounds on {backend!r}, {cases} inputs each")


def _format_operation(row: MeasuredOperation) -> str:
    verdict = "ok" if row.ok else f"FAILED: {row.case}" + f"; {row.note}" * bool(row.note)
    return (
        f"{row.operation:16}  {row.basis:10}  {row.cases:>6} inputs  error {row.error:8.2g}  "
        f"bound {row.bound:8.2g}  ratio {row.ratio:5.3f}  {verdict}"
    )


@click.command()
@click.argument("prompt", default="red heart")
@option("--backend", metavar="NAMES", default="", help="Names, separated by commas. Default: all.")
@option("--dtype", metavar="NAMES", default="", help="Number formats. Default: all.")
@option("--speed", metavar="NAMES", default="", help="Speeds. Default: all.")
@option(
    "--sampler",
    metavar="NAMES",
    default="",
    help="Samplers, separated by commas. Default: ddim,euler,euler_a,heun,dpmpp_2m.",
)
@option("--steps", type=click.IntRange(1, 1000), metavar="N", help="Steps. Default: the model's.")
@option("--model", metavar="NAME", default="emoji", help="Model. Default: emoji, the embedded one.")
@SEED
@option("--json", "as_json", is_flag=True, help="Print one JSON object per image.")
def images(prompt: str, as_json: bool, steps: int | None, seed: int, **flags: Any) -> None:
    """Compare the images of one seed on all backends, dtypes, speeds and samplers.

    The reference is the image of NumPy in float64. Differences are in units of 1/255: the largest
    of all pixels, the mean, and the PSNR in dB. Backends that cannot run here, and combinations
    that take minutes and are not named, are left out, with the reason.
    """
    from ldmref.check.images import compare_images

    def names(flag: str) -> list[str]:
        return [name.strip() for name in flags[flag].split(",") if name.strip()]

    rows = compare_images(
        prompt,
        backends=names("backend"),
        dtypes=names("dtype"),
        speeds=names("speed"),
        samplers=names("sampler"),
        steps=steps,
        seed=seed,
        model=flags["model"],
    )
    if not as_json:
        print_line(f"{'backend':10} {'dtype':9} {'speed':8} {'sampler':20} largest     mean  PSNR")
    for row in rows:
        if as_json:
            click.echo(json.dumps(row.to_dict()))
        elif row.reason:
            name = " ".join(filter(None, (row.backend, row.dtype, row.speed)))
            say(one_line(f"note: {name} is left out: {row.reason}"))
        else:
            print_line(_format_image(row))


def _format_image(row: ImageComparison) -> str:
    psnr = f"{row.psnr:.1f} dB" if math.isfinite(row.psnr) else "equal"
    return (
        f"{row.backend:10} {row.dtype:9} {row.speed:8} {row.sampler:20} "
        f"{row.largest:7} {row.mean:8.2g}  {psnr}"
    )


for command in (operations, images):
    check.add_command(command)
COMMANDS = (check,)
