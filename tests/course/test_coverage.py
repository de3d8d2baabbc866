"""coverage.md names, for each part of the theory, a section of the course that teaches it.

A section that exists may say nothing: each row has words that its sections must contain.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
from course_pages import COURSE, number_of, pages

PAGE = Path(__file__).with_name("coverage.md")
ROW = re.compile(r"^\| (?P<part>[^|]+) \| (?P<links>\[[^|]+) \| (?P<words>`[^|]+`) \|$", re.M)
LINK = re.compile(r"\]\((?P<file>[\w.-]+\.md)#(?P<anchor>[\w-]+)\)")
HEADING = re.compile(r"^(#+) (.+)$", re.M)
PARTS = 91
ANALOGY = re.compile(
    r"^\*\*An analogy: ([^*]+)\.\*\*(.+?)\*\*Where it breaks\.\*\*(.+?)\n\n", re.M | re.S
)


def rows():
    found = ROW.finditer(PAGE.read_text("utf-8"))
    return [(row["part"], row["links"], re.findall("`([^`]+)`", row["words"])) for row in found]


@functools.cache
def sections(text):
    """Return the text of each section by GitHub's anchor, without headings and comments.

    A section ends at the next heading of its own level or above.
    """
    hidden = re.sub(r"^```.*?^```$", lambda m: re.sub(r"[^\n]", ".", m[0]), text, flags=re.M | re.S)
    headings = list(HEADING.finditer(hidden))
    for heading in headings:
        text = text[: heading.start()] + " " * len(heading[0]) + text[heading.end() :]
    found = {}
    for i, heading in enumerate(headings):
        level = len(heading[1])
        later = (h.start() for h in headings[i + 1 :] if len(h[1]) <= level)
        body = text[heading.end() : next(later, len(text))]
        anchor = re.sub(r"[^\w\- ]", "", heading[2].replace("`", "").lower()).replace(" ", "-")
        found[anchor] = plain(re.sub(r"<!--.*?-->", "", body, flags=re.S))
    return found


def plain(text):
    """Return a text in lower case with single spaces and without marks of emphasis."""
    return re.sub(r"\s+", " ", text.lower().replace("**", ""))


def missing(links, words, read=lambda name: (COURSE / name).read_text("utf-8")):
    """Return what is wrong with a row: sections that do not exist or say nothing, lost words."""
    texts = {}
    for link in LINK.finditer(links):
        found = sections(read(link["file"]))
        if link["anchor"] not in found:
            return [f"no section {link['file']}#{link['anchor']}"]
        texts[link["anchor"]] = found[link["anchor"]]
    words = [plain(word) for word in words]
    lost = [f"no section says {w!r}" for w in words if not any(w in t for t in texts.values())]
    silent = [f"{a} says none" for a, text in texts.items() if not any(w in text for w in words)]
    return lost + silent


def test_every_part_has_a_row_of_its_own():
    parts = [part for part, _, _ in rows()]
    assert len(parts) == len(set(parts)) == PARTS
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    assert len(lines) == PARTS + 1, "a row without a link or without words"


def test_every_part_is_taught_by_its_sections():
    wrong = {part: found for part, links, words in rows() if (found := missing(links, words))}
    assert not wrong


def test_every_chapter_teaches_a_part():
    taught = {link["file"] for _, links, _ in rows() for link in LINK.finditer(links)}
    assert {page.name for page in COURSE.glob("[01][0-9]-*.md")} <= taught


@pytest.mark.parametrize("page", pages(), ids=number_of)
def test_a_chapter_has_one_short_analogy_that_says_where_it_breaks(page):
    text = page.read_text("utf-8")
    found = ANALOGY.findall(text)
    assert len(found) == text.count("**An analogy") == text.count("**Where it breaks") == 1
    name, picture, limit = found[0]
    assert 2 <= len(name.split()) <= 6
    assert 15 <= len(picture.split()) <= 60
    assert 15 <= len(limit.split()) <= 75


@pytest.mark.parametrize(
    ("links", "words", "expected"),
    [
        ("[a](x.md#causal)", ["a **mask**"], []),
        ("[a](x.md#causal)", ["pooled"], ["no section says 'pooled'", "causal says none"]),
        ("[a](x.md#causal), [b](x.md#next)", ["mask"], ["next says none"]),
        ("[a](x.md#gone)", ["mask"], ["no section x.md#gone"]),
        ("[a](x.md#causal)", ["causal"], ["no section says 'causal'", "causal says none"]),
        ("[a](x.md#top)", ["unseen"], []),
    ],
)
def test_a_row_is_wrong_if_its_section_lacks_its_words(links, words, expected):
    text = "# Top\n\n## Causal\n\nA\nmask.\n<!-- pooled -->\n\n## Next\n\nUnseen.\n"
    assert missing(links, words, {"x.md": text}.__getitem__) == expected
