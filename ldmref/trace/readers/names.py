"""From the names in another program's file to those of a trace."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ldmref.errors import InputError, UsageError, abbreviated, short_repr
from ldmref.support.files import check_input_path, parse_json, read_file, shown
from ldmref.trace.model import NAME
from ldmref.trace.name_maps import NameMap, make_renamer

CODE = "E-NAMES"
MAX_NAMES_FILE = 2**24  # bytes
SIDE = re.compile(r"(input|output)(\.[^/]+)?")
NUMBER = re.compile(r"(?P<kind>[a-z_]+)\.(?P<number>\d{1,6})")
FORM = "CALL/LAYER/input or CALL/LAYER/output, such as unet.000/conv_in/output"
SHOWN = 5  # unknown names in a message


def read_names(path: str | Path) -> dict[str, str]:
    """Read a name map from a JSON or TOML file with lines `PORT_NAME = LDMREF_NAME`.

    TOML keys without quotes may contain dots.

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
    wrong = next((name for name, new in names.items() if not isinstance(new, str)), None)
    if wrong is not None:
        message = f"{shown(path)}: the name for {wrong[:80]!r} is not text"
        raise InputError(message, code=CODE, hint=f"write the ldmref name: {FORM}")
    return names


def _flatten(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, dict):
            yield from _flatten(value, name)
        else:
            yield name, value


def get_renamer(names: NameMap | str | Path | None) -> Callable[[str], str | None]:
    """Return a function from a tensor's name in a file to its name in a trace, or None."""
    if isinstance(names, str | Path):
        names = read_names(names)
    rename = make_renamer(names)

    def find(name: str) -> str | None:
        new = rename(name)
        if new is None:
            new = name
        elif names is not None and complete_name(new) is None:
            message = f"the new name of {short_repr(name)}, {short_repr(new)}, is not a trace's"
            raise UsageError(message, code=CODE, hint=f"names are {FORM}")
        return complete_name(new)

    return find


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
) -> tuple[dict[str, str], list[str]]:
    """Return the stored name of each tensor of a trace, and the names that are not known.

    Raises:
        InputError: No name is known, or two tensors get the same name.
        UsageError: The name map is not valid.
    """
    find = get_renamer(names)
    found: dict[str, str] = {}
    unknown: list[str] = []
    for name in stored:
        new = find(name)
        if new is None:
            unknown.append(name)
        elif new in found:
            message = (
                f"{shown(source)}: {found[new][:80]!r} and {name[:80]!r} are both {new[:80]!r}"
            )
            raise InputError(message, code=CODE, hint="name each tensor once in the name map")
        else:
            found[new] = name
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
