"""`ldmref cases`: make golden cases, run them in a runtime, and judge other programs' results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ldmref.apps.cli.progress import print_line, say
from ldmref.errors import UsageError, VerifyError

if TYPE_CHECKING:
    from ldmref.cases import CaseVerdict, GoldenCase, Suite

PART_NAMES = tuple("layers networks schedules samplers guidance tokenizers formulas traces".split())
RUNTIME_NAMES = ("onnxruntime", "openvino", "onnx-reference", "ldmref")
HALF = ("float16", "bfloat16")
FAILURES = 50  # lines about failing cases

parts_option = click.option(
    "--part",
    "parts",
    multiple=True,
    type=click.Choice(PART_NAMES),
    help="Only this part of the suite; may be repeated.",
)


@click.group()
def cases() -> None:
    """Make golden cases as data, and run them in a runtime or another program."""


@cases.command()
@click.option("-o", "--output", required=True, metavar="FOLDER", help="Folder to write.")
@click.option("--overwrite", is_flag=True, help="Replace a folder that holds a suite.")
@parts_option
@click.option(
    "--family",
    "families",
    multiple=True,
    metavar="NAME",
    help="Only networks, layers and traces of this family (sd15, sdxl, taesd, ...); may be "
    "repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the counts and the digest as JSON.")
def make(
    output: str,
    overwrite: bool,
    parts: tuple[str, ...],
    families: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write the golden cases to a folder.

    Layers and networks are ONNX backend test cases, traces safetensors, all others JSON, and
    cases.json lists everything. Two runs on one machine write the same bytes. docs/cases.md
    describes the files.

    Example: ldmref cases make -o cases
    """
    from ldmref.cases import make_suite
    from ldmref.cases.model import describe_counts

    suite = make_suite(Path(output), parts or PART_NAMES, families, overwrite=overwrite)
    if as_json:
        row = {"folder": output, "version": suite.version, "count": len(suite.cases)}
        click.echo(json.dumps(row | {"digest": suite.digest}))
        return
    counts = describe_counts(suite.cases.values())
    print_line(f"wrote {suite.label} to {output}: {len(suite.cases)} cases")
    print_line(f"  {counts}")
    print_line(f"  digest {suite.digest}")


