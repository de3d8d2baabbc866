"""Pages and examples import public names alone, as docs/policy.md promises."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from contextlib import suppress

import pytest
from blocks import ROOT, blocks

PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]
PAGES += [path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*/*.md")]
EXAMPLES = [path for path in ROOT.glob("examples/**/*.py") if "tests" not in path.parts]
POLICY = (ROOT / "docs/policy.md").read_text("utf-8")
MODULES = set(
    re.findall(
        r"`(ldmref[\w.]+)`", POLICY.partition("- the functions and")[2].partition("- commands")[0]
    )
)
# Pages that show an internal function on purpose: (page, module) -> the reason.
SHOWN = {
    ("docs/checkpoints.md", "ldmref.io.quantized.ggml"): "the page describes these functions",
    ("docs/course/low-rank.md", "ldmref.io.adapters.formulas"): "the page describes its formulas",
    (
        "docs/course/number-formats.md",
        "ldmref.io.quantized.float8",
    ): "the page describes its tables",
    (
        "docs/course/14-transformers-for-images.md",
        "ldmref.families.sd3.network",
    ): "the page compares its block",
    ("docs/course/controlnet.md", "ldmref.models.controlnet"): "the page describes how it starts",
    ("docs/course/controlnet.md", "ldmref.models.residuals"): "the page describes its weights",
}


def python_blocks(page: str) -> Iterator[str]:
    """Yield the Python of a page; fragments that do not parse import nothing."""
    for block in blocks(page):
        with suppress(SyntaxError):
            ast.parse(block.text)
            if block.language == "python":
                yield block.text


def internal_imports(code: str) -> list[str]:
    """Return what code imports of ldmref that is neither exported nor a public module."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            found += [name for name in names if not is_public(name)]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            module = node.module or ""
            names = [alias.name for alias in node.names]
            found += [f"{module}.{name}" for name in names if not is_public(module, name)]
    return found


def is_public(module: str, name: str = "") -> bool:
    if module.partition(".")[0] != "ldmref" or module in MODULES:
        return True
    package = importlib.import_module(module)
    if not name:
        return hasattr(package, "__path__")
    if not hasattr(package, "__path__"):
        return False
    if name in getattr(package, "__all__", ()):
        return True
    inner = f"{module}.{name}"  # a package of a package, or a public module
    return inner in MODULES or (ROOT / inner.replace(".", "/") / "__init__.py").is_file()


@pytest.mark.parametrize("page", sorted(PAGES))
def test_a_page_imports_public_names(page):
    found = [name for code in python_blocks(page) for name in internal_imports(code)]
    assert [name for name in found if (page, name.rpartition(".")[0]) not in SHOWN] == []


@pytest.mark.parametrize("path", sorted(EXAMPLES), ids=lambda path: path.stem)
def test_an_example_imports_public_names(path):
    assert internal_imports(path.read_text("utf-8")) == []


def test_the_policy_lists_modules_that_exist():
    assert {"ldmref.errors", "ldmref.models.layers"} <= MODULES
    assert all((ROOT / f"{name.replace('.', '/')}.py").is_file() for name in MODULES)


def test_internal_imports_are_found():
    code = (
        "import numpy, ldmref, ldmref.modes\n"
        "from ldmref import modes, load\n"
        "from ldmref.errors import UsageError\n"
        "from ldmref.models import flatten\n"
        "from ldmref.models.params import flatten, tree_map\n"
        "from ldmref.modes import trajectory\n"
        "import ldmref.modes.run\n"
    )
    assert internal_imports(code) == [
        "ldmref.models.params.flatten",
        "ldmref.models.params.tree_map",
        "ldmref.modes.trajectory",
        "ldmref.modes.run",
    ]
