"""Every formula says where it comes from and how exact it is, shows a number, and has a test."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import ldmref.math

MODULES = ["ldmref.math"] + [
    m.name for m in pkgutil.walk_packages(ldmref.math.__path__, "ldmref.math.")
]
HERE = Path(__file__)
TESTS = "\n".join(p.read_text() for p in sorted(HERE.parent.glob("test_*.py")) if p != HERE)


def test_formulas_state_source_accuracy_and_example():
    for name in ldmref.math.__all__:
        text = getattr(ldmref.math, name).__doc__ or ""
        assert re.search(r"^\s*(Source|Derived): \S", text, re.MULTILINE), f"{name}: no Source:"
        assert re.search(r"^\s*Accuracy: \S", text, re.MULTILINE), f"{name}: no Accuracy:"
        assert ">>>" in text, f"{name}: no example"


def test_formulas_are_tested():
    tested = {*re.findall(r"\w+", TESTS)}
    assert not {*ldmref.math.__all__} - tested


def test_all_lists_every_public_function():
    public = {n for n, f in vars(ldmref.math).items() if callable(f) and not n.startswith("_")}
    assert public == set(ldmref.math.__all__)


HELPERS = {"along", "amplitudes", "functions_of", "log", "root"}  # for the formulas of the package


@pytest.mark.parametrize("module", [m for m in MODULES if m != "ldmref.math"])
def test_every_formula_is_in_the_package(module):
    """A function or class with a source that ldmref/math/__init__.py forgets fails here."""
    formulas = {
        name
        for name, value in vars(importlib.import_module(module)).items()
        if getattr(value, "__module__", None) == module
        and re.search(r"^\s*(Source|Derived): ", value.__doc__ or "", re.MULTILINE)
    }
    forgotten = formulas - set(ldmref.math.__all__) - HELPERS
    assert not forgotten, f"add {sorted(forgotten)} to ldmref/math/__init__.py"


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module)
    public = [f for f in vars(module).values() if getattr(f, "__module__", None) == name]
    assert result.failed == 0
    assert result.attempted > 0 or not public, "no example was found"
