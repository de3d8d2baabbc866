"""The chain formula -> function -> source -> oracle -> test is whole, and the pages show it."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = runpy.run_path(str(ROOT / "scripts" / "make_math_pages.py"))


def test_no_link_is_missing():
    assert PAGES["missing"]() == []


@pytest.mark.parametrize("page", sorted(PAGES["identities_by_page"]()))
def test_page_is_up_to_date(page):
    path = ROOT / "docs" / "math" / f"{page}.md"
    assert path.read_text() == PAGES["page_text"](page), "run python scripts/make_math_pages.py"


@pytest.mark.parametrize("page", sorted(PAGES["identities_by_page"]()))
def test_page_has_its_plot(page):
    assert f"(plots/{page}.png)" in (ROOT / "docs" / "math" / f"{page}.md").read_text()
    assert (ROOT / "docs" / "math" / "plots" / f"{page}.png").is_file()
    assert (ROOT / "scripts" / "math_plots" / f"{page}.py").is_file()


def test_bars_are_escaped_in_every_cell_once():
    assert PAGES["row"](["q(x|y)", r"q(x \| y)", "plain"]) == r"| q(x\|y) | q(x \| y) | plain |"


def test_citations_become_links_except_in_code_and_formulas_and_only_once():
    linked = PAGES["linked"]
    link = "[arXiv:2006.11239](https://arxiv.org/abs/2006.11239)"
    once = linked("Ho 2020, arXiv:2006.11239. arXiv:physics/9806030, eq. 1")
    assert once.startswith(
        f"Ho 2020, {link}. [arXiv:physics/9806030](https://arxiv.org/abs/physics/"
    )
    assert linked(once) == once
    for verbatim in (
        "`arXiv:2006.11239`",
        "```\narXiv:2006.11239\n```",
        "[arXiv:2006.11239](x.md)",
    ):
        assert linked(verbatim) == verbatim


def test_papers_are_those_that_are_cited():
    cited = set()
    for path in [*(ROOT / "docs").rglob("*.md"), *(ROOT / "ldmref").rglob("*.py")]:
        cited.update(PAGES["CITATION"].findall(path.read_text()))
    assert set(PAGES["PAPERS"]) <= cited
    by_docstrings = {
        n
        for name in PAGES["public_names"]()
        for n in PAGES["CITATION"].findall(PAGES["source_of"](name))
    }
    assert by_docstrings <= set(PAGES["PAPERS"]), "add the paper to docs/math/references.toml"


def test_pages_do_not_change_with_the_number_of_tests():
    tests = PAGES["chain"]()["q_sample"]["tests"]
    assert "math/test_forward.py" in tests and len(tests) == len(set(tests))


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "math" / "README.md").read_text()
    pages = {p.name for p in (ROOT / "docs" / "math").glob("*.md")} - {"README.md"}
    assert {p for p in pages if f"({p})" in index} == pages


def test_the_page_of_differences_is_up_to_date():
    path = ROOT / "docs" / "math" / "differences.md"
    assert path.read_text() == PAGES["differences_text"](), "run python scripts/make_math_pages.py"
