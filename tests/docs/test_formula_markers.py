"""Every displayed formula says what checks it, and that exists.

The line before the empty line before a block of mathematics is one of

    <!-- checked by: tests/math/test_page_formulas_score.py::test_tweedie -->
    <!-- checked by: ldmref check: q_sample, q_posterior -->
    <!-- definition -->

or several of the first two, separated by semicolons.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from ldmref.check import identities

ROOT = Path(__file__).parents[2]
PAGES = [
    page
    for folder in ("math", "course")
    for page in sorted((ROOT / "docs" / folder).glob("*.md"))
    if "```math" in page.read_text("utf-8")
]
MARKER = re.compile(r"^<!-- (?:(definition)|checked by: (.+)) -->$")
CHECK = "ldmref check: "


def blocks(page):
    """(number of the line, marker or "") of every displayed formula."""
    lines = page.read_text("utf-8").splitlines()
    for i, line in enumerate(lines):
        if line.strip() == "```math":
            marked = i >= 2 and not lines[i - 1].strip()
            yield i + 1, lines[i - 2].strip() if marked else ""


def test_there_are_formulas():
    assert len(PAGES) >= 9 and sum(len(list(blocks(page))) for page in PAGES) > 90


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_every_formula_is_checked_or_a_definition(page):
    problems = []
    for line, marker in blocks(page):
        match = MARKER.match(marker)
        if match is None:
            problems.append(f"{page.name}:{line}: no marker")
        elif match[2]:
            problems += [
                f"{page.name}:{line}: {p}" for p in map(problem, match[2].split("; ")) if p
            ]
    assert not problems, "\n".join(problems)


def test_a_marker_stands_before_a_formula():
    """One that is left over, or has no empty line below, marks nothing."""
    for page in PAGES:
        markers = re.findall(r"^<!-- (?:definition|checked by)", page.read_text("utf-8"), re.M)
        assert len(markers) == sum(bool(MARKER.match(m)) for _, m in blocks(page)), page.name


def problem(named):
    """Return the error of a check that a marker names; "" if it exists."""
    if named.startswith(CHECK):
        known = {n for i in identities() for n in (i.function, *i.uses)}
        missing = [n for n in named.removeprefix(CHECK).split(", ") if n not in known]
        return f"no identity of {', '.join(missing)}" if missing else ""
    path, _, test = named.partition("::")
    if not (ROOT / path).is_file():
        return f"{path} does not exist"
    return "" if test.split("[")[0] in names_in(path) else f"{path} has no {test}"


@functools.cache
def names_in(path):
    """Return the names of the tests in a file, those of a class as Class::test."""
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for kind in tree.body:
        if isinstance(kind, ast.ClassDef):
            methods = (node.name for node in kind.body if isinstance(node, ast.FunctionDef))
            names |= {f"{kind.name}::{method}" for method in methods}
    return {name for name in names if name.split("::")[-1].startswith("test_")}


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("ldmref check: q_sample, q_posterior", ""),
        ("ldmref check: no_such", "no identity of no_such"),
        ("tests/docs/test_formula_markers.py::test_there_are_formulas", ""),
        ("tests/docs/test_formula_markers.py::test_none", "has no test_none"),
        ("tests/docs/none.py::test_there_are_formulas", "does not exist"),
    ],
)
def test_what_a_marker_names_is_looked_up(named, found):
    assert found in problem(named) and bool(problem(named)) == bool(found)
