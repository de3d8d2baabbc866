"""From the names in another program's file to those of a trace."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldmref.errors import InputError, UsageError, abbreviated, short_repr
from ldmref.support.files import check_input_path, parse_json, read_file, shown
from ldmref.trace.model import NAME
from ldmref.trace.name_maps import (
    Joined,
    NameMap,
    NewName,
    Renamer,
    make_renamer,
    names_of,
    parse_new_name,
)

CODE = "E-NAMES"
MAX_NAMES_FILE = 2**24  # bytes
SIDE = re.compile(r"(input|output)(\.[^/]+)?")
NUMBER = re.compile(r"(?P<kind>[a-z_]+)\.(?P<number>\d{1,6})")
FORM = "CALL/LAYER/input or CALL/LAYER/output, such as unet.000/conv_in/output"
SHOWN = 5  # unknown names in a message


class StoredPart(NamedTuple):
    """Where a tensor of a trace is in a file.

    Attributes:
        name: The name of the tensor in the file.
        joined: The layers that the tensor has in one; None: it is the tensor itself.
        part: The index of its part among them.
    """

    name: str
    joined: Joined | None = None
    part: int = 0

    def read(self, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the tensor, from those of the file.

        Raises:
            InputError: The tensor of the file cannot be divided in these parts.
        """
        whole = tensors[self.name]
        if self.joined is None:
            return whole
        try:
            return self.joined.part_of(whole, self.part)
        except ValueError as error:
            raise InputError(f"{short_repr(self.name)}: {error}", code=CODE) from error


