"""Wrong answers are found, with a counterexample; naive ones are found with `--hard`.

`NAME__description` in mistakes/chNN.py is a wrong version of the function NAME. `NAME__naive` holds
on ordinary inputs and loses its digits at the edges.
"""

from __future__ import annotations

from types import FunctionType, ModuleType

import pytest
from course_pages import answers, load, mistakes, number_of, pages

import ldmref.check
from ldmref.backends import get_backend

FILES = {number_of(path): load(path) for path in mistakes()}
WRONG = [
    (number, name)
    for number, module in FILES.items()
    for name, value in vars(module).items()
    if isinstance(value, FunctionType) and "__" in name.strip("_")
]
NUMPY = get_backend("numpy", dtype="float64")


def is_naive(name):
    return name.partition("__")[2].startswith("naive")


def marked(module, name, hard):
    """Return the results of the identities of a wrong function under its right name."""
    function = name.partition("__")[0]
    answer = ModuleType(module.__name__)
    answer.__file__ = module.__file__
    setattr(answer, function, getattr(module, name))
    return [*ldmref.check.run(NUMPY, against=answer, cases=100, only=f"{function}: ", hard=hard)]


@pytest.mark.parametrize(("number", "name"), [pair for pair in WRONG if not is_naive(pair[1])])
def test_a_mistake_is_found(number, name):
    failed = [result for result in marked(FILES[number], name, False) if not result.holds]
    assert failed, f"{name} passes"
    assert failed[0].detail and failed[0].calls, "no counterexample is shown"


@pytest.mark.parametrize(("number", "name"), [pair for pair in WRONG if is_naive(pair[1])])
def test_a_naive_answer_fails_at_an_edge(number, name):
    ordinary = marked(FILES[number], name, False)
    assert ordinary and all(result.holds for result in ordinary), ordinary
    failed = [result for result in marked(FILES[number], name, True) if not result.holds]
    assert failed, f"{name} passes with --hard"
    assert failed[0].edge and failed[0].edge in failed[0].detail
    assert failed[0].calls


@pytest.mark.parametrize("page", pages(), ids=number_of)
def test_a_chapter_has_three_mistakes(page):
    own = [name for number, name in WRONG if number == number_of(page)]
    assert len(own) >= 3
    assert {*answers(page)} & {name.partition("__")[0] for name in own}
