"""The pages of families are those of the declarations, with what no declaration says."""

from __future__ import annotations

import re
import runpy
import sys

import pytest
from blocks import ROOT

from ldmref.models.family import BUILT_IN

SCRIPTS = ROOT / "scripts"
FOLDER = ROOT / "docs" / "families"


@pytest.fixture(scope="module")
def made():
    """The functions of the script, which imports others of its folder."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield runpy.run_path(str(SCRIPTS / "make_family_pages.py"))
    finally:
        sys.path.remove(str(SCRIPTS))


def test_the_pages_of_families_are_up_to_date(made):
    texts = made["make_pages"]()
    stale = [
        path.name
        for path, text in texts.items()
        if not path.exists() or path.read_text("utf-8") != text
    ]
    assert not stale, "run python scripts/make_family_pages.py"


def test_every_family_has_a_page_that_introduces_it():
    """What no declaration says is written: the makers, and what the blocks compute."""
    assert {path.stem for path in FOLDER.glob("*.md")} == {*BUILT_IN, "README"}
    for name in BUILT_IN:
        text = (FOLDER / f"{name}.md").read_text("utf-8")
        introduction = re.search(r"\A# .+\n\n(.+?)\n\n!\[", text, re.DOTALL)
        blocks_written = text.partition("## The blocks\n")[2].partition("\n## ")[0]
        assert introduction and len(introduction[1].split()) > 20, name
        assert len(blocks_written.split()) > 40, name


def test_a_new_family_gets_a_page_with_every_table(made):
    facts = made["family_facts"].read_families()[1]
    page = made["SKELETON"].format(title=facts.title, summary=facts.summary, name=facts.name)
    filled = made["fill_tables"](
        page, {name: (lambda make=make: make(facts)) for name, make in made["TABLES"].items()}
    )
    assert "| `sd35-large` | 8,146 M |" in filled and "image, text" in filled
