"""Public names of a package that are imported at their first use, so importing it is fast.

A package writes its public names once, as imports that only type checkers see:

    if TYPE_CHECKING:
        from ldmref.trace.model import Trace as Trace

    __getattr__, __dir__, __all__ = export_lazily(__name__)

`as Trace` says to type checkers that the name is public. A name that its module has as well is
imported at once, above: later, Python would put the module in its place.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from ldmref.support.renames import find_former_name


def export_lazily(
    package: str,
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` of a package, from its source.

    A former name (`ldmref.support.renames`) is found, too.

    Args:
        package: The name of the package, whose public names are imported under TYPE_CHECKING, or
            at once.

    Raises:
        ImportError: Its source cannot be read.
    """
    modules = _read_imports(package)

    def get(name: str) -> Any:
        if name in modules:
            try:
                return getattr(import_module(modules[name]), name)
            except AttributeError:  # a module of that package
                return import_module(f"{modules[name]}.{name}")
        return find_former_name(package, name)

    def list_names() -> list[str]:
        path = sys.modules[package].__path__
        return sorted({*modules, *(module.name for module in iter_modules(path)), "__all__"})

    return get, list_names, sorted(modules)


def _read_imports(package: str) -> dict[str, str]:
    """Return the module of each public name of a package, also of those imported at once."""
    file = sys.modules[package].__file__
    try:
        source = Path(file or "").read_text("utf-8")
    except OSError as error:
        message = f"{package} reads its public names from {file or 'its source'}, which is missing"
        raise ImportError(message) from error
    at_once = ast.parse(source).body
    later = [
        statement
        for block in at_once
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in block.body
    ]
    return {
        alias.name: imported.module
        for imported in (*at_once, *later)
        if isinstance(imported, ast.ImportFrom) and imported.module
        for alias in imported.names
        if alias.asname == alias.name
    }
