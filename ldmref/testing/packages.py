"""Packages that are not installed: their entry points, from their pyproject.toml."""

from __future__ import annotations

import atexit
import importlib.metadata
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ldmref.errors import UsageError
from ldmref.support.files import read_file

CODE = "E-PLUGIN"
MAX_BYTES = 2**20  # of a pyproject.toml


def add_entry_points(project: str | Path) -> None:
    '''Make the entry points of a package known to this process that is not installed.

    Call it in the `conftest.py` of a package, so that its tests run in a checkout: families,
    samplers and other parts are then found by their names, and child processes do not know them.
    pytest finds the modules by its setting `pythonpath`. Nothing happens if the package is
    installed.

    Args:
        project: The folder of the package's pyproject.toml, which declares name, version and entry
            points.

    Raises:
        InputError: There is no such file, or it cannot be read.
        UsageError: It declares no name, no version or no entry points.

    >>> import importlib.metadata, tempfile
    >>> text = """[project]
    ... name = "their-sampler"
    ... version = "1.0"
    ... [project.entry-points."of_a_checkout"]
    ... fast = "their_sampler:FAST"
    ... """
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "pyproject.toml").write_text(text)
    ...     add_entry_points(folder)
    >>> [point.name for point in importlib.metadata.entry_points(group="of_a_checkout")]
    ['fast']
    '''
    declared = _read_project(Path(project) / "pyproject.toml")
    name = declared["name"]
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        site = TemporaryDirectory(prefix=f"{name}-")
        atexit.register(site.cleanup)
        write_metadata(Path(site.name), name, declared["version"], declared["entry-points"])
        sys.path.append(site.name)


def write_metadata(
    folder: Path, name: str, version: str, points: Mapping[str, Mapping[str, str]]
) -> None:
    """Write the metadata of a package with entry points: `{group: {name: object}}`."""
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (metadata / "METADATA").write_text(text)
    lines = []
    for group, names in points.items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in names.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")


def _read_project(path: Path) -> dict[str, Any]:
    """Return the table `project` of a pyproject.toml with entry points."""
    data = read_file(path, MAX_BYTES, CODE)
    try:
        declared = tomllib.loads(data.decode("utf-8")).get("project", {})
    except ValueError as error:  # of either
        raise UsageError(f"{path} is not TOML: {error}", code=CODE) from error
    missing = [key for key in ("name", "version", "entry-points") if key not in declared]
    if missing:
        message = f"{path} has no {' and no '.join(missing)} in [project]"
        raise UsageError(message, code=CODE, hint="see docs/add-a-family.md")
    return declared
