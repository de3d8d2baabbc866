"""`check_family` and `assert_family_conforms`: every check of a family, in one call.

In a family's tests:

    from ldmref.testing import assert_family_conforms

    def test_family():
        assert_family_conforms(DIT)

checks what needs nothing but the family. With the original network, pipelines and published
numbers it checks against these, too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ldmref.errors import UsageError, counted, did_you_mean
from ldmref.models.family import Family, find_family
from ldmref.testing.family.declaration import (
    check_flops,
    check_names,
    check_parameters,
    check_presets,
)
from ldmref.testing.family.files import check_files, check_folders, check_pipeline_folders
from ldmref.testing.family.learning import check_training
from ldmref.testing.family.networks import check_batch, check_originals, check_padding
from ldmref.testing.family.oracles import FamilyOptions
from ldmref.testing.family.pipelines import check_live, check_pipeline_images, check_wrong_layers
from ldmref.testing.family.ports import check_cases, check_export, check_traces
from ldmref.testing.family.report import BrokenPromises, FamilyCheck, FamilyReport, Findings
from ldmref.testing.family.runs import check_backends, check_estimate, check_modes
from ldmref.testing.family.subject import Subject

FAMILY_CHECKS: Mapping[str, Callable[[Subject, Findings], None]] = {
    "names": check_names,
    "presets": check_presets,
    "parameters": check_parameters,
    "flops": check_flops,
    "original": check_originals,
    "batch": check_batch,
    "padding": check_padding,
    "modes": check_modes,
    "backends": check_backends,
    "estimate": check_estimate,
    "live pipeline": check_live,
    "wrong layer": check_wrong_layers,
    "pipeline images": check_pipeline_images,
    "pipeline folder": check_pipeline_folders,
    "traces": check_traces,
    "export": check_export,
    "cases": check_cases,
    "training": check_training,
    "folders": check_folders,
    "single files": check_files,
}
"""Every check by name, in the order in which they run."""
INSTALLED = "installed"


def check_family(
    family: Family | str,
    *,
    only: Sequence[str] = (),
    **options: Any,
) -> FamilyReport:
    """Check what a family declares, in every tool.

    What is not given, or needs a library that is not installed, is not checked.

    Args:
        family: The family, or its name. Its package must be installed, because every tool finds it
            by its name.
        only: Names of checks, keys of `FAMILY_CHECKS`. (): all.
        **options: What to compare it with, by name: the arguments of `FamilyOptions`, such as
            `originals`, `pipelines`, `presets` and `parameters`.

    Returns:
        A check for each promise, whether it holds, is broken, or was not compared.

    Raises:
        UsageError: A name in `only`, `presets` or `parameters` is not known.

    >>> from ldmref.testing import check_family
    >>> report = check_family("flux", only=["names", "presets", "original"])
    >>> report.holding, report.not_checked
    (['installed', 'names', 'presets'], ['original'])
    """
    compared = FamilyOptions(**options)
    installed = Findings(INSTALLED)
    found = _find(family, installed)
    if found is None:
        return FamilyReport(
            family if isinstance(family, str) else family.name, (installed.close(),)
        )
    for name, known, what in (
        *((name, FAMILY_CHECKS, "check") for name in only),
        *((name, found.presets, "preset") for name in (*compared.presets, *compared.parameters)),
    ):
        if name not in known:
            message = f"no {what} {name!r}"
            raise UsageError(message, code="E-CONFORMANCE", hint=did_you_mean(name, known))
    checks: list[FamilyCheck] = [installed.close()]
    with tempfile.TemporaryDirectory(prefix="ldmref-family-") as folder:
        subject = Subject(found, compared, Path(folder))
        for name, check in FAMILY_CHECKS.items():
            if only and name not in only:
                continue
            findings = Findings(name)
            with findings.about(""):
                check(subject, findings)
            checks.append(findings.close())
    return FamilyReport(found.name, tuple(checks))


def _find(family: Family | str, found: Findings) -> Family | None:
    """Return the family that every tool finds by its name; None if it is not the one under test."""
    name = family if isinstance(family, str) else family.name
    try:
        known = find_family(name)
    except UsageError as error:
        found.problem(f"{error}; install its package, whose entry point names the family")
        return None
    if not isinstance(family, str) and known is not family:
        found.problem(f"the entry point {name!r} names another family than the one given")
        return None
    if known.denoiser.family != name:
        found.problem(
            f"{known.denoiser.__name__}.family is {known.denoiser.family!r}, not {name!r}"
        )
        return None
    found.compare(f"the entry point {name!r}")
    return known


def assert_family_conforms(family: Family | str, **options: Any) -> FamilyReport:
    """Check that a family does what it declares, in every tool; all problems are listed at once.

    What is not given, or needs a library that is not installed, is not checked; the report and the
    error name it.

    Args:
        family: The family, or its name. Its package must be installed, because every tool finds it
            by its name.
        **options: What to compare it with; the other arguments of `check_family`.

    Returns:
        What was checked, and what was not.

    Raises:
        VerifyError: Something is not as declared. It is an `AssertionError`, too; its `report` has
            a line for each problem, and for each check that holds or was not made.
        UsageError: A name in `only`, `presets` or `parameters` is not known.

    >>> from ldmref.testing import assert_family_conforms
    >>> print(assert_family_conforms("flux", only=["presets", "original"]))
    family 'flux':
    holds: installed: the entry point 'flux'
    holds: presets: 'flux-tiny', 'flux-dev', 'flux-schnell', 'flux-fill-dev', 'flux-control-dev'
    not checked: original: none was given (originals=)
    """
    report = check_family(family, **options)
    if report.broken:
        count = counted(len(report.problems), "problem")
        message = f"the family {report.family!r} breaks what it declares: {count}"
        raise BrokenPromises(message, code="E-CONFORMANCE", report=str(report).splitlines()[1:])
    return report
