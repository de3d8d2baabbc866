"""docs/course/coverage.md names a section of the course for each part of the theory."""

from __future__ import annotations

import re

import pytest
from course_pages import COURSE

PAGE = COURSE / "coverage.md"
ROW = re.compile(r"^\| (?P<concept>[^|]+) \| (?P<links>\[[^|]+) \|$", re.M)
LINK = re.compile(r"\]\((?P<file>[\w.-]+\.md)(?:#(?P<anchor>[\w-]+))?\)")
PARTS = 59  # the theory of latent diffusion in 59 parts


def rows():
    return [(row["concept"], row["links"]) for row in ROW.finditer(PAGE.read_text("utf-8"))]


def anchors(page):
    """List the anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", h.replace("`", "").lower()).replace(" ", "-") for h in headings}


def test_every_part_has_a_row_of_its_own():
    concepts = [concept for concept, _ in rows()]
    assert len(concepts) == len(set(concepts)) == PARTS


@pytest.mark.parametrize(("concept", "links"), rows(), ids=[concept for concept, _ in rows()])
def test_a_part_is_taught_in_a_section(concept, links):
    found = list(LINK.finditer(links))
    assert found
    for link in found:
        assert (COURSE / link["file"]).exists(), link["file"]
        assert link["anchor"] in anchors(COURSE / link["file"]), link["anchor"]


def test_every_chapter_teaches_a_part():
    taught = {link["file"] for _, links in rows() for link in LINK.finditer(links)}
    assert {page.name for page in COURSE.glob("[01][0-9]-*.md")} <= taught
