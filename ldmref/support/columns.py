"""Tables of text with aligned columns."""

from __future__ import annotations

from collections.abc import Sequence


def align_columns(rows: Sequence[Sequence[str]], *, right: bool = False) -> list[str]:
    """Return rows of equally many cells as lines, without spaces at their ends.

    Args:
        rows: The cells.
        right: Whether all columns but the first are aligned to the right, as numbers are.

    >>> align_columns([["layer", "error"], ["conv_in", "0.5"]], right=True)
    ['layer    error', 'conv_in    0.5']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    place = str.rjust if right else str.ljust
    lines = []
    for first, *rest in rows:
        cells = (place(cell, width) for cell, width in zip(rest, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return lines
