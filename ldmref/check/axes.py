"""Say which axis of a shape is wrong."""

from __future__ import annotations

Lengths = tuple[int, ...]


def axis_text(got: Lengths, expected: Lengths) -> str:
    """Say which axis of a shape is wrong.

    >>> axis_text((2, 5, 3), (2, 4, 3))
    'axis 1 has 5 entries, not 4'
    >>> axis_text((2, 3), (2, 4, 3)), axis_text((2, 3, 4), (2, 4, 3))
    ('axis 1, of 4 entries, is missing', 'axes 1 and 2 are exchanged')
    >>> axis_text((2, 1, 3), (2, 3))
    'axis 1, of 1 entry, is too many'
    """
    if len(got) == len(expected):
        wrong = [axis for axis in range(len(got)) if got[axis] != expected[axis]]
        if len(wrong) == 2 and [got[a] for a in wrong] == [expected[a] for a in wrong[::-1]]:
            return f"axes {wrong[0]} and {wrong[1]} are exchanged"
        texts = [f"axis {a} has {_entries(got[a])}, not {expected[a]}" for a in wrong]
        return ", ".join(texts)
    longer, shorter = sorted((got, expected), key=len, reverse=True)
    verdict = "missing" if longer == expected else "too many"
    axes = _left_out(longer, shorter)
    if axes:
        one_of = "one of the axes " if len(axes) > 1 else "axis "
        names = " and ".join(map(str, axes))
        return f"{one_of}{names}, of {_entries(longer[axes[0]])}, is {verdict}"
    more = len(longer) - len(shorter)
    return f"{more} {'axis is' if more == 1 else 'axes are'} {verdict}"


def _left_out(longer: Lengths, shorter: Lengths) -> list[int]:
    """Return the axes without which a shape is another one."""
    return [a for a in range(len(longer)) if longer[:a] + longer[a + 1 :] == shorter]


def _entries(count: int) -> str:
    return f"{count} {'entry' if count == 1 else 'entries'}"