@cases.command()
@click.argument("folder", required=False)
@click.option(
    "--runtime",
    type=click.Choice(RUNTIME_NAMES),
    help="Runtime that computes the cases. Default: ldmref.",
)
@click.option("--backend", metavar="NAME", help="For --runtime ldmref: the backend.")
@click.option(
    "--command",
    metavar="COMMAND",
    help="Program that computes the cases and writes its results to {output}: "
    "'./my_runner {folder} {output}', once for all, or with {case} once per ONNX case and trace.",
)
@click.option("--values", metavar="FILE", help="Results of another program: .json or .safetensors.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64", "float16", "bfloat16"]),
    help="For --runtime ldmref: the backend's number format. Default: float32. For --command and "
    "--values: the number format of the values, which selects their tolerance. Default: float64. "
    "float16 and bfloat16 are for layers and networks.",
)
@click.option("--match", "patterns", multiple=True, metavar="GLOB", help="Only cases of this name.")
@click.option("--kind", "kinds", multiple=True, metavar="NAME", help="Only cases of this kind.")
@parts_option
@click.option("--output", metavar="FOLDER", help="Folder in which the results of --command remain.")
@click.option("--timeout", type=click.FloatRange(1), default=600.0, help="Seconds for --command.")
@click.option("--list", "as_list", is_flag=True, help="Print the cases, and run none.")
@click.option("--all", "show_all", is_flag=True, help="Also print the cases that pass.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per case.")
def run(
    folder: str | None,
    parts: tuple[str, ...],
    show_all: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Run golden cases and print the verdict.

    Without FOLDER, the cases are made for this run. The exit code is 4 if a case fails.

    Example: ldmref cases run cases --runtime onnxruntime
    """
    from ldmref.cases import summary

    judge = SuiteJudge(flags)
    with _open_suite(folder, judge.needed_parts(parts)) as suite:
        selected = suite.select(flags["patterns"], parts or PART_NAMES, flags["kinds"])
        if flags["as_list"]:
            _print_cases(selected, as_json)
            return
        results = []
        for result in judge.results(suite, selected):
            results.append(result)
            if as_json:
                click.echo(json.dumps(result.to_dict()))
            elif show_all:
                print_line(str(result))
    if not results:
        raise UsageError(
            f"{judge.program()} computes none of these cases",
            code="E-CASES",
            hint="runtimes of ONNX models compute layers, networks and traces"
            if judge.dtype not in HALF
            else f"in {judge.dtype}, only layers and networks are judged",
        )
    failed = [result for result in results if not result.passed]
    verdict = summary(results, suite.label, judge.program())
    if as_json:
        counts = {"passed": len(results) - len(failed), "count": len(results)}
        row = {"program": judge.program(), "version": suite.version, **counts}
        click.echo(json.dumps({"summary": row | {"verdict": verdict}}))
    elif not show_all:
        for result in failed[:FAILURES]:
            print_line(str(result))
        if len(failed) > FAILURES:
            print_line(f"and {len(failed) - FAILURES} more; --all prints every case")
    if failed:
        raise VerifyError(verdict, code="E-CASES")
    if not as_json:
        print_line(verdict)
        _print_worst(results)


COMMANDS = (cases,)


class SuiteJudge:
    """The source of results: a runtime, a command, or a file.

    Args:
        flags: Those of `ldmref cases run`.

    Raises:
        UsageError: They exclude each other.
    """

    def __init__(self, flags: Mapping[str, Any]):
        from ldmref.cases.suite_run import open_runtime

        _check_flags(flags)
        self.command: str | None = flags["command"]
        self.values = None if flags["values"] is None else Path(flags["values"])
        self.dtype: str | None = flags["dtype"]
        self.output = None if flags["output"] is None else Path(flags["output"])
        self.timeout: float = flags["timeout"]
        self.runtime = None
        if self.command is None and self.values is None:
            self.runtime = open_runtime(flags["runtime"] or "ldmref", flags["backend"], self.dtype)

    def parts(self) -> tuple[str, ...]:
        """Return the parts of the suite that may be computed."""
        if self.runtime is not None:
            return self.runtime.parts
        if self.dtype in HALF:
            return ("layers", "networks")
        if self.values is not None:
            from ldmref.cases.programs import read_values

            names = list(read_values(self.values))
            if all(name.startswith(tuple(f"{part}." for part in PART_NAMES)) for name in names):
                return tuple(part for part in PART_NAMES if part not in ("layers", "networks"))
        return PART_NAMES

    def needed_parts(self, parts: tuple[str, ...]) -> tuple[str, ...]:
        """Return the parts to make for a run: also the networks that traces call."""
        needed = parts or self.parts()
        graphs = self.runtime is not None and self.runtime.name != "ldmref"
        return (*needed, "networks") if graphs and "traces" in needed else needed

    def program(self) -> str:
        """Return what is judged, for the verdict."""
        if self.runtime is not None:
            return self.runtime.describe()
        return str(self.values) if self.values is not None else str(self.command).split()[0]

    def results(self, suite: Suite, selected: list[GoldenCase]) -> Iterator[CaseVerdict]:
        """Compute cases, and compare them."""
        from ldmref.cases.suite_run import judge_command, judge_values, run_cases

        if self.runtime is not None:
            return run_cases(suite, self.runtime, selected)
        if self.values is not None:
            return judge_values(suite, self.values, selected, self.dtype)
        command = str(self.command)
        return judge_command(suite, command, selected, self.dtype, self.output, self.timeout)


def _check_flags(flags: Mapping[str, Any]) -> None:
    """Refuse flags that exclude each other.

    Raises:
        UsageError: The flags do not fit together.
    """
    sources = [name for name in ("runtime", "command", "values") if flags[name] is not None]
    runtime = flags["runtime"]
    if len(sources) > 1:
        names = " and ".join(f"--{name}" for name in sources)
        raise UsageError(f"{names} exclude each other", code="E-USAGE")
    if flags["backend"] is not None and (sources and runtime != "ldmref"):
        raise UsageError("--backend is for --runtime ldmref", code="E-USAGE")
    if flags["output"] is not None and flags["command"] is None:
        raise UsageError("--output is for --command", code="E-USAGE")
    if flags["dtype"] not in (None, "float32") and runtime not in (None, "ldmref"):
        message = f"--runtime {runtime} computes in float32"
        raise UsageError(message, code="E-USAGE", hint="leave --dtype out")


@contextmanager
def _open_suite(folder: str | None, parts: tuple[str, ...]) -> Iterator[Suite]:
    """Read a suite, or make the parts that are needed in a temporary folder."""
    from ldmref.cases import read_suite, temporary_suite

    if folder is not None:
        yield read_suite(Path(folder))
        return
    say("note: makes the cases for this run; ldmref cases make -o FOLDER keeps them")
    with temporary_suite(parts) as suite:
        yield suite


def _print_cases(selected: list[GoldenCase], as_json: bool) -> None:
    for case in selected:
        if as_json:
            row = {"name": case.name, "part": case.part, "kind": case.kind, "path": case.path}
            click.echo(json.dumps(row))
        else:
            print_line(case.name)


def _print_worst(results: list[CaseVerdict]) -> None:
    """Print the case that is nearest to its tolerance."""
    worst = max(results, key=lambda result: result.ratio)
    print_line(
        f"  largest error: {100.0 * worst.ratio:.0f} % of the tolerance, in {worst.case} "
        f"({worst.error:.1e} of {worst.tolerance:.1e})"
    )
