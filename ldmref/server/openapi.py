"""The OpenAPI description of the interfaces, from the declarations of the modes."""

from __future__ import annotations

from typing import Any

from ldmref.modes.plan import schema
from ldmref.modes.registry import MODES
from ldmref.server.engine import Engine
from ldmref.version import __version__


def describe_interface(engine: Engine) -> dict[str, Any]:
    """Return the OpenAPI 3.1 description."""
    schemas = {f"Parameters_{name}": schema(name) for name in MODES}
    return {
        "openapi": "3.1.0",
        "info": {"title": "ldmref", "version": __version__},
        "paths": {},
        "components": {"schemas": schemas},
    }
