"""The table of the pages: every block that does not simply run has a row, and every row a block."""

from __future__ import annotations

import pytest
from blocks import ROOT, SHELL, Block, blocks
from table import ALL, EXCEPTIONS, PAGES, reason_of, rows_of, units


@pytest.mark.parametrize("page", sorted(EXCEPTIONS))
def test_every_row_of_the_table_is_about_something(page):
    texts = [text for _, text in units(page)]
    used = {rows_of(page, text)[0] for text in texts if rows_of(page, text)}
    assert used == {*EXCEPTIONS[page]}
    for reason in EXCEPTIONS[page].values():
        if reason.kind == "elsewhere":
            assert (ROOT / reason.detail).is_file()


@pytest.mark.parametrize("page", sorted(PAGES))
def test_every_page_of_the_table_has_blocks(page):
    assert page in ALL


@pytest.mark.parametrize("page", ALL)
def test_languages(page):
    """A block that does not hold commands names its language; outputs have a row in the table."""
    for block in blocks(page):
        if block.language not in SHELL:
            known = ("python", "toml", "console", "json", "text")
            assert block.language in known, f"{block}: {block.language} is none of {known}"
            if block.language in ("console", "json", "text"):
                assert reason_of(page, block.text), f"{block}: table.py has no row for this output"
            continue
        for command in block.commands:
            program = command.split()[0]
            programs = (
                ".",
                "cc",
                "curl",
                "ldmref",
                "make",
                "mkdir",
                "npm",
                "pip",
                "printf",
                "pytest",
                "python",
                "torchrun",
            )
            ok = program in programs or program.startswith("LDMREF_")
            assert ok, f"{block}: {command!r} is no command: write ```text or ```python"


def test_blocks_are_cut_out():
    text = (
        "a\n```\nx \\\n  y  # c\n# z\n\n```\n```math\nx\n```\n"
        "- b\n\n  ```python\n  if x:\n    y\n  ```\n"
    )
    first, second = blocks("p.md", text)
    assert first.commands == ["x    y  # c"] and (first.line, first.language) == (3, "")
    assert second == Block("p.md", 14, "python", "if x:\n  y\n")
