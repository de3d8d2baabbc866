"""`ldmref bench`: time and memory of ldmref and its peers, profiles, and scaling."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ldmref.apps.cli.progress import one_line, say
from ldmref.errors import BackendUnavailable, OutputError, UsageError, VerifyError

if TYPE_CHECKING:
    from ldmref.bench.cases import BenchmarkCase

SCHEMA = 1
COSTS = (
    "All of them take ten minutes and up to 14 GB of memory on two cores; name one as in "
    "`ldmref bench unet-numpy-32` (--list lists them), or stop with Ctrl-C."
)
option = click.option


@click.command()
@click.argument("names", metavar="[ROW]...", nargs=-1)
@option("--rounds", type=click.IntRange(1, 1000), help="Default: 5; with --quick 2.")
@option("--backend", metavar="NAME", help="Only rows on it; with --profile or --grow, run on it.")
@option("--size", type=click.IntRange(8, 4096), help="Image width and height in pixels.")
@option("--steps", type=click.IntRange(1, 1000), help="Sampler steps of whole images.")
@option("--json", "json_file", metavar="FILE", help="Write all numbers and the machine's data.")
@option("--plot", "plot_file", metavar="FILE", help="Write a plot: .png, .svg, .pdf.")
@option("--overwrite", is_flag=True, help="Replace existing files.")
@option("--profile", is_flag=True, help="Time by operation, shape and layer.")
@option("--grow", type=click.Choice(["resolution", "batch", "steps"]), help="How cost grows.")
@option("--model", metavar="PRESET", help="For --profile and --grow. Default: the row's.")
@option("--list", "list_rows", is_flag=True, help="List the rows, with target and aim.")
@option("--against", metavar="COMMIT", help="Compare this checkout with a commit of its own.")
@option("--quick", is_flag=True, help="Test run on the smallest model; takes seconds.")
def bench(
    names: tuple[str, ...],
    rounds: int | None,
    backend: str | None,
    size: int | None,
    steps: int | None,
    json_file: str | None,
    plot_file: str | None,
    overwrite: bool,
    profile: bool,
    grow: str | None,
    model: str | None,
    list_rows: bool,
    against: str | None,
    quick: bool,
) -> None:
    """Compare ldmref with diffusers, transformers, torch.compile, ONNX Runtime and OpenVINO.

    ROW is the name of a row or its first part, such as unet or memory; the default is every row
    that can run here. The two programs take turns, with the same weights; if their outputs differ,
    the row is not measured. A ratio is ldmref / peer: below 1, ldmref needs less. The exit code is
    4 if outputs differ, 5 if nothing could run. All rows take ten minutes
    and 14 GB of memory, which is said before they start.

    --against COMMIT runs the working tree and a commit in turn, on four pieces of work that people
    wait for. The exit code is 4 if one takes more than 1.1 times as long as before.
    """
    if against is not None:
        others = (names, size, steps, json_file, plot_file, profile, grow, model, list_rows)
        if any(others):
            message = "--against takes --backend, --rounds and --quick only"
            raise UsageError(message, code="E-USAGE")
        _compare_with_commit(against, backend or "numpy", rounds or (1 if quick else 5), quick)
        return
    from ldmref.bench import formatting
    from ldmref.bench.cases import resized, select_cases

    if profile and grow:
        raise UsageError("--profile and --grow exclude each other", code="E-USAGE")
    if model and not (profile or grow):
        raise UsageError("--model needs --profile or --grow: rows have their own", code="E-USAGE")
    if list_rows:
        for case in select_cases(names, backend=backend):
            goals = formatting.format_goals(case.target, case.aim)
            click.echo(f"{case.name:<24}{case.backend} against {case.peer_title}, {goals}")
            click.echo(f"  {case.title}")
        return
    from ldmref.bench.machine import openblas_overrides

    files = _OutputFiles(json_file, plot_file, overwrite)
    rounds = rounds or (2 if quick else 5)
    overrides = openblas_overrides()
    if overrides:
        say(one_line(f"warning: {overrides} overrides OpenBLAS' detection of the processor"))
    if profile or grow:
        case = _single_case(names, backend)
        case = resized(replace(case, measured="time"), quick=quick, size=size, steps=steps)
        if model:
            from ldmref.models.presets import preset

            case = replace(case, model=model, size=size or preset(model).defaults.width)
        _scaling(case, grow, rounds, files) if grow else _profile(case, files)
    else:
        cases = select_cases(names, backend=backend)
        cases = [resized(case, quick=quick, size=size, steps=steps) for case in cases]
        if len(cases) > 1 and not quick:
            say(f"{len(cases)} rows, {rounds} rounds each. {COSTS}")
        _compare(cases, quick, rounds, files)


def _compare_with_commit(commit: str, backend: str, rounds: int, quick: bool) -> None:
    """Print how the working tree compares with a commit, and fail if something is slower."""
    from ldmref.bench.against import ALLOWED, compare_with_commit

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
        raise VerifyError(message, code="E-SLOWER", hint="ldmref bench --profile names operations")


def _single_case(names: Sequence[str], backend: str | None) -> BenchmarkCase:
    """Return the case for --profile or --grow; by default the U-Net at 512 pixels."""
    from ldmref.bench.cases import CASES

    if len(names) > 1 or (names and names[0] not in CASES):
        raise UsageError("--profile and --grow take one row", code="E-ROW", hint="see --list")
    case = CASES[names[0] if names else "unet-numpy-64"]
    if case.work == "train":
        message = "--profile and --grow take a row without training"
        raise UsageError(message, code="E-ROW", hint="see --list")
    return replace(case, backend=backend or case.backend)


def _compare(cases: list[BenchmarkCase], quick: bool, rounds: int, files: _OutputFiles) -> None:
    """Measure the cases, and report those that cannot run or whose outputs differ."""
    from ldmref.bench import formatting
    from ldmref.bench.compare import run_case
    from ldmref.bench.machine import GEMM_SIZES

    results = []
    skipped = []
    differing = []
    for case in cases:
        try:
            result = run_case(case, rounds, (256,) if quick else GEMM_SIZES)
        except BackendUnavailable as error:
            skipped.append({"name": case.name, "reason": str(error), "hint": error.hint})
            say(one_line(f"{case.name}: skipped: {error} ({error.hint})"))
        except VerifyError as error:
            differing.append(case.name)
            say(one_line(f"{case.name}: {error}"))
        else:
            results.append(result)
            click.echo("\n".join(formatting.format_result(result)))
    if quick and results:
        click.echo("--quick: both sides ran and agree; the numbers mean nothing")
    report = {"rows": results, "skipped": skipped, "differing": differing, "quick": quick}
    files.write(report, formatting.plot_results, results)
    if differing:
        raise VerifyError(f"the two sides differ: {', '.join(differing)}", code="E-BENCH")
    if skipped and not results:
        reasons = dict.fromkeys(row["reason"] for row in skipped)
        raise BackendUnavailable(
            f"nothing could be measured: {'; '.join(reasons)}",
            code="E-BENCH",
            hint=skipped[0]["hint"],
        )


def _profile(case: BenchmarkCase, files: _OutputFiles) -> None:
    """Profile one case."""
    from ldmref.bench import formatting
    from ldmref.bench.profile import profile_case

    result = profile_case(case)
    click.echo("\n".join(formatting.format_profile(result)))
    files.write({"profile": result}, formatting.plot_profile, result)


def _scaling(case: BenchmarkCase, variable: str, rounds: int, files: _OutputFiles) -> None:
    """Measure how the cost of one case grows."""
    from ldmref.bench import formatting
    from ldmref.bench.cases import WORK_TITLES
    from ldmref.bench.profile import SCALING_VALUES, SMALL_SCALING_VALUES, measure_scaling

    values = (SCALING_VALUES if case.model == "sd15" else SMALL_SCALING_VALUES)[variable]
    work = WORK_TITLES["image" if variable == "steps" else case.work]
    click.echo(f"{case.model} on {case.backend}: {work}")
    points = []
    for point in measure_scaling(case, variable, values, rounds):
        click.echo(formatting.format_scaling_point(point))
        points.append(point)
    files.write({"grow": points}, formatting.plot_scaling, points)


class _OutputFiles:
    """The --json and --plot files; both are checked before anything is measured."""

    def __init__(self, json_file: str | None, plot_file: str | None, overwrite: bool):
        self.json = Path(json_file) if json_file else None
        self.plot = Path(plot_file) if plot_file else None
        self.overwrite = overwrite
        for path in filter(None, (self.json, self.plot)):
            if os.path.lexists(path) and not overwrite:
                raise OutputError(f"{str(path)!r} exists", code="E-EXISTS", hint="add --overwrite")
            if not path.absolute().parent.is_dir():
                raise OutputError(f"no folder {str(path.parent)!r}", code="E-FOLDER")
        if self.plot:
            if self.plot.suffix.lower() not in (".png", ".svg", ".pdf"):
                raise UsageError(
                    f"cannot plot into {str(self.plot)!r}",
                    code="E-FORMAT",
                    hint="a plot's name ends in .png, .svg or .pdf",
                )
            from ldmref.bench.formatting import require_matplotlib

            require_matplotlib()

    def write(self, report: dict[str, Any], plot: Callable[..., None], data: Any) -> None:
        """Write `report` with time and machine to the JSON file, and plot `data` unless empty."""
        if self.json:
            from ldmref.bench.machine import machine_info
            from ldmref.io.atomic import atomic_write

            now = datetime.now(UTC).isoformat(timespec="seconds")
            report = {"schema": SCHEMA, "time": now, "machine": machine_info()} | report
            with atomic_write(self.json, overwrite=self.overwrite) as file:
                file.write(json.dumps(report, indent=1).encode() + b"\n")
        if self.plot and data:
            plot(data, self.plot, overwrite=self.overwrite)


COMMANDS = (bench,)
