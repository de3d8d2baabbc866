"""Run a script of a port whose modules are changed when they are imported.

    python shared/changed.py SCRIPT.py STATE    # in the port's folder

STATE is "as published"; or "repaired": every error of port.toml has its repair; or the number of a
fault of port.toml, which is put into the repaired port. A change replaces one text of a module's
source by another. Published sizes that a source has as constants become those of the kit in every
state: the entries `size` of port.toml.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import runpy
import sys
import tomllib
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple


class Change(NamedTuple):
    """A text of a module's source, and what replaces it."""

    module: str
    before: str
    after: str


class ChangedLoader(SourceFileLoader):
    """Loads a module from its source with changes.

    Args:
        name: The module.
        path: Its file.
        changes: The changes.
    """

    def __init__(self, name: str, path: str, changes: Sequence[Change]):
        super().__init__(name, path)
        self.changes = changes

    def get_code(self, fullname: str) -> CodeType:
        """Return the code of the changed source, and never a compiled file.

        Raises:
            SystemExit: The source does not have a text that is to be replaced.
        """
        source = Path(self.path).read_text("utf-8")
        for change in self.changes:
            if change.before not in source:
                sys.exit(f"{self.path} has no {change.before!r}")
            source = source.replace(change.before, change.after)
        return compile(source, self.path, "exec")


class ChangedFinder(importlib.abc.MetaPathFinder):
    """Finds modules that are changed."""

    def __init__(self, changes: Sequence[Change]):
        self.changes = changes

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how a changed module is loaded; None: as usual."""
        found = [change for change in self.changes if change.module == fullname]
        spec = PathFinder.find_spec(fullname, path, target) if found else None
        if spec is not None and spec.origin is not None:
            spec.loader = ChangedLoader(fullname, spec.origin, found)
        return spec


def read_changes(declared: dict[str, Any], script: str, state: str) -> list[Change]:
    """Return the changes of a state of the port for one of its scripts."""
    sizes = [x for x in declared.get("size", ()) if x["script"] == script]
    changes = [Change(x["module"], x["published"], x["kit"]) for x in sizes]
    if state == "as published":
        return changes
    errors = [x for x in declared.get("error", ()) if x["script"] == script]
    changes += [Change(x["module"], x["wrong"], x["right"]) for x in errors]
    if state == "repaired":
        return changes
    fault = declared["fault"][int(state)]
    return [*changes, Change(fault["module"], fault["right"], fault["wrong"])]


def main() -> None:
    """Run the script."""
    script, state = sys.argv[1:]
    declared = tomllib.loads(Path("port.toml").read_text("utf-8"))
    sys.meta_path.insert(0, ChangedFinder(read_changes(declared, Path(script).stem, state)))
    sys.path.insert(0, str(Path(script).resolve().parent))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
