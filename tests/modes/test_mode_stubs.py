"""What an editor sees of the modes, `ldmref/modes/__init__.pyi`, is what they take."""

from __future__ import annotations

import ast
import inspect
import runpy
from pathlib import Path

from ldmref import modes
from ldmref.modes.registry import MODES

ROOT = Path(__file__).resolve().parents[2]
STUB = ROOT / "ldmref" / "modes" / "__init__.pyi"
Statements = tuple[set[str], list[str]]


def statements(text: str) -> Statements:
    """Return the imports of a stub, and its other statements in their order."""
    body = ast.parse(text).body
    imports = {ast.unparse(x) for x in body if isinstance(x, ast.Import | ast.ImportFrom)}
    others = [ast.unparse(x) for x in body if not isinstance(x, ast.Import | ast.ImportFrom)]
    return imports, others


def test_the_stub_is_that_of_the_declarations():
    """After a change of a parameter: python scripts/make_mode_stubs.py."""
    made = runpy.run_path(str(ROOT / "scripts" / "make_mode_stubs.py"))["make_stub"]()
    assert statements(STUB.read_text(encoding="utf-8")) == statements(made)


def test_the_stub_has_every_name_and_parameter():
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    functions = {x.name: x.args for x in tree.body if isinstance(x, ast.FunctionDef)}
    assert set(functions) == set(MODES)
    for name, taken in functions.items():
        found = [x.arg for x in (*taken.posonlyargs, *taken.args, *taken.kwonlyargs)]
        assert found == list(inspect.signature(getattr(modes, name)).parameters)
    imported = {a.asname for x in tree.body if isinstance(x, ast.ImportFrom) for a in x.names}
    assert imported | set(functions) == set(modes.__all__)
