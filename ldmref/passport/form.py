"""The declared form of a kit's manifest, `kit.json`, and of its floors, `floors.json`.

A kit travels between people, and what does not have this form is refused when it is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from ldmref.cases.model import digest_of
from ldmref.declare import Check, Length, Range, get_fields, read
from ldmref.errors import short_repr
from ldmref.passport.recorded import FORMATS

DUMP = ("name", "node", "fault", "cause", "source")  # what the manifest says of a wrong dump
MAX_NODES = 2**19


def check_texts(name: str, value: object) -> dict[str, str]:
    """Return a mapping of texts to texts.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, Mapping) or not all(isinstance(x, str) for x in value.values()):
        raise ValueError(f"{name} must be an object of texts, not {short_repr(value)}")
    return dict(value)


def check_digests(name: str, value: object) -> dict[str, str]:
    """Return the digests of files by path, of which there must be some.

    Raises:
        ValueError: There is none, it is no mapping of texts, or a path leads out of the kit.
    """
    digests = check_texts(name, value)
    if not digests:
        raise ValueError(f"{name} names no file")
    for path in digests:
        require_inside(name, path)
    return digests


def require_inside(name: str, path: str) -> None:
    """Refuse a path that leads out of a kit.

    Raises:
        ValueError: It does.
    """
    parts = path.replace("\\", "/").split("/")
    if "" in parts or ".." in parts or ":" in path:
        raise ValueError(f"{name} has the path {path[:80]!r}, which leads out of the kit")


def check_object(name: str, value: object) -> dict[str, Any]:
    """Return an object of any values.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be an object, not {short_repr(value)}")
    return dict(value)


def check_rows_of_networks(name: str, value: object) -> dict[str, dict[str, str]]:
    """Return what each argument of a module holds for a row, by network and argument.

    Raises:
        ValueError: It is not an object of objects of texts.
    """
    return {key: check_texts(f"{name}.{key}", x) for key, x in check_object(name, value).items()}


def check_dumps(name: str, value: object) -> tuple[dict[str, str], ...]:
    """Return the rows of the wrong dumps.

    Raises:
        ValueError: It is not a list of objects with the texts `DUMP`.
    """
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} must be a list, not {short_repr(value)}")
    rows = tuple(check_texts(f"{name}[{i}]", row) for i, row in enumerate(value))
    for i, row in enumerate(rows):
        if row.keys() != {*DUMP}:
            raise ValueError(f"{name}[{i}] must have {', '.join(DUMP)}, not {', '.join(row)}")
    return rows


@dataclass(frozen=True)
class Manifest:
    """The fields of `kit.json` that a check reads; others describe the kit for people."""

    version: str
    family: Annotated[str, Check(lambda name, value: require_name(name, value))]
    digests: Annotated[Mapping[str, str], Check(check_digests)]
    wrong: Annotated[tuple[Any, ...], Check(check_dumps)]
    request: Annotated[Mapping[str, Any], Check(check_object)]
    digest: str = ""
    nodes: Annotated[int, Range(0, MAX_NODES)] = 0
    networks: Annotated[tuple[str, ...], Length(0, 1000)] = ()
    rows: Annotated[Mapping[str, Mapping[str, str]] | None, Check(check_rows_of_networks)] = None


def require_name(name: str, value: object) -> str:
    """Return a text that is not empty.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} must be a name, not {short_repr(value)}")
    return value


def read_manifest(data: Mapping[str, Any]) -> Manifest:
    """Return the manifest of a kit.

    Raises:
        ValueError: A field is missing or is not as declared, or the manifest contradicts itself.
    """
    fields = get_fields(Manifest)
    found = read(Manifest, {key: x for key, x in data.items() if key in fields})
    for name in found.networks:
        require_inside("networks", name)
    if found.digest not in ("", digest_of(found.digests)):
        raise ValueError("digest is not that of its list of digests")
    return found


def read_floors(found: Any) -> dict[str, dict[str, float]]:
    """Return for each format the error of each output of a run in it, by the tensor's name.

    Args:
        found: The content of `floors.json`: names of formats, and for each tensor a list with a
            relative error for each format, null for an overflow.

    Raises:
        ValueError: It is something else; a floor is not a finite number of at least 0.
    """
    table = check_object("floors.json", found)
    formats = table.get("formats")
    if not isinstance(formats, list) or not set(FORMATS) <= set(map(str, formats)):
        raise ValueError(f"formats must be {', '.join(FORMATS)}, not {short_repr(formats)}")
    rows = check_object("floors", table.get("floors"))
    for name, row in rows.items():
        if not isinstance(row, list) or len(row) != len(formats) or not all(map(_is_floor, row)):
            message = f"a floor is a number of at least 0 for each of {len(formats)} formats"
            raise ValueError(f"{message}, not {short_repr(row)} ({name})")
    return {
        dtype: {name: row[i] for name, row in rows.items() if row[i] is not None}
        for i, dtype in enumerate(formats)
    }


def _is_floor(value: object) -> bool:
    """Return whether a value is a relative error, or null."""
    if value is None:
        return True
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and value >= 0
