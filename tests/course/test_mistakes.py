"""Wrong answers are found by the commands that the pages print, with a counterexample.

`NAME__description` in mistakes/chNN.py is a wrong version of the function NAME. `NAME__naive...`
holds on ordinary inputs and loses its digits at the edges: only a command with `--hard` finds it.
"""

from __future__ import annotations

import re
from types import FunctionType

import pytest
from announced import ANNOUNCED
from course_pages import answers, exercises, load, mistakes, number_of, pages
from hinted import GIVEN, HINTS

from ldmref.apps.cli.main import main

FILES = {number_of(path): path for path in mistakes()}
PAGES = {number_of(path): path for path in pages()}
WRONG = [
    (number, name)
    for number, path in FILES.items()
    for name, value in vars(load(path)).items()
    if isinstance(value, FunctionType) and "__" in name.strip("_")
]
TABLE = "## Common mistakes"
REPORTS = {
    (number, name): (words, report)
    for number, rows in ANNOUNCED.items()
    for name, words, report in rows
}


def function_of(name):
    return name.partition("__")[0]


def is_naive(name):
    return name.partition("__")[2].startswith("naive")


def exercise_of(number, function):
    """Return the exercise whose commands mark a function."""
    found = [e for e in exercises(PAGES[number]) if f"{function}: " in e.marked]
    assert len(found) == 1, f"no exercise of chapter {number} marks {function}"
    return found[0]


@pytest.fixture
def marked(tmp_path, monkeypatch, capsys):
    """Return a function that runs printed commands on a source of answers: [(code, output)]."""
    monkeypatch.chdir(tmp_path)

    def run(source, commands):
        (tmp_path / "answers.py").write_text(source)
        capsys.readouterr()
        return [(main(command[1:]), capsys.readouterr().out) for command in commands]

    return run


def source_of(number, name):
    """Return a file in which the wrong function has its right name."""
    return f"""import runpy
{function_of(name)} = runpy.run_path({str(FILES[number])!r})[{name!r}]
"""


@pytest.mark.parametrize(("number", "name"), [pair for pair in WRONG if not is_naive(pair[1])])
def test_a_mistake_is_found_by_the_printed_command(number, name, marked):
    commands = exercise_of(number, function_of(name)).commands
    ((code, out),) = marked(source_of(number, name), commands[:1])
    assert code == 4 and "--hard" not in commands[0], f"{name} passes"
    assert re.search(rf"^      +{function_of(name)}\(", out, re.MULTILINE), "no call is shown"
    _, report = REPORTS.get((number, name), ("", ""))
    assert report in out, out
    for words in (HINTS[number][name], *GIVEN.get((number, name), ())):
        assert re.search(rf"^      hint: .*{re.escape(words)}", out, re.MULTILINE), out


@pytest.mark.parametrize(("number", "name"), [pair for pair in WRONG if is_naive(pair[1])])
def test_a_naive_answer_is_found_by_the_printed_hard_command(number, name, marked):
    commands = exercise_of(number, function_of(name)).commands
    assert [words[-1] == "--hard" for words in commands] == [False, True]
    (plain, out), (hard, hard_out) = marked(source_of(number, name), commands)
    assert plain == 0, out
    assert hard == 4 and " FAILED" in hard_out
    _, report = REPORTS[number, name]
    assert re.search(rf"case \d+, [^:]*{re.escape(report)}", hard_out), hard_out


@pytest.mark.parametrize("number", PAGES)
def test_the_printed_mistake_is_found_by_the_printed_command(number, marked):
    printed = [e for e in exercises(PAGES[number]) if e.printed]
    for exercise in printed:
        source = f"import numpy as np\n\n\n{exercise.printed}"
        ((code, _),) = marked(source, exercise.commands[:1])
        assert code == 4, exercise.number


@pytest.mark.parametrize("number", PAGES)
def test_what_the_page_announces_is_in_the_table(number):
    """The words that announce each mistake are still those of its exercise."""
    assert ANNOUNCED[number]
    for name, words, _ in ANNOUNCED[number]:
        assert (number, name) in WRONG
        text = " ".join(exercise_of(number, function_of(name)).text.split())
        assert words in text, f"{name}: the exercise does not say {words!r}"


@pytest.mark.parametrize("number", PAGES)
def test_every_wrong_answer_has_a_hint_in_the_table(number):
    own = {name for other, name in WRONG if other == number and not is_naive(name)}
    assert own == {*HINTS[number]}


@pytest.mark.parametrize("number", [n for n in PAGES if TABLE in PAGES[n].read_text("utf-8")])
def test_the_hints_that_a_table_of_mistakes_quotes_are_given(number):
    """A row that says which exercise fails quotes words of the hint of one of its mistakes."""
    page = PAGES[number].read_text("utf-8").partition(TABLE)[2].partition("\n## ")[0]
    rows = re.findall(r"^\|.*\| exercise (\d) fails(.*)\|$", page, re.MULTILINE)
    assert rows
    for exercise, quoted in rows:
        (only,) = [e for e in exercises(PAGES[number]) if e.number == int(exercise)]
        hints = [h for name, h in HINTS[number].items() if f"{function_of(name)}: " in only.marked]
        words = re.match(r', and the hint is "([^"]+)"', quoted)
        assert words and any(words[1] in hint for hint in hints), quoted


@pytest.mark.parametrize("number", PAGES)
def test_hard_is_printed_where_the_text_asks_for_it(number):
    for exercise in exercises(PAGES[number]):
        printed = any("--hard" in command for command in exercise.commands)
        assert printed == ("`--hard`" in exercise.text), exercise.number


@pytest.mark.parametrize("number", PAGES)
def test_a_chapter_has_three_mistakes(number):
    own = [name for other, name in WRONG if other == number]
    assert len(own) >= 3
    assert {*answers(PAGES[number])} & {function_of(name) for name in own}
