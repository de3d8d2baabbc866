"""Packages that are installed by writing what pip writes: metadata and entry points."""

from __future__ import annotations

import tomllib
from pathlib import Path

from ldmref.testing.packages import write_metadata

EXAMPLES = Path(__file__).parents[2] / "examples" / "plugins"


def install_project(project: Path, folder: Path) -> None:
    """Install a project with a `src` folder into `folder`, as its pyproject.toml declares it."""
    declared = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    write_metadata(folder, declared["name"], declared["version"], declared["entry-points"])
    for package in (project / "src").iterdir():
        if package.suffix != ".egg-info":
            (folder / package.name).symlink_to(package)
