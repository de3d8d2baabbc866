"""The answers in docs/course/solutions are marked as those of a student, and are right."""

from __future__ import annotations

import ast
import inspect
import re

import pytest
from course_pages import COURSE, answers, exercises, load, number_of, pages, solution

import ldmref.check
from ldmref.backends import get_backend
from ldmref.check.identity import Functions, public
from ldmref.check.runner import selected

PAGES = pages()
CASES = 30


@pytest.mark.parametrize("page", PAGES, ids=number_of)
def test_a_chapter_has_three_exercises_that_are_marked(page):
    text = page.read_text("utf-8")
    found = exercises(page)
    assert [exercise.number for exercise in found] == [1, 2, 3]
    assert len(re.findall(r"^### Exercise", text, re.MULTILINE)) == 3
    functions = Functions(load(solution(page)))
    for exercise in found:
        assert exercise.marked, f"exercise {exercise.number} has no command that marks it"
        for only in exercise.marked:
            identities = selected(functions, only, all_of_them=False)
            checked = {name for i in identities for name in functions.replaced(i)}
            assert any(f"{name}(" in exercise.text for name in checked), (
                f"exercise {exercise.number} names no function that --only {only!r} marks"
            )
    assert f"solutions/{solution(page).name}" in text, "the page does not link to its answers"


@pytest.mark.parametrize("page", PAGES, ids=number_of)
def test_the_answers_hold_at_the_edges_also(page):
    module = load(solution(page))
    backend = get_backend("numpy", dtype="float64")
    for only in [only for exercise in exercises(page) for only in exercise.marked]:
        results = [*ldmref.check.run(backend, against=module, cases=CASES, only=only, hard=True)]
        assert results, only
        for result in results:
            assert result.holds, f"{result.identity}: {result.verdict}; {result.detail}"


@pytest.mark.parametrize("page", PAGES, ids=number_of)
def test_the_answers_have_the_arguments_of_ldmref(page):
    """Arguments are passed by position."""
    found = answers(page)
    assert len(found) >= 3
    for name, answer in found.items():
        ours = list(inspect.signature(public(name)).parameters.values())
        required = [p.name for p in ours if p.default is p.empty]
        assert [*inspect.signature(answer).parameters][: len(required)] == required, name


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
