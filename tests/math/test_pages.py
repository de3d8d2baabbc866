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


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "math" / "README.md").read_text()
    pages = {p.name for p in (ROOT / "docs" / "math").glob("*.md")} - {"README.md"}
    assert {p for p in pages if f"({p})" in index} == pages
