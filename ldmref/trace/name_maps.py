"""Maps from the names of another program to those of ldmref."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

from ldmref.errors import UsageError, short_repr

NUMBER = re.compile(r"[0-9]{1,6}")
NameMap: TypeAlias = Mapping[str, str] | Callable[[str], str | None]


def make_renamer(names: NameMap | None) -> Callable[[str], str | None]:
    """Return a function from a name to the name in ldmref; None if it is not known.

    Args:
        names: A function; or a mapping of names, which may be globs. A `*` stands for any text, and
            the `*` of the new name stand for the same texts in order; `{1}`, `{2}` for the first
            and second one in another order. Exact names are tried first, then globs in order.
            None keeps every name.

    Raises:
        UsageError: A pattern or its new name is not valid. The returned function raises it if
            `names` raises an error, or returns what is neither text nor None.

    >>> rename = make_renamer({"blk.*.conv": "down_blocks.*.resnets.0.conv1", "stem": "conv_in"})
    >>> rename("blk.1.conv"), rename("stem"), rename("head")
    ('down_blocks.1.resnets.0.conv1', 'conv_in', None)
    """
    if names is None:
        return lambda name: name
    if callable(names):
        return partial(_call_renamer, names)
    exact: dict[str, str] = {}
    globs: list[tuple[list[str], str]] = []
    for old, new in names.items():
        if not (isinstance(old, str) and isinstance(new, str)):
            message = f"names map text to text, not {short_repr(old)} to {short_repr(new)}"
            raise UsageError(message, code="E-NAMES")
        if "*" in old:
            globs.append(_compile(old, new))
        else:
            exact[old] = new

    def rename(name: str) -> str | None:
        if name in exact:
            return exact[name]
        for pieces, template in globs:
            found = match_glob(pieces, name)
            if found is not None:
                return template.format("", *found)
        return None

    return rename


def _call_renamer(names: Callable[[str], str | None], name: str) -> str | None:
    """Return the new name that a user's function gives.

    Raises:
        UsageError: The function raised an error, or returned what is neither text nor None.
    """
    try:
        new = names(name)
    except Exception as error:
        message = f"names({short_repr(name)}) raised {type(error).__name__}: {error}"
        raise UsageError(message, code="E-NAMES", hint="return None for unknown names") from error
    if new is not None and not isinstance(new, str):
        message = f"names({short_repr(name)}) must be text or None, not {short_repr(new)}"
        raise UsageError(message, code="E-NAMES")
    return new


def match_glob(pieces: list[str], name: str) -> list[str] | None:
    """Return what each `*` of a glob stands for in a name, None if it does not match.

    Each stands for the shortest possible text, the first one first. That is where the next piece
    begins first, so no choice is ever taken back, and the time is linear.

    Args:
        pieces: The texts before, between and after the `*`, at least two.
        name: The name.

    >>> match_glob(["blk.", ".", ""], "blk.1.conv.weight")
    ['1', 'conv.weight']
    """
    first, *middle, last = pieces
    end = len(name) - len(last)
    if len(first) > end or not name.startswith(first) or not name.endswith(last):
        return None
    found = []
    at = len(first)
    for piece in middle:
        begin = name.find(piece, at, end)
        if begin < 0:
            return None
        found.append(name[at:begin])
        at = begin + len(piece)
    return [*found, name[at:end]]


def _compile(old: str, new: str) -> tuple[list[str], str]:
    """Return the pieces of a glob and the template of its new name."""
    count = old.count("*")
    pieces = new.split("*")
    numbers = re.findall(r"\{(.*?)\}", new)
    problem = ""
    if len(pieces) - 1 > count:
        problem = f"has more `*` than {short_repr(old)}"
    elif numbers and len(pieces) > 1:
        problem = "uses both `*` and `{1}`"
    elif not all(NUMBER.fullmatch(number) and 1 <= int(number) <= count for number in numbers):
        problem = f"may use {{1}} to {{{count}}}"
    elif new.count("{") != len(numbers) or new.count("}") != len(numbers):
        problem = "has a brace without its pair"
    if problem:
        message = f"the new name {short_repr(new)} {problem}"
        raise UsageError(message, code="E-NAMES")
    template = pieces[0]
    for i, piece in enumerate(pieces[1:], 1):
        template += f"{{{i}}}{piece}"
    return old.split("*"), template
