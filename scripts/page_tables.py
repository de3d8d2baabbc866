"""Tables of pages that scripts write: between `<!-- table: NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any


def table(heading: str, rows: Iterable[Sequence[Any]]) -> str:
    """Return a table in Markdown.

    Args:
        heading: Its first line, "| a | b |".
        rows: The cells of each row.
    """
    columns = heading.count("|") - 1
    lines = [heading, "|---" * columns + "|"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join(lines)


def fill_tables(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """Return the text of a page with its tables.

    Args:
        text: The text of the page.
        tables: What makes each table, by its name in the page.
    """
    for name, make in tables.items():
        block = f"<!-- table: {name} -->\n{make()}\n<!-- end -->"
        pattern = rf"<!-- table: {name} -->\n.*?<!-- end -->"
        text, count = re.subn(pattern, lambda _, block=block: block, text, flags=re.DOTALL)
        assert count == 1, f"the page has no table {name}"
    return text
