"""`python -m benchmarks`: ldmref and its peers in turn, or the working tree and a commit."""

from __future__ import annotations

import sys

import click

from benchmarks import formatting
from benchmarks.against import ALLOWED, compare_with_commit
from benchmarks.cases import BenchmarkCase, resized, select_cases
from benchmarks.compare import run_case
from benchmarks.machine import GEMM_SIZES, openblas_overrides
from benchmarks.measured import OutputFiles
from ldmref.errors import BackendUnavailable, LdmrefError, UsageError, VerifyError, one_line

SCHEMA = 1
COSTS = (
    "All of them take ten minutes and up to 14 GB of memory on two cores; name one as in "
    "`python -m benchmarks unet-numpy-32` (--list lists them), or stop with Ctrl-C."
)
option = click.option


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", metavar="[ROW]...", nargs=-1)
@option("--rounds", type=click.IntRange(1, 1000), help="Default: 5; with --quick 2.")
@option("--backend", metavar="NAME", help="Only rows on it.")
@option("--size", type=click.IntRange(8, 4096), help="Image width and height in pixels.")
@option("--steps", type=click.IntRange(1, 1000), help="Sampler steps of whole images.")
@option("--json", "json_file", metavar="FILE", help="Write all numbers and the machine's data.")
@option("--plot", "plot_file", metavar="FILE", help="Write a plot: .png, .svg, .pdf.")
@option("--overwrite", is_flag=True, help="Replace existing files.")
@option("--list", "list_rows", is_flag=True, help="List the rows, with target and aim.")
@option("--against", metavar="COMMIT", help="Compare this checkout with a commit of its own.")
@option("--quick", is_flag=True, help="Test run on the smallest model; takes seconds.")
def benchmarks(
    names: tuple[str, ...],
    rounds: int | None,
    backend: str | None,
    size: int | None,
    steps: int | None,
    json_file: str | None,
    plot_file: str | None,
    overwrite: bool,
    list_rows: bool,
    against: str | None,
    quick: bool,
) -> None:
    """Compare ldmref with diffusers, transformers, torch.compile, ONNX Runtime and OpenVINO.

    ROW is the name of a row or its first part, such as unet or memory; the default is every row
    that can run here. The two programs take turns, with the same weights; if their outputs differ,
    the row is not measured. A ratio is ldmref / peer: below 1, ldmref needs less. The exit code is
    4 if outputs differ, 5 if nothing could run.

    --against COMMIT runs the working tree and a commit in turn, on four pieces of work that people
    wait for. The exit code is 4 if one takes more than 1.1 times as long as before.
    """
    if against is not None:
        if any((names, size, steps, json_file, plot_file, list_rows)):
            message = "--against takes --backend, --rounds and --quick only"
            raise UsageError(message, code="E-USAGE")
        compare_commits(against, backend or "numpy", rounds or (1 if quick else 5), quick)
        return
    cases = select_cases(names, backend=backend)
    if list_rows:
        for case in cases:
            goals = formatting.format_goals(case.target, case.aim)
            click.echo(f"{case.name:<27} {case.backend} against {case.peer_title}, {goals}")
            click.echo(f"  {case.title}")
        return
    files = OutputFiles(json_file, plot_file, overwrite)
    rounds = rounds or (2 if quick else 5)
    overrides = openblas_overrides()
    if overrides:
        say(f"warning: {overrides} overrides OpenBLAS' detection of the processor")
    cases = [resized(case, quick=quick, size=size, steps=steps) for case in cases]
    if len(cases) > 1 and not quick:
        say(f"{len(cases)} rows, {rounds} rounds each. {COSTS}")
    compare_programs(cases, quick, rounds, files)


def compare_commits(commit: str, backend: str, rounds: int, quick: bool) -> None:
    """Print how the working tree compares with a commit, and fail if something is slower."""
    slower = []
    model = "tiny" if quick else "sd15"
    for row in compare_with_commit(commit, backend=backend, rounds=rounds, model=model):
        click.echo(str(row))
        if row.slower:
            slower.append(row.name)
    if quick:
        click.echo("--quick: both trees ran; the numbers mean nothing")
    elif slower:
        message = f"more than {ALLOWED} times as slow as {commit}: {', '.join(slower)}"
        raise VerifyError(message, code="E-SLOWER", hint="python -m benchmarks.alone --profile")


def compare_programs(
    cases: list[BenchmarkCase], quick: bool, rounds: int, files: OutputFiles
) -> None:
    """Measure the cases, and report those that cannot run or whose outputs differ."""
    results = []
    skipped = []
    differing = []
    for case in cases:
        try:
            result = run_case(case, rounds, (256,) if quick else GEMM_SIZES)
        except BackendUnavailable as error:
            skipped.append({"name": case.name, "reason": str(error), "hint": error.hint})
            say(f"{case.name}: skipped: {error} ({error.hint})")
        except VerifyError as error:
            differing.append(case.name)
            say(f"{case.name}: {error}")
        else:
            results.append(result)
            click.echo("\n".join(formatting.format_result(result)))
    if quick and results:
        click.echo("--quick: both sides ran and agree; the numbers mean nothing")
    report = {"rows": results, "skipped": skipped, "differing": differing, "quick": quick}
    files.write({"schema": SCHEMA} | report, formatting.plot_results, results)
    if differing:
        raise VerifyError(f"the two sides differ: {', '.join(differing)}", code="E-BENCH")
    if skipped and not results:
        reasons = dict.fromkeys(row["reason"] for row in skipped)
        raise BackendUnavailable(
            f"nothing could be measured: {'; '.join(reasons)}",
            code="E-BENCH",
            hint=skipped[0]["hint"],
        )


def say(text: str) -> None:
    click.echo(one_line(text), err=True)


def run(command: click.Command, argv: list[str] | None, name: str) -> int:
    """Run a command; return its exit code, and print an error as one line."""
    try:
        command.main(argv, prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        say(f"error E-USAGE: {error.format_message()} ({name} --help)")
        return error.exit_code
    except LdmrefError as error:
        say(f"error {error.code}: {error}" + (f" ({error.hint})" if error.hint else ""))
        return error.exit_code
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    return run(benchmarks, argv, "python -m benchmarks")


if __name__ == "__main__":
    sys.exit(main())
