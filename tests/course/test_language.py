"""Phrases that are no English, and that readers stumbled over, do not come back to the pages."""

from __future__ import annotations

import re

from course_pages import ROOT

PHRASES = (
    "promises more than it holds", "which door", "second door", "the commonest",
    "that everybody knows",
    "something else than", "is the same knowledge", "further than needed", "in decibels below",
    "forget errors", "only add distance", "does not understand is avoided", "that is the plan of",
    "from scores to noises", "theorem on denoising that", "the data in first place",
)  # fmt: skip
FOLDERS = """
    README.md CONTRIBUTING.md SECURITY.md docs/*.md docs/math/*.md docs/course/*.md
""".split()


def prose(text):
    """Return a page in lower case without blocks of code, on one line."""
    return " ".join(re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S).lower().split())


def test_pages_have_none_of_these_phrases():
    pages = [path for pattern in FOLDERS for path in ROOT.glob(pattern)]
    assert len(pages) > 60
    texts = {path: prose(path.read_text("utf-8")) for path in pages}
    assert {
        path.name: phrase for path, text in texts.items() for phrase in PHRASES if phrase in text
    } == {}
