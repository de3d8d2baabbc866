"""The outputs that pages show are those that their Python blocks print."""

from __future__ import annotations

import contextlib
import io
import runpy
from pathlib import Path

import pytest
from blocks import ROOT

CHAPTER = runpy.run_path(str(ROOT / "scripts" / "run_chapter.py"))


PAGES = {  # a page, and the section that has outputs; "": the whole page
    "docs/start.md": "",
    "docs/checkpoints.md": "Files of ldmref",
    "docs/flow-schedules.md": "",
}


@pytest.mark.parametrize("page", PAGES)
def test_outputs_are_those_that_blocks_print(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = CHAPTER["split"](Path(ROOT / page).read_text("utf-8"), PAGES[page])[1]
    found = list(CHAPTER["BLOCK"].finditer(text))
    last = max(i for i, block in enumerate(found) if block["output"])
    names: dict[str, object] = {}
    for block in found[: last + 1]:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block["code"], page, "exec"), names)
        assert printed.getvalue() == (block["output"] or "")
