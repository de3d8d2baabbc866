"""Write docs/stable-names.md from docs/stable_names.toml.

    python scripts/make_stable_names.py

`tests/docs/test_stable_names.py` compares the page with what this writes, and the table with the
package and with the pages for those who write packages.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ldmref.support.renames import RENAMES, Rename

DOCS = Path(__file__).resolve().parents[1] / "docs"
START = """# Names that packages build on

*Made by* `python scripts/make_stable_names.py`.

A family, a sampler, a guidance, a schedule or a backend of your own is a package that ldmref finds
by its entry point: [a family](add-a-family.md), [a sampler](write-a-sampler.md),
[a backend](write-a-backend.md), [a formula](add-a-formula.md). These are the names that such a
package imports, each from one address. They hold from the version in the last column on.

A name that is renamed stays under its old address for one minor version, with a
`DeprecationWarning` that says the new one: tests that run with `-W error::DeprecationWarning` show
whether a package uses one. The packages of earlier versions, as their pages described them, are
kept unchanged in `tests/plugins/published` and are tried against today's code.

| address | for | names | since |
|---|---|---|---|
"""
RENAMED = """
## Renamed

| former name | new name | since | gone in |
|---|---|---|---|
"""


def make_page(renames: dict[str, Rename] = RENAMES) -> str:
    """Return the text of the page."""
    table = tomllib.loads((DOCS / "stable_names.toml").read_text("utf-8"))["names"]
    rows = []
    for group in table:
        names = ", ".join(f"`{name}`" for name in group["names"])
        rows.append(f"| `{group['address']}` | {group['subject']} | {names} | {group['since']} |\n")
    old = [f"| `{k}` | `{x.name}` | {x.since} | {x.end} |\n" for k, x in sorted(renames.items())]
    return START + "".join(rows) + (RENAMED + "".join(old) if old else "")


if __name__ == "__main__":
    (DOCS / "stable-names.md").write_text(make_page(), "utf-8")
