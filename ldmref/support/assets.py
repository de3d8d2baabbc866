"""The files inside the package: tables, word lists, notes."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import Any


def read_asset(*path: str) -> str:
    """Return the text of a file of the package.

    Args:
        path: Folders and name below `ldmref/assets`.

    >>> read_asset("differences.toml").startswith("#")
    True
    """
    return files("ldmref").joinpath("assets", *path).read_text("utf-8")


def read_asset_table(name: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a TOML file of the package, a list for each kind of row.

    Lists in a row are tuples, as fields of dataclasses that do not change.

    >>> list(read_asset_table("differences.toml"))
    ['program', 'difference']
    """
    tables: dict[str, list[dict[str, Any]]] = tomllib.loads(read_asset(name))
    return {kind: [_freeze(row) for row in rows] for kind, rows in tables.items()}


def _freeze(row: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(x) if isinstance(x, list) else x for name, x in row.items()}
