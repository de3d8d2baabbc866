"""docs/train-it-yourself.md runs as it is written, with two steps of each training."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "train-it-yourself.md"
CHAPTER = runpy.run_path(str(ROOT / "scripts" / "run_chapter.py"))
MOST_BYTES = 400_000  # of all images of the page


@pytest.mark.slow
def test_the_chapter_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPS", "2")
    outputs = CHAPTER["run"](PAGE, tmp_path)
    text = PAGE.read_text()
    for path in CHAPTER["images"](PAGE):
        with Image.open(tmp_path / path.name) as now, Image.open(path) as shown:
            assert now.size == shown.size, path.name
    blocks = list(CHAPTER["BLOCK"].finditer(text))
    assert len(blocks) == len(outputs) > 6
    for block, output in zip(blocks[1:], outputs[1:], strict=True):  # the first reports progress
        shown = block["output"] or ""
        assert CHAPTER["hide_numbers"](shown) == CHAPTER["hide_numbers"](output)


def test_the_images_are_small():
    files = CHAPTER["images"](PAGE)
    assert len(files) == len(set(files)) > 5
    assert sum(path.stat().st_size for path in files) < MOST_BYTES


def test_outputs_replace_those_on_the_page():
    page = "a\n```python\nx\n```\n\n```text\nold\n```\nb\n```python\ny\n```\nc\n"
    want = page.replace("old", "new \\1")
    assert CHAPTER["with_outputs"](page, ["new \\1\n", "not shown\n"]) == want
