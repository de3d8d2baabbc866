"""Maps from the names of another program to those of ldmref."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from ldmref.errors import UsageError, short_repr

NUMBER = re.compile(r"[0-9]{1,6}")
HINT = 'parts are ["to_q", "to_k", "to_v"], or with shares [["to_q", 2], ["to_k", 1], ["to_v", 1]]'


@dataclass(frozen=True)
class Joined:
    """The names of what another program has in one: `qkv` is `to_q`, `to_k` and `to_v`.

    Attributes:
        names: The name of each part, in order.
        shares: The share of each part in the last axis.
    """

    names: tuple[str, ...]
    shares: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name of the whole, which no layer has."""
        return "+".join(self.names).replace("/", ".")

    def part_of(self, array: Any, part: int) -> Any:
        """Return a part of the last axis of an array, (..., n).

        Raises:
            ValueError: The axis cannot be divided so.

        >>> import numpy as np
        >>> Joined(("to_q", "to_k", "to_v"), (2, 1, 1)).part_of(np.arange(16), 1)
        array([ 8,  9, 10, 11])
        """
        size = array.shape[-1] if array.ndim else 0
        unit, rest = divmod(size, sum(self.shares))
        if rest or not size:
            parts = ":".join(map(str, self.shares))
            raise ValueError(f"its last axis of {size} cannot be divided in parts {parts}")
        begin = unit * sum(self.shares[:part])
        return array[..., begin : begin + unit * self.shares[part]]


NewName: TypeAlias = str | Joined
NameMap: TypeAlias = Mapping[str, Any] | Callable[[str], Any]
Renamer: TypeAlias = Callable[[str], NewName | None]


def make_renamer(names: NameMap | None) -> Renamer:
    """Return a function from a name to the name in ldmref; None if it is not known.

    Args:
        names: A function; or a mapping of names, which may be globs. A `*` stands for any text, and
            the `*` of the new name stand for the same texts in order; `{1}`, `{2}` for the first
            and second one in another order. Exact names are tried first, then globs in order.
            None keeps every name. In place of a new name, a list has one for each part of a joined
            layer, whose output is split along the last axis: in equal parts, or in the shares of
            pairs of a name and a whole number. A part without a dot replaces the last part of the
            layer's name.

    Raises:
        UsageError: A pattern or its new name is not valid. The returned function raises it if
            `names` raises an error, or returns what is neither text nor None.

    >>> rename = make_renamer({"blk.*.conv": "down_blocks.*.resnets.0.conv1", "stem": "conv_in"})
    >>> rename("blk.1.conv"), rename("stem"), rename("head")
    ('down_blocks.1.resnets.0.conv1', 'conv_in', None)
    >>> make_renamer({"*.qkv": ["to_q", "to_k", "to_v"]})("blocks.0.attn.qkv").names
    ('blocks.0.attn.to_q', 'blocks.0.attn.to_k', 'blocks.0.attn.to_v')
    """
    if names is None:
        return lambda name: name
    if callable(names):
        return partial(_call_renamer, names)
    exact: dict[str, NewName] = {}
    globs: list[tuple[list[str], Callable[[str, list[str]], NewName]]] = []
    for old, new in names.items():
        parsed = parse_new_name(new)
        if not isinstance(old, str) or parsed is None:
            pair = f"{short_repr(old)} to {short_repr(new)}"
            message = f"names map text to text or to a list of parts, not {pair}"
            raise UsageError(message, code="E-NAMES", hint=HINT)
        if "*" in old:
            globs.append((old.split("*"), _make_template(old, parsed)))
        else:
            exact[old] = _complete(old, parsed)

    def rename(name: str) -> NewName | None:
        if name in exact:
            return exact[name]
        for pieces, fill in globs:
            found = match_glob(pieces, name)
            if found is not None:
                return fill(name, found)
        return None

    return rename


def parse_new_name(new: object) -> NewName | None:
    """Return a new name, or those of the parts of a joined layer, as a name map has them.

    Returns:
        The names; None if `new` is neither text nor a list of at least two parts, each a text or a
        pair of a text and a whole number from 1.

    >>> parse_new_name(["q", ["k", 2]]).shares
    (1, 2)
    """
    if isinstance(new, str | Joined):
        return new
    if not isinstance(new, Sequence) or len(new) < 2:
        return None
    pairs = [(part, 1) if isinstance(part, str) else part for part in new]
    if not all(_is_share(pair) for pair in pairs):
        return None
    return Joined(tuple(name for name, _ in pairs), tuple(share for _, share in pairs))


def _is_share(pair: object) -> bool:
    if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
        return False
    name, share = pair
    return isinstance(name, str) and type(share) is int and 1 <= share <= 2**20


def _complete(name: str, new: NewName) -> NewName:
    """Return new names, in which the parts of a joined layer replace the last part of its name."""
    if isinstance(new, str):
        return new
    layer, slash, role = name.rpartition("/") if "/" in name else (name, "", "")
    before = layer[: max(layer.rfind("."), layer.rfind("/")) + 1]
    full = (part if {".", "/"} & {*part} else f"{before}{part}{slash}{role}" for part in new.names)
    return Joined(tuple(full), new.shares)


def names_of(new: NewName) -> tuple[str, ...]:
    """Return a new name, or those of all parts."""
    return (new,) if isinstance(new, str) else new.names


def _call_renamer(names: Callable[[str], Any], name: str) -> NewName | None:
    """Return the new name that a user's function gives.

    Raises:
        UsageError: The function raised an error, or returned what is no new name and not None.
    """
    try:
        new = names(name)
    except Exception as error:
        message = f"names({short_repr(name)}) raised {type(error).__name__}: {error}"
        raise UsageError(message, code="E-NAMES", hint="return None for unknown names") from error
    parsed = parse_new_name(new)
    if new is not None and parsed is None:
        message = f"names({short_repr(name)}) must be text, a list of parts or None, not "
        raise UsageError(message + short_repr(new), code="E-NAMES", hint=HINT)
    return None if parsed is None else _complete(name, parsed)


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


def _make_template(old: str, new: NewName) -> Callable[[str, list[str]], NewName]:
    """Return a function from a name and what each `*` of a glob stands for to its new name."""
    templates = [_compile(old, part) for part in names_of(new)]

    def fill(name: str, found: list[str]) -> NewName:
        filled = tuple(template.format("", *found) for template in templates)
        return filled[0] if isinstance(new, str) else _complete(name, Joined(filled, new.shares))

    return fill


def _compile(old: str, new: str) -> str:
    """Return the template of the new name of a glob.

    Raises:
        UsageError: The new name does not fit to the glob.
    """
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
    return template
