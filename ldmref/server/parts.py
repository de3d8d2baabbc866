"""Parts of the server that are imported where they are needed, if they are installed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any


def find_part(name: str) -> Any:
    """Import a module of ldmref, such as `server.guard`; return None if it is not installed."""
    try:
        found = find_spec(f"ldmref.{name}")
    except ModuleNotFoundError:  # its package is missing
        return None
    return import_module(f"ldmref.{name}") if found else None
