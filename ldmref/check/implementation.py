"""Load another implementation's module, by name or by file, and find its unknown functions."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from ldmref.check.capstone import piece_names
from ldmref.check.chapters import CHAPTERS
from ldmref.errors import InputError, closest
from ldmref.support.files import not_a_file


def load_implementation(name: str) -> ModuleType:
    """Import a module by its dotted name, also from the working folder, or by the path of its file.

    Raises:
        InputError: There is no such file, or its import failed.
    """
    path = Path(name)
    is_file = path.suffix == ".py" or os.sep in name
    if is_file and (problem := not_a_file(path)):
        raise InputError(f"{name!r} {problem}", code="E-AGAINST", hint=_HINT)
    with _import_folder(path.resolve().parent if is_file else Path.cwd()):
        try:
            return _load_file(path) if is_file else importlib.import_module(name)
        except (Exception, SystemExit) as error:
            frames = traceback.extract_tb(error.__traceback__)
            where = "" if isinstance(error, SyntaxError) else line_of(error, frames[-1].filename)
            message = f"cannot import {name!r}: {type(error).__name__}: {error}{where}"
            raise InputError(message, code="E-AGAINST", hint=_HINT) from error


_HINT = "give the dotted name of a module (my_package.diffusion), or a file (./diffusion.py)"


@contextmanager
def _import_folder(folder: Path) -> Iterator[None]:
    """Look for modules in `folder` first."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _load_file(path: Path) -> ModuleType:
    """Import the module of a file under a name that hides no other module."""
    name = f"against_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file (.py)")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def line_of(error: BaseException, file: str | None) -> str:
    """Return the line of a file that raised an error, as " (diffusion.py, line 3)"; "" if none."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return f" ({Path(file).name}, line {lines[-1]})" if file and lines else ""


def unknown_functions(module: ModuleType) -> dict[str, str]:
    """Return the public functions of a module that no identity checks.

    Each has the closest known name as its value, or "" if none is close. Functions that the module
    only imports are left out, unless it lists them in `__all__`.
    """
    identities = [identity for chapter in CHAPTERS for identity in chapter.identities]
    known = {name for identity in identities for name in (identity.function, *identity.uses)}
    public = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    known.update(piece_names(module))
    unknown = [n for n in public if n not in known and callable(getattr(module, n, None))]
    return {name: closest(name, known) for name in unknown}
