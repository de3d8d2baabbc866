"""Read the JSON files of diffusers and transformers, and refuse what is not supported."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ldmref import files
from ldmref.errors import CorruptModelError


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError, CorruptModelError: the file is missing, or holds something else.
    """
    data = files.read_json(path)
    if not isinstance(data, dict):
        raise config_error(f"{path.name} is not a JSON object")
    return data


def config_error(message: str, hint: str = "") -> CorruptModelError:
    """The error of a configuration that is damaged or not supported."""
    return CorruptModelError(message, code="E-CONFIG", hint=hint)


def require_plain(data: Mapping[str, Any], plain: Mapping[str, tuple], where: str) -> None:
    """Refuse a configuration in which a field of `plain` has a value that is not listed there."""
    for name, values in plain.items():
        if name in data and data[name] not in values:
            message = f"{where} has {name} = {data[name]!r}, which is not supported"
            raise config_error(message, hint=f"supported: {', '.join(map(str, values))}")


def require_class(kind: object, supported: Collection[str], where: str, code: str) -> None:
    """Refuse a class of diffusers that is not supported; `where` says where it was found."""
    if kind not in supported:
        hint = "supported: " + ", ".join(sorted(supported))
        raise CorruptModelError(f"{where} a {kind}, which is not supported", code=code, hint=hint)
