"""Formulas in Markdown pages are written in the forms that GitHub renders.

Inside `$...$` and `$$...$$` GitHub applies Markdown first: backslashes before punctuation vanish
and lines that begin with `+` become lists. Only `` $`...`$ `` and ```` ```math ```` blocks reach
MathJax unchanged. An inline formula must not touch a letter, a digit or a hyphen on its left, nor a
letter or a digit on its right, and is not rendered in the text of a link (github/markup#1742).

A row of a table that has more cells than its header loses the last ones, and a bar inside code ends
a cell too. GitHub makes no links of citations such as arXiv:2006.11239. Links lead to files that
exist, from the folder of their page.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "benchmarks", "examples", "ldmref")
PAGES = sorted([*ROOT.glob("*.md"), *(p for f in FOLDERS for p in (ROOT / f).rglob("*.md"))])

FENCE = re.compile(r" *(?P<fence>`{3,}|~{3,})(?P<language>[^`]*)$")
SPAN = re.compile(r"\$`(?P<formula>[^`]+)`\$|(?P<ticks>`+)(?!`).+?(?P=ticks)")  # math, or code
LINK_WITH_FORMULA = re.compile(r"\[[^\]]*\$`[^`]+`\$[^\]]*\]\(")
# characters that may touch an inline formula, in addition to the ends of a line
BEFORE = " (*"
AFTER = " .,;:!?)*"


def formula_errors(tex: str) -> list[str]:
    """Return the parts of one formula that GitHub's MathJax does not render."""
    errors = []
    if not tex.strip():
        errors.append("an empty formula")
    if r"\operatorname" in tex:
        errors.append(r"\operatorname is refused: write \mathrm")
    if "$" in tex:
        errors.append("a dollar in a formula")
    if re.search(r"\S[<>]|[<>]\S", tex):
        errors.append("< and > need spaces on both sides")
    plain = re.sub(r"\\[{}\\|]", "", tex)
    if plain.count("{") != plain.count("}"):
        errors.append("braces do not balance")
    if len(re.findall(r"\\left\b", tex)) != len(re.findall(r"\\right\b", tex)):
        errors.append(r"\left and \right do not balance")
    return errors


def line_errors(line: str) -> list[str]:
    """Return the errors of the formulas in a line outside of fences."""
    errors = ["a formula in the text of a link"] if LINK_WITH_FORMULA.search(line) else []
    is_table_row = line.startswith("|")
    rest = ""
    position = 0
    for span in SPAN.finditer(line):
        rest += line[position : span.start()]
        position = span.end()
        formula = span["formula"]
        if formula is None:
            continue
        errors += formula_errors(formula)
        before = line[: span.start()][-1:]
        after = line[span.end() :][:1]
        if before not in BEFORE or after not in AFTER:
            errors.append(f"a character touches the formula: {before}{span[0]}{after}")
        if is_table_row and "|" in formula:
            errors.append(r"| ends a cell of the table: write \mid or \lvert")
    if "$" in rest + line[position:]:
        errors.append("a dollar outside of code: write $`...`$ or a math block")
    return errors


def page_errors(text: str) -> list[str]:
    """`line: error` for every formula that GitHub would not render."""
    errors = []
    fence = None
    language = ""
    opened = 0
    block = []
    for number, line in enumerate(text.splitlines(), 1):
        match = FENCE.match(line)
        if fence is None and match:
            fence = match["fence"]
            language = match["language"].strip()
            opened = number
            block = []
        elif fence is None:
            errors += [f"{number}: {error}" for error in line_errors(line)]
        elif match and match["fence"].startswith(fence) and not match["language"].strip():
            if language == "math":
                errors += [f"{opened}: {error}" for error in formula_errors("\n".join(block))]
            fence = None
        else:
            block.append(line)
            if language == "math" and (match or not line.strip()):
                errors.append(f"{number}: a blank line or a fence in a math block")
    return errors if fence is None else [*errors, f"{opened}: the fence is never closed"]


DELIMITER = re.compile(r" *\|?( *:?-+:? *\|)+( *:?-+:? *)?$")


def prose(text: str) -> list[str]:
    """Return the lines outside of fences, by their numbers less one; a line of a fence is empty."""
    lines = []
    fence = None
    for line in text.splitlines():
        match = FENCE.match(line)
        inside = fence is not None
        if fence is None and match:
            fence = match["fence"]
        elif match and fence and match["fence"].startswith(fence) and not match["language"].strip():
            fence = None
        lines.append("" if inside or fence else line)
    return lines


def cells(row: str) -> int:
    """The number of cells of a row as GitHub counts them: a bar counts unless it is escaped."""
    return len(re.findall(r"(?<!\\)\|", row.strip().removeprefix("|").removesuffix("|"))) + 1


def table_errors(text: str) -> list[str]:
    """`line: error` for every row of a table whose cells are not as many as those of its header."""
    errors = []
    columns = 0
    before = ""
    for number, line in enumerate(prose(text), 1):
        if columns and "|" in line:
            if cells(line) != columns:
                errors.append(f"{number}: {cells(line)} cells below a header of {columns}")
        elif DELIMITER.match(line) and "|" in before:
            columns = cells(before)
            if cells(line) != columns:
                errors.append(f"{number}: {cells(line)} delimiters below a header of {columns}")
        else:
            columns = 0
        before = line
    return errors


