"""Each chapter of the course runs as it is written, with two steps of each training."""

from __future__ import annotations

import re
import runpy

import pytest
from course_pages import COURSE, ROOT, number_of, pages, planned
from PIL import Image

RUNNER = runpy.run_path(str(ROOT / "scripts" / "run_chapter.py"))
MOST_BYTES = 60_000  # of an image
TORCH = re.compile(r"^\s*(import torch|from torch|from ldmref\.training import .*\btrain\b)", re.M)
LONG = frozenset({"06", "08", "09", "11"})  # more than ten seconds of processor time


CHAPTERS = [
    pytest.param(
        page,
        id=number_of(page),
        marks=[pytest.mark.slow] if number_of(page) in LONG else [],
    )
    for page in pages()
]


def code(page):
    return [block["code"] for block in RUNNER["BLOCK"].finditer(page.read_text("utf-8"))]


@pytest.mark.parametrize("page", CHAPTERS)
def test_a_chapter_runs(page, tmp_path, monkeypatch):
    if TORCH.search("\n".join(code(page))):
        pytest.importorskip("torch", reason=f"chapter {number_of(page)} trains: torch is missing")
    monkeypatch.setenv("STEPS", "2")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    outputs = RUNNER["run"](page, tmp_path)
    for path in RUNNER["images"](page):
        with Image.open(tmp_path / path.name) as now, Image.open(path) as shown:
            # tight margins follow the labels, which are numbers of a short training here
            assert now.size == pytest.approx(shown.size, rel=0.1), path.name
    blocks = list(RUNNER["BLOCK"].finditer(page.read_text("utf-8")))
    assert len(blocks) == len(outputs) > 1
    for block, output in zip(blocks, outputs, strict=True):
        if block["output"] is not None:
            assert RUNNER["hide_numbers"](block["output"]) == RUNNER["hide_numbers"](output)
        elif "on_progress" not in block["code"]:  # a training reports how long it takes
            assert not output.strip(), f"printed, but not on the page: {output[:200]}"


@pytest.mark.parametrize("page", pages(), ids=number_of)
def test_the_plots_are_small_and_described(page):
    text = page.read_text("utf-8")
    shown = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text)
    assert shown, "a chapter shows what its code computes"
    for alternative, name in shown:
        path = page.parent / name
        assert path.is_file(), name
        assert path.stat().st_size < MOST_BYTES, name
        assert len(alternative.split()) >= 4, f"{name} has no description"


@pytest.mark.parametrize("page", pages(), ids=number_of)
def test_a_chapter_has_its_parts(page):
    text = page.read_text("utf-8")
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.M)
    assert headings[0].startswith(f"{int(number_of(page))} "), headings[0]
    assert {"Sources", "Summary", "Exercises"} <= set(headings)


def test_every_chapter_of_the_plan_exists():
    names = [page.name for page in pages()]
    assert len(planned()) == 16 and set(names) <= set(planned())
    missing = sorted(set(planned()) - set(names))
    assert not missing


def test_images_belong_to_a_page():
    used = {path.name for page in COURSE.glob("*.md") for path in RUNNER["images"](page)}
    assert {path.name for path in (COURSE / "images").glob("*.png")} <= used
