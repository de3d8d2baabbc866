"""Check the built site: links and anchors lead somewhere, and pages load nothing from elsewhere."""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s:#]+\.md)(#[^()\s]*)?\)")
LINE = re.compile(r'<span id="L\d+">')


class Page(HTMLParser):
    """The ids, the links and the resources that a page loads."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[key] for key in ("id", "name") if key in values}
        if tag == "a" and "href" in values:
            self.links.add(values["href"])
        elif tag == "link" and "href" in values:
            self.loads.add(values["href"])
        elif "src" in values:
            self.loads.add(values["src"])


def check(folder: Path) -> list[str]:
    """Return a line for every link of a site that leads nowhere.

    Of the pages of files (`sources.py`), only the anchors are read: their links are the sidebar.
    """
    found: dict[Path, Page] = {}
    for path in sorted(folder.rglob("*.html")):
        text = path.read_text("utf-8")
        is_file = path.relative_to(folder).parts[0] == "source"
        found[path] = Page("".join(LINE.findall(text)) if is_file else text)
    errors = []
    for path, page in found.items():
        name = path.relative_to(folder)
        errors += [f"{name}: loads {url}" for url in page.loads if re.match(r"(https?:)?//", url)]
        for url in sorted(page.links | page.loads):
            if re.match(r"[a-z]+:|//", url):
                continue
            file, _, anchor = unquote(url).partition("#")
            file = file.partition("?")[0]
            target = path if not file else Path(os.path.normpath(path.parent / file))
            if target not in found and not target.is_file():
                errors.append(f"{name}: no file for {url}")
            elif anchor and target in found and anchor not in found[target].ids:
                errors.append(f"{name}: no anchor for {url}")
    return errors


def without_targets(text: str, place: str, kept: set[str]) -> str:
    """Return a page in which links to pages that are not kept are plain text."""
    folder = PurePosixPath(place).parent

    def keep(match: re.Match[str]) -> str:
        target = os.path.normpath(folder / match[3])
        return match[0] if target in kept else match[2]

    return LINK.sub(keep, text)
