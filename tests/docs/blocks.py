"""The fenced blocks of the Markdown pages."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "ldmref", "benchmarks", "examples", "tests")
FENCE = re.compile(r" *(?P<fence>`{3,}|~{3,})(?P<language>[^`]*)$")
SHELL = ("", "sh")  # languages of blocks of commands


class Block(NamedTuple):
    """A fenced block: its page, the number of its first line, its language and its text."""

    page: str
    line: int
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Return the commands of a shell block: its lines, continued ones joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.startswith("#")]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Return every Markdown page of the project, relative to its root."""
    found = [*ROOT.glob("*.md"), *(path for f in FOLDERS for path in (ROOT / f).rglob("*.md"))]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def blocks(page: str, text: str | None = None) -> list[Block]:
    """Return the blocks of a page that are not formulas, in their order."""
    text = (ROOT / page).read_text("utf-8") if text is None else text
    found: list[Block] = []
    fence = ""
    language = ""
    first = 0
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        match = FENCE.match(line)
        if not fence and match:
            fence = match["fence"]
            language = match["language"].strip()
            first = number
            lines = []
        elif fence and match and match["fence"].startswith(fence):
            block = Block(page, first + 1, language, textwrap.dedent("\n".join(lines)) + "\n")
            if language != "math":
                found.append(block)
            fence = ""
        elif fence:
            lines.append(line)
    return found
