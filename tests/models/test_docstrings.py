"""The examples in the docstrings of models, io, prompts and the modules at the top."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import ldmref

PACKAGE = Path(ldmref.__file__).parent
FILES = [
    *PACKAGE.glob("[a-z]*.py"),
    *(path for part in ("models", "io", "prompts") for path in (PACKAGE / part).rglob("*.py")),
]
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in FILES
    if ">>> " in path.read_text("utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_run(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted and not result.failed


def test_there_are_examples_of_what_users_call_first():
    assert {"ldmref.loading", "ldmref.models.model", "ldmref.io.checkpoint"} <= set(MODULES)
