"""Run the cases of a suite in a runtime, or judge the results of another program."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from ldmref.cases.files import SuiteReader
from ldmref.cases.model import CODE, ONNX_PARTS, GoldenCase, Suite
from ldmref.cases.programs import (
    check_names,
    read_results,
    read_values,
    run_command,
    select_outputs,
)
from ldmref.cases.recorder import HALF
from ldmref.cases.runtimes import RUNTIMES, Answer, LdmrefRuntime
from ldmref.cases.verdicts import CaseVerdict, compare_case
from ldmref.errors import UsageError, did_you_mean

TIMEOUT = 600.0  # seconds for a command
VALUES = "values/"  # the paths of what runs on the host


class CaseRuntime(Protocol):
    """A runtime: which parts of a suite it computes."""

    name: str
    parts: tuple[str, ...]
    dtype: str

    def describe(self) -> str:
        """Return name and version."""
        ...

    def run(self, cases: list[GoldenCase], reader: SuiteReader) -> Iterator[Answer]:
        """Compute cases."""
        ...


def open_runtime(name: str, backend: str | None = None, dtype: str | None = None) -> CaseRuntime:
    """Return a runtime by name.

    Args:
        name: `onnxruntime`, `openvino`, `onnx-reference` or `ldmref`.
        backend: For `ldmref`: the backend; None: that of the configuration.
        dtype: For `ldmref`: the backend's dtype; None: float32. In float16 and bfloat16 it computes
            layers and networks only.

    Returns:
        The runtime, for `run_cases`.

    Raises:
        UsageError: There is no such runtime.
        BackendUnavailable: It is not installed.

    >>> from ldmref.cases import open_runtime
    >>> open_runtime("ldmref", "numpy", "float64").name
    'ldmref'
    """
    if name == "ldmref":
        from ldmref.loading import open_backend

        return LdmrefRuntime(open_backend(backend, None, dtype or "float32"))
    if name not in RUNTIMES:
        hint = did_you_mean(name, [*RUNTIMES, "ldmref"])
        raise UsageError(f"unknown runtime {name!r}", code=CODE, hint=hint)
    RUNTIMES[name].open()
    return RUNTIMES[name]


def run_cases(
    suite: Suite, runtime: CaseRuntime, cases: Sequence[GoldenCase]
) -> Iterator[CaseVerdict]:
    """Compute cases in a runtime and compare each with the suite.

    Args:
        suite: The suite.
        runtime: A runtime, from `open_runtime`.
        cases: The cases; those that the runtime does not compute are left out. Layers and networks
            have the tolerance of the runtime's dtype, at most float32, traces that of float32, and
            what runs on the host that of float64.

    Returns:
        An iterator of verdicts, in the order of the cases.

    >>> from ldmref.cases import run_cases, temporary_suite
    >>> from ldmref.cases.suite_run import open_runtime
    >>> with temporary_suite(["schedules"]) as suite:
    ...     verdicts = list(run_cases(suite, open_runtime("ldmref", "numpy"), suite.select()[:3]))
    >>> all(verdict.passed for verdict in verdicts)
    True
    """
    selected = [case for case in cases if case.part in runtime.parts]
    selected = judged_in(selected, runtime.dtype)
    suite.check_files(selected)
    reader = SuiteReader(suite)
    for case, got, note in runtime.run(selected, reader):
        allowed = "float64" if case.path.startswith(VALUES) else runtime.dtype
        yield compare_case(case, reader.outputs(case), got, dtype_of_case(case, allowed), note)


def judge_command(
    suite: Suite,
    command: str,
    cases: Sequence[GoldenCase],
    dtype: str | None = None,
    output: Path | None = None,
    timeout: float = TIMEOUT,
) -> Iterator[CaseVerdict]:
    """Run a program that writes its outputs, and compare them with the suite.

    `dtype` is the number format of all results; None: float32, and float64 of what runs on the
    host. Of a half precision, only layers and networks are judged.
    """
    cases = judged_in(cases, dtype)
    if "{case}" in command:  # these have their own folders
        cases = [case for case in cases if not case.path.startswith(VALUES)]
    suite.check_files(cases)
    reader = SuiteReader(suite)
    with tempfile.TemporaryDirectory(prefix="ldmref-results-") as name:
        folder = Path(name) if output is None else output
        notes = run_command(command, suite, cases, folder, timeout)
        for case, got, note in read_results(folder, cases, notes):
            yield compare_case(case, reader.outputs(case), got, dtype_of_case(case, dtype), note)


def judge_values(
    suite: Suite, path: Path, cases: Sequence[GoldenCase], dtype: str | None = None
) -> Iterator[CaseVerdict]:
    """Compare a file of results with the cases that it names; `dtype` as for `judge_command`."""
    values = read_values(path)
    check_names(values, suite)
    selected = judged_in([case for case in cases if case.name in values], dtype)
    suite.check_files(selected)
    reader = SuiteReader(suite)
    for case in selected:
        got = select_outputs(values[case.name], case)
        yield compare_case(case, reader.outputs(case), got, dtype_of_case(case, dtype))


def judged_in(cases: Sequence[GoldenCase], dtype: str | None) -> list[GoldenCase]:
    """Return the cases that are judged in a dtype: of a half precision, layers and networks.

    Raises:
        UsageError: The suite has no tolerances of that half precision.
    """
    if dtype not in HALF:
        return list(cases)
    found = [case for case in cases if case.part in ONNX_PARTS]
    if any(dtype not in x.tolerance for case in found for x in case.outputs if x.tolerance):
        message = f"the suite has no tolerances of {dtype}"
        raise UsageError(message, code=CODE, hint="make the suite again: ldmref cases make")
    return found


def dtype_of_case(case: GoldenCase, dtype: str | None) -> str:
    """Return the dtype whose tolerance holds; only what runs on the host has that of float64."""
    if not case.path.startswith(VALUES):
        return dtype if dtype in HALF else "float32"
    return dtype or "float64"
