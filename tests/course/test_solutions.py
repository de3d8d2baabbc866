"""The answers in docs/course/solutions are marked as those of a student, and are right."""

from __future__ import annotations

import ast
import inspect
import re

import pytest
from course_pages import COURSE, exercises, load, number_of, pages, solution

import ldmref.check
from ldmref.backends import get_backend
from ldmref.check.identity import public

PAGES = pages()
CASES = 30


@pytest.mark.parametrize("page", PAGES, ids=number_of)
def test_a_chapter_has_three_exercises_that_are_marked(page):
    text = page.read_text("utf-8")
    found = exercises(page)
    assert [exercise.number for exercise in found] == [1, 2, 3]
    assert len(re.findall(r"^### Exercise", text, re.MULTILINE)) == 3
    known = {identity.function for identity in ldmref.check.identities()}
    for exercise in found:
        assert exercise.functions, f"exercise {exercise.number} has no command that marks it"
        for name in exercise.functions:
            assert name in known, f"`ldmref check` has no identity of {name}"
            assert re.search(rf"\b{name}\b", exercise.text.replace(f'"{name}: "', "")), (
                f"exercise {exercise.number} does not name {name}"
            )
    assert f"solutions/{solution(page).name}" in text, "the page does not link to its answers"


@pytest.mark.parametrize("page", PAGES, ids=number_of)
def test_the_answers_hold_at_the_edges_also(page):
    module = load(solution(page))
    backend = get_backend("numpy", dtype="float64")
    for name in [name for exercise in exercises(page) for name in exercise.functions]:
        assert callable(getattr(module, name, None)), f"{solution(page).name} has no {name}"
        results = [
            *ldmref.check.run(backend, against=module, cases=CASES, only=f"{name}: ", hard=True)
        ]
        assert results, name
        for result in results:
            assert result.holds, f"{result.identity}: {result.verdict}; {result.detail}"


@pytest.mark.parametrize("page", PAGES, ids=number_of)
def test_the_answers_have_the_arguments_of_ldmref(page):
    """Arguments are passed by position."""
    module = load(solution(page))
    for name in [name for exercise in exercises(page) for name in exercise.functions]:
        theirs = list(inspect.signature(getattr(module, name)).parameters.values())
        ours = list(inspect.signature(public(name)).parameters.values())
        required = [p.name for p in ours if p.default is p.empty]
        assert [p.name for p in theirs][: len(required)] == required


@pytest.mark.parametrize("page", PAGES, ids=number_of)
def test_the_answers_stand_alone(page):
    """They are written from the formulas, with NumPy."""
    tree = ast.parse(solution(page).read_text("utf-8"))
    names = [
        alias.name if isinstance(node, ast.Import) else node.module or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    assert not [name for name in names if name.split(".")[0] == "ldmref"]
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    for function in functions:
        assert ast.get_docstring(function) or function.name.startswith("_"), function.name


def test_every_file_of_answers_belongs_to_a_chapter():
    files = {path.name for path in (COURSE / "solutions").glob("*.py")}
    assert files == {solution(page).name for page in PAGES}