def read_names(path: str | Path) -> dict[str, NewName]:
    """Read a name map from a JSON or TOML file with lines `PORT_NAME = LDMREF_NAME`.

    TOML keys without quotes may contain dots. The value of a joined layer is a list
    (`ldmref.trace.name_maps.make_renamer`).

    Args:
        path: The file, whose name ends in .json or .toml.

    Returns:
        The name in a trace of each name of the port.

    Raises:
        InputError: The file cannot be read or holds anything but text.
        UsageError: It is named neither .json nor .toml.

    >>> import os
    >>> import tempfile
    >>> from ldmref.trace.readers import read_names
    >>> path = os.path.join(tempfile.mkdtemp(), "names.toml")
    >>> with open(path, "w") as file:
    ...     _ = file.write('"input_blocks.0" = "unet.000/conv_in/output"')
    >>> read_names(path)
    {'input_blocks.0': 'unet.000/conv_in/output'}
    """
    path = check_input_path(path, "the path of a name map", CODE)
    if path.suffix not in (".json", ".toml"):
        message = f"a name map is a .json or .toml file, not {shown(path)!r}"
        raise UsageError(message, code=CODE)
    data = read_file(path, MAX_NAMES_FILE, CODE)
    if path.suffix == ".json":
        content = parse_json(data, shown(path), CODE)
    else:
        try:
            content = tomllib.loads(data.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{shown(path)} is not TOML: {error}"[:300], code=CODE) from error
    if not isinstance(content, dict):
        raise InputError(f"{shown(path)} is not a table of names", code=CODE)
    try:
        names = dict(_flatten(content, ""))
    except RecursionError as error:
        raise InputError(f"{shown(path)} is nested too deep", code=CODE) from error
    parsed = {name: parse_new_name(new) for name, new in names.items()}
    wrong = next((name for name, new in parsed.items() if new is None), None)
    if wrong is not None:
        message = f"{shown(path)}: the name for {wrong[:80]!r} is not text or a list of parts"
        raise InputError(message, code=CODE, hint=f"write the ldmref name: {FORM}")
    return {name: new for name, new in parsed.items() if new is not None}


def _flatten(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, dict):
            yield from _flatten(value, name)
        else:
            yield name, value


def get_renamer(names: NameMap | str | Path | None) -> Renamer:
    """Return a function from a tensor's name in a file to its name in a trace, or None.

    A map may also name layers alone, as for a recording: it then holds for all their tensors.
    """
    if isinstance(names, str | Path):
        names = read_names(names)
    rename = make_renamer(names)
    by_layer = rename if isinstance(names, Mapping) else lambda layer: None

    def find(name: str) -> NewName | None:
        new = rename(name)
        if new is None:
            new = _rename_layer(name, by_layer)
        if new is None:
            return complete_name(name)
        if isinstance(new, Joined):
            return Joined(tuple(complete(part, name) for part in new.names), new.shares)
        return complete_name(new) if names is None else complete(new, name)

    def complete(new: str, name: str) -> str:
        found = complete_name(new)
        if found is None:
            message = f"the new name of {short_repr(name)}, {short_repr(new)}, is not a trace's"
            raise UsageError(message, code=CODE, hint=f"names are {FORM}")
        return found

    return find


def _rename_layer(name: str, rename: Renamer) -> NewName | None:
    """Return the new name of a tensor of which the map names the layer alone; None: it does not."""
    call, _, rest = name.partition("/")
    layer, _, role = rest.rpartition("/")
    new = rename(layer) if layer and SIDE.fullmatch(role) else None
    if new is None or any("/" in part for part in names_of(new)):
        return None
    full = tuple(f"{call}/{part}/{role}" for part in names_of(new))
    return full[0] if isinstance(new, str) else Joined(full, new.shares)


def complete_name(name: str) -> str | None:
    """Return the name of a tensor in a trace; None if it does not have the form.

    A missing layer and zeros in front of a call's number are added.

    >>> complete_name("unet.3/output"), complete_name("conv1.weight")
    ('unet.003//output', None)
    """
    parts = name.split("/")
    if len(parts) == 2 and SIDE.fullmatch(parts[1]):
        parts = [parts[0], "", parts[1]]
    match = NUMBER.fullmatch(parts[0])
    if match is not None:
        parts[0] = f"{match['kind']}.{int(match['number']):03}"
    complete = "/".join(parts)
    return complete if NAME.fullmatch(complete) else None


def rename_all(
    stored: Iterable[str], names: NameMap | str | Path | None, source: Path
) -> tuple[dict[str, StoredPart], list[str]]:
    """Return where each tensor of a trace is stored, and the names that are not known.

    Raises:
        InputError: No name is known, or two tensors get the same name.
        UsageError: The name map is not valid.
    """
    find = get_renamer(names)
    found: dict[str, StoredPart] = {}
    unknown: list[str] = []
    for name in stored:
        new = find(name)
        if new is None:
            unknown.append(name)
            continue
        for i, part in enumerate(names_of(new)):
            if part in found:
                both = f"{found[part].name[:80]!r} and {name[:80]!r} are both {part[:80]!r}"
                message = f"{shown(source)}: {both}"
                raise InputError(message, code=CODE, hint="name each tensor once in the name map")
            if isinstance(new, Joined) and part.rpartition("/")[2].startswith("output"):
                found[part] = StoredPart(name, new, i)
            else:
                found[part] = StoredPart(name)
    if not found:
        listed = abbreviated([repr(name[:80]) for name in unknown], SHOWN)
        raise InputError(
            f"{shown(source)}: no tensor has a name of a trace; it holds {listed or 'none'}",
            code=CODE,
            hint=f"names are {FORM}; give others with a name map (names=)",
        )
    return found, unknown


def suggest_names(unknown: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Return the most similar known name of each unknown one, "" if none is similar.

    >>> suggest_names(["unet.000/conv_in/out"], ["unet.000/conv_in/output"])
    {'unet.000/conv_in/out': 'unet.000/conv_in/output'}
    """
    candidates = list(known)
    close = {name: difflib.get_close_matches(name, candidates, 1, 0.7) for name in unknown}
    return {name: matches[0] if matches else "" for name, matches in close.items()}
