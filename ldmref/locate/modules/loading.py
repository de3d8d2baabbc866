"""`my.module:make`: the function that makes what a port is compared with."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from ldmref.errors import LdmrefError, UsageError, short_repr
from ldmref.support.foreign_code import foreign_code

CODE = "E-AGAINST"
HINT = "give PACKAGE.MODULE:FUNCTION, a function without arguments that returns the module"


def make_original(name: str) -> Any:
    """Import a function, from the current folder too, and return what it makes.

    Args:
        name: `PACKAGE.MODULE:FUNCTION`. It is code that is run.

    Raises:
        UsageError: There is no such function, it raises an error, or its code ends the process.
    """
    module, colon, function = name.partition(":")
    parts = (*module.split("."), function)
    if not colon or not all(part.isidentifier() for part in parts):
        raise UsageError(f"{short_repr(name)} names no function", code=CODE, hint=HINT)
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        with foreign_code(f"the import of {module}", CODE):
            make = getattr(importlib.import_module(module), function, None)
    except LdmrefError:
        raise
    except Exception as error:
        message = f"{module} cannot be imported: {type(error).__name__}: {error}"
        raise UsageError(message, code=CODE, hint=HINT) from error
    if not callable(make):
        raise UsageError(f"{module} has no function {function!r}", code=CODE, hint=HINT)
    try:
        with foreign_code(name, CODE):
            return make()
    except LdmrefError:
        raise
    except Exception as error:
        message = f"{name} raised {type(error).__name__}: {error}"
        raise UsageError(message, code=CODE, hint="run it alone to see where") from error
