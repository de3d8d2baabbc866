"""Write docs/pitfalls.md from assets/pitfalls.toml, the table of causes and differences.toml.

    python scripts/make_pitfalls.py

`tests/locate/test_pitfalls.py` compares the page with what this writes.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ldmref.differences import read_differences
from ldmref.locate.pitfalls import Pitfall, list_causes, read_pitfalls

PAGE = Path(__file__).resolve().parents[1] / "docs/pitfalls.md"
START = """# Pitfalls of ports

*One file for people and coding agents who write a diffusion model anew, made by*
`python scripts/make_pitfalls.py`.

Each row is a mistake that somebody made in public: what was seen, what it was, what to compute to
know, and the number that then came out. Search them with `ldmref pitfalls WORDS`, also with
`--json`, or with the tool `find_pitfalls` of [`ldmref mcp`](mcp.md).
[`ldmref diff`](find-where-my-port-differs.md) computes the layers of a port again and tries the
causes of the last table but one by itself; [Port a layer or a
block](port-a-layer.md) begins a port.

```
ldmref pitfalls                       # all, by subject
ldmref pitfalls padding mask          # those that contain both words
```
"""
REASONABLE = "Reasonable, but not this model"
ABOUT_REASONABLE = """
The change is right in itself, or better, and the published weights were made without it: with it,
the port is another model.
"""
CAUSES = """
## Causes that `ldmref diff` tries

On a layer that differs, each of these is computed in its place. The one that explains the numbers
is named.

| function of `ldmref.locate.faults` | concerns | computes | happened |
|---|---|---|---|
"""
DIFFERENCES = """
## Where implementations differ

Programs differ from the definitions, and from each other, without being ports. `ldmref differences`
prints these rows with the tests that show them, and [the page](math/differences.md) explains them.

| programs | difference | number |
|---|---|---|
"""


def make_page() -> str:
    """Return the page."""
    parts = [START]
    rows = read_pitfalls()
    for subject in dict.fromkeys(row.subject for row in rows):
        about = ABOUT_REASONABLE if subject == REASONABLE else ""
        parts.append(f"\n## {subject}\n{about}\n| seen | what it was | test | number | thread |\n")
        parts.append("|---|---|---|---|---|\n")
        parts += [make_row(row) for row in rows if row.subject == subject]
    parts.append(CAUSES)
    for cause in list_causes():
        cells = (f"`{cause.name}`", cause.concerns, cause.changes, cause.source)
        parts.append(f"| {' | '.join(map(escape, cells))} |\n")
    parts.append(DIFFERENCES)
    for row in read_differences():
        # Links of the table lead from docs/math, where its own page is.
        linked = re.sub(r"\]\((?=[\w-]+\.md)", "](math/", row.difference)
        cells = (", ".join(row.programs), linked, row.number)
        parts.append(f"| {' | '.join(cells)} |\n")
    return "".join(parts)


def make_row(row: Pitfall) -> str:
    """Return the line of a pitfall."""
    links = zip(row.threads, row.links, strict=True)
    threads = ", ".join(f"[{name.partition('/')[2]}]({link})" for name, link in links)
    cells = (*map(escape, (row.symptom, row.hypothesis, row.test, row.number)), threads)
    return f"| {' | '.join(cells)} |\n"


def escape(text: str) -> str:
    """Return text for a cell of a table."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(make_page(), "utf-8")