def citation_errors(text: str) -> list[str]:
    """`line: error` for every citation that is not linked, or linked to another paper."""
    errors = []
    for number, line in enumerate(prose(text), 1):
        line = re.sub(r"(`+)(?!`).+?\1", "", line)
        for linked, paper in re.findall(r"\[arXiv:([^\]]*)\]\(([^)]*)\)", line):
            if paper != f"https://arxiv.org/abs/{linked}":
                errors.append(f"{number}: arXiv:{linked} is linked to {paper}")
        if re.search(r"arXiv:\S*\d", re.sub(r"\[[^\]]*\]\([^)]*\)", "", line)):
            errors.append(f"{number}: a citation without a link: run scripts/make_math_pages.py")
    return errors


def link_errors(page: Path) -> list[str]:
    """`line: error` for every link to a file that does not exist, relative to the page."""
    errors = []
    for number, line in enumerate(prose(page.read_text()), 1):
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"(`+)(?!`).+?\1", "", line)):
            path = target.partition("#")[0]
            if path and "://" not in target and not (page.parent / path).exists():
                errors.append(f"{number}: {target} does not exist")
    return errors


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page):
    assert link_errors(page) == []


def test_a_link_to_nothing_is_an_error(tmp_path):
    page = tmp_path / "text.md"
    page.write_text("[here](text.md#part), [there](other.md#part), `[code](none.md)`")
    assert link_errors(page) == ["1: other.md#part does not exist"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_formulas_are_rendered_by_github(page):
    assert page_errors(page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_tables_keep_their_cells(page):
    assert table_errors(page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_citations_are_links(page):
    assert citation_errors(page.read_text()) == []


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("| a | b |\n|---|---|\n| `q(x|y)` | c |", "3: 3 cells below a header of 2"),
        ("a | b\n---|---\nc", None),
        ("| a | b |\n|---|---|\n| c |", "3: 1 cells below a header of 2"),
        ("| a | b |\n|---|\n| c | d |", "2: 1 delimiters below a header of 2"),
        (r"| a |" + "\n|---|\n" + r"| `x \| y` |", None),
        ("```\n| a |\n|---|\n| b | c |\n```", None),
    ],
)
def test_a_cell_too_many_or_too_few_is_an_error(text, error):
    assert table_errors(text) == ([error] if error else [])


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("Ho 2020, arXiv:2006.11239, eq. 4", "1: a citation without a link"),
        (
            "[arXiv:2006.11239](https://arxiv.org/abs/2006.11240)",
            "1: arXiv:2006.11239 is linked to",
        ),
        ("[arXiv:2006.11239](https://arxiv.org/abs/2006.11239), [a](b)", None),
        ("`arXiv:2006.11239`", None),
        ("```\narXiv:2006.11239\n```", None),
    ],
)
def test_a_citation_without_its_link_is_an_error(text, error):
    errors = citation_errors(text)
    assert [e[: len(error or "")] for e in errors] == ([error] if error else [])


def test_pages_with_formulas_are_found():
    assert sum("```math\n" in page.read_text() for page in PAGES) > 5


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("so $x$ is", "a dollar outside of code"),
        ("$$x$$", "a dollar outside of code"),
        ("$$\nx\n+ y\n$$", "a dollar outside of code"),
        ("it costs $5", "a dollar outside of code"),
        ("a formula $`x\nthat wraps`$", "a dollar outside of code"),
        (r"$`\operatorname{sg}`$", "operatorname"),
        ("```math\n\\operatorname{sg}\n```", "operatorname"),
        ("```math\nx", "never closed"),
        ("```math\nx\n```math\ny\n```", "a blank line or a fence"),
        ("```math\nx\n\ny\n```", "a blank line or a fence"),
        ("```math\n```", "an empty formula"),
        ("```math\n$x$\n```", "a dollar in a formula"),
        ("```math\n\\frac{1}{2\n```", "braces"),
        ("$`\\left(x)`$", "left and"),
        ("the$`x`$", "touches"),
        ("1$`x`$", "touches"),
        ("non-$`x`$", "touches"),
        ("$`x`$th", "touches"),
        ("$`x`$`code`", "touches"),
        ("$`a<b`$", "spaces on both sides"),
        ("[the $`x`$](page.md)", "in the text of a link"),
        ("| $`p(x|y)`$ | a |", "ends a cell"),
    ],
)
def test_what_github_does_not_render_is_an_error(text, error):
    assert any(error in line for line in page_errors(text)), page_errors(text)


@pytest.mark.parametrize(
    "text",
    [
        "($`x`$, $`p(x | y)`$) is $`\\{y\\}`$.",
        "**$`x`$**",
        "$`x`$ $`y`$",
        "| $`p(x \\mid y)`$ | a |",
        "```math\nx\n+ y, \\quad a < b\n```",
        "- a list\n\n  ```math\n  x\n  ```",
        "```bash\necho $HOME\n```",
        "the variable `$HOME`, and ``a ` $x$``",
    ],
)
def test_what_github_renders_is_no_error(text):
    assert page_errors(text) == []
