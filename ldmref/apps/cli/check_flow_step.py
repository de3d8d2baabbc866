"""`ldmref check --against MODULE:FUNCTION`: which published flow step a function is."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from ldmref.errors import InputError, VerifyError, did_you_mean

if TYPE_CHECKING:
    from ldmref.check import FlowStepReport

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
