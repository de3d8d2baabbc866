"""The source distribution is complete, and the index of docs/ lists every page."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The last one is always shipped.
NOT_SHIPPED = {
    ".gitattributes",
    ".gitignore",
    ".github",
    ".pre-commit-config.yaml",
    "pyproject.toml",
}


def test_the_source_distribution_holds_every_file():
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no git, or not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ
    )
    tracked = {line.split("/")[0] for line in listed.stdout.splitlines()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    shipped = set(project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"])
    assert tracked - NOT_SHIPPED == shipped


def test_the_index_of_the_documentation_lists_every_page():
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    linked = {(ROOT / "docs" / link).resolve() for link in re.findall(r"\]\(([^)#]+)\)", index)}
    assert linked >= {*(ROOT / "docs").glob("*.md")} - {ROOT / "docs" / "README.md"}
    assert all(path.is_file() for path in linked)
