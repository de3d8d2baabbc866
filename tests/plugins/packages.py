"""Packages that are installed by writing what pip writes: metadata and entry points."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples" / "plugins"


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


def install_project(project: Path, folder: Path) -> None:
    """Install a project with a `src` folder into `folder`, as its pyproject.toml declares it."""
    declared = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    write_metadata(folder, declared["name"], declared["version"], declared["entry-points"])
    for package in (project / "src").iterdir():
        if package.suffix != ".egg-info":
            (folder / package.name).symlink_to(package)
