"""Two sections of docs/training.md run as they are written, with two steps of each training."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "training.md"
CHAPTER_TITLE, SETTINGS_TITLE = "Train it yourself", "Choose the settings"
CHAPTER = runpy.run_path(str(ROOT / "scripts" / "run_chapter.py"))
MOST_BYTES = 400_000  # of all images of the page


def compare(outputs, title, first=0):
    """Compare the outputs of a section's blocks with those on the page, without their numbers."""
    text = CHAPTER["split"](PAGE.read_text("utf-8"), title)[1]
    found = list(CHAPTER["BLOCK"].finditer(text))
    for block, output in zip(found[first:], outputs[first:], strict=True):
        shown = block["output"] or ""
        assert CHAPTER["hide_numbers"](shown) == CHAPTER["hide_numbers"](output)
        assert "nan" not in output
    return len(found)


@pytest.mark.slow
def test_the_chapter_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPS", "2")
    outputs = CHAPTER["run"](PAGE, tmp_path, section=CHAPTER_TITLE)
    for path in CHAPTER["images"](PAGE, CHAPTER_TITLE):
        with Image.open(tmp_path / path.name) as now, Image.open(path) as shown:
            assert now.size == shown.size, path.name
    assert compare(outputs, CHAPTER_TITLE, first=1) > 6  # the first block reports progress


def test_the_settings_run_twice(tmp_path, monkeypatch):
    """In the same folder: a reader who runs the blocks again finds what the first run left."""
    monkeypatch.setenv("STEPS", "2")
    for _ in range(2):
        outputs = CHAPTER["run"](PAGE, tmp_path, section=SETTINGS_TITLE)
        assert compare(outputs, SETTINGS_TITLE) == 3


def test_the_images_are_small():
    files = CHAPTER["images"](PAGE, CHAPTER_TITLE)
    assert len(files) == len(set(files)) > 5
    assert sum(path.stat().st_size for path in files) < MOST_BYTES


def test_a_section_ends_where_the_next_one_begins():
    page = "# T\n\n## A\n\na\n\n### B\n\nb\n\n## C\n\nc\n"
    before, section, after = CHAPTER["split"](page, "A")
    assert section == "\n## A\n\na\n\n### B\n\nb\n" and before + section + after == page
    assert CHAPTER["split"](page, "C")[2] == "" and CHAPTER["split"](page)[1] == page


def test_outputs_replace_those_on_the_page():
    page = "a\n```python\nx\n```\n\n```text\nold\n```\nb\n```python\ny\n```\nc\n"
    want = page.replace("old", "new \\1")
    assert CHAPTER["with_outputs"](page, ["new \\1\n", "not shown\n"]) == want
