"""Check before a release that all files name the same version.

    python scripts/check_release.py v1.0.0

The tag, `ldmref/support/version.py`, CITATION.cff and the newest section of CHANGELOG.md
must agree, and the section must have a date. Exits with code 1 and one line for each disagreement.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def find(file: str, pattern: str) -> str:
    """Return the first match of a pattern in a file, "" if there is none."""
    match = re.search(pattern, (ROOT / file).read_text("utf-8"), re.MULTILINE)
    return match[1] if match else ""


def problems(tag: str) -> list[str]:
    """Return a line for everything that does not agree with the tag."""
    version = tag.removeprefix("v")
    section = find("CHANGELOG.md", r"^## (.+)$")
    stated = {
        "ldmref/support/version.py": find("ldmref/support/version.py", r'^__version__ = "([^"]+)"'),
        "CITATION.cff": find("CITATION.cff", r"^version: (.+)$"),
        "CHANGELOG.md": section.partition(" ")[0],
    }
    lines = [
        f"{file} says {found!r}, the tag {tag!r}"
        for file, found in stated.items()
        if found != version
    ]
    if not re.search(r"\(\d{4}-\d{2}-\d{2}\)$", section):
        lines.append(f"CHANGELOG.md: the section {section!r} does not end with a date")
    return lines


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python scripts/check_release.py TAG")
        return 2
    lines = problems(sys.argv[1])
    print("\n".join(lines) or f"{sys.argv[1]}: all files agree")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
