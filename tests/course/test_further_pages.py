"""The pages after the chapters run as they are written, and their exercises are marked."""

from __future__ import annotations

import re
import runpy

import pytest
from course_pages import COURSE, ROOT, load

import ldmref.check
from ldmref.backends import get_backend

RUNNER = runpy.run_path(str(ROOT / "scripts" / "run_chapter.py"))
TORCH = re.compile(r"^from ldmref\.training import ", re.M)
MOST_LINES = 250
ANSWER = re.compile(r"--only \"(?P<only>[^\"]+)\".*?```python\n(?P<code>.*?)```", re.S)


def further():
    """Return the pages of the table below that of the chapters."""
    _, _, table = (COURSE / "README.md").read_text("utf-8").partition("## Further pages")
    return [COURSE / name for name in re.findall(r"^\| \[.*?\]\(([\w-]+\.md)\)", table, re.M)]


@pytest.mark.parametrize("page", further(), ids=lambda page: page.stem)
def test_a_page_runs_twice(page, tmp_path, monkeypatch):
    """In the same folder: a reader who runs the blocks again finds what the first run left."""
    blocks = list(RUNNER["BLOCK"].finditer(page.read_text("utf-8")))
    trains = TORCH.search("".join(block["code"] for block in blocks))
    if trains:
        pytest.importorskip("torch", reason=f"{page.stem} trains: torch is missing")
    monkeypatch.setenv("STEPS", "2")
    for _ in range(2):
        outputs = RUNNER["run"](page, tmp_path)
        for block, output in zip(blocks, outputs, strict=True):
            shown = block["output"] or ""
            assert RUNNER["hide_numbers"](shown) == RUNNER["hide_numbers"](output)
            assert "nan" not in output
        if not trains:
            break


@pytest.mark.parametrize("page", further(), ids=lambda page: page.stem)
def test_a_page_has_its_parts(page):
    text = page.read_text("utf-8")
    assert "\n## Exercise: " in text and "\n## Sources\n" in text
    assert "arxiv.org/abs/" in text and "```math" in text
    assert len(text.splitlines()) <= MOST_LINES
    assert "assert " in text or "--against answers.py" in text
    assert RUNNER["BLOCK"].search(text)


def test_answers_that_ldmref_marks_are_right(tmp_path):
    count = 0
    for page in further():
        for found in ANSWER.finditer(page.read_text("utf-8")):
            file = tmp_path / f"{page.stem}_{count}.py"
            file.write_text(found["code"])
            backend = get_backend("numpy", dtype="float64")
            results = list(
                ldmref.check.run(backend, against=load(file), cases=30, only=found["only"])
            )
            assert results and all(result.holds for result in results)
            count += 1
    assert count


def test_every_page_of_the_course_is_listed():
    listed = {page.name for page in further()}
    others = {"README.md", "capstone.md", "glossary.md", "notation.md"}
    chapters = {page.name for page in COURSE.glob("[0-9][0-9]-*.md")}
    assert {page.name for page in COURSE.glob("*.md")} == listed | others | chapters
