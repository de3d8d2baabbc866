"""The sidebar and llms.txt: both have the sections and the order of docs/README.md."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

COURSE = "course/index.md"
SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
ROW = re.compile(r"^\| \[([^\]]+)\]\(([^)#]+\.md)\) \| (.+?) \|$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:]+\.md)\)")


class Entry(NamedTuple):
    """A row of a table of docs/README.md: a page, its place and one line about it."""

    title: str
    place: str
    summary: str


def read_sections(index: str) -> dict[str, list[Entry]]:
    """Return the entries of each section of the first page."""
    parts = SECTION.split(index)
    return {
        title: [Entry(*row) for row in ROW.findall(body)]
        for title, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def toctree(lines: Iterable[str], caption: str = "") -> str:
    """Return a table of contents for the sidebar that the page itself does not show."""
    names = "\n".join(line.replace(".md", "") for line in lines)
    option = f":caption: {caption}\n" if caption else ""
    return f"\n```{{toctree}}\n:hidden:\n{option}\n{names}\n```\n"


def with_sidebar(texts: dict[str, str]) -> dict[str, str]:
    """Return the pages of a site, by their places, with the tables of contents of the sidebar.

    The first page gets one for each of its sections, and the chapters of the course are in it. The
    index of another folder gets one of its other pages. All other pages that no section lists are
    outside of the sidebar.
    """
    texts = dict(texts)
    sections = read_sections(texts["index.md"])
    done = {entry.place for entries in sections.values() for entry in entries} | {"index.md"}
    for title, entries in sections.items():
        lines = []
        for entry in entries:
            if entry.place in texts:
                lines.append(f"{entry.title} <{entry.place}>")
            if entry.place == COURSE and COURSE in texts:
                lines += (own := own_pages(COURSE, texts, done))
                done |= {*own}
        texts["index.md"] += toctree(lines, title) if lines else ""
    for place in sorted(
        p for p in texts if p.endswith("/index.md") and "{toctree}" not in texts[p]
    ):
        own = own_pages(place, texts, done)
        texts[place] += toctree([PurePosixPath(p).name for p in own]) if own else ""
        done |= {*own}
    for place in texts:
        in_api = place.startswith("api/") and "api/index.md" in texts
        if place not in done and not in_api:
            texts[place] = f"---\norphan: true\n---\n{texts[place]}"
    return texts


def own_pages(index: str, texts: dict[str, str], done: set[str]) -> list[str]:
    """Return the other pages of an index's folder: those of its tables, then those of its text."""
    folder = PurePosixPath(index).parent
    inside = [p for p in sorted(texts) if PurePosixPath(p).parent == folder and p != index]
    lines = sorted(texts[index].splitlines(), key=lambda line: not line.startswith("|"))
    linked = [str(folder / link) for link in LINK.findall("\n".join(lines))]
    order = dict.fromkeys([*(p for p in linked if p in inside), *inside])
    return [p for p in order if p not in done]
