"""The extra `docs` installs what the build of the site imports."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("sphinx")
packaging = pytest.importorskip("packaging.requirements")

ROOT = Path(__file__).parents[2]

# Only the top-level modules of argv are found, as if nothing else were installed.
BUILD = """
import importlib.abc, importlib.metadata, sys

absent = set(importlib.metadata.packages_distributions()) - set(sys.argv[1].split())

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
sys.path[:0] = ["docs/_ext", "scripts"]

import api, commands, configuration, make_notebooks, pages

made = commands.make_page() | configuration.make_page() | api.make_pages()
print(len(made))
"""


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def needs_of(name, extras):
    """Return what a distribution requires; of ldmref, what pyproject.toml says now."""
    if name == "ldmref":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        more = (project["optional-dependencies"][extra] for extra in extras)
        return [*project["dependencies"], *(line for lines in more for line in lines)]
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []  # of another system


def installed_by(extra):
    """Return the names of all distributions that `pip install ldmref[extra]` installs."""
    found = set()
    waiting = [packaging.Requirement(f"ldmref[{extra}]")]
    while waiting:
        requirement = waiting.pop()
        name, extras = normalised(requirement.name), frozenset(requirement.extras)
        if (name, extras) in found:
            continue
        found.add((name, extras))
        for more in map(packaging.Requirement, needs_of(name, extras)):
            chosen = [{"extra": extra} for extra in extras or {""}]
            if more.marker is None or any(map(more.marker.evaluate, chosen)):
                waiting.append(more)
    return {name for name, _ in found}


def test_the_extra_is_enough_for_the_references():
    names = installed_by("docs")
    assert {"sphinx"} <= names and "pytest" not in names
    modules = importlib.metadata.packages_distributions()
    present = [module for module, of in modules.items() if {*map(normalised, of)} & names]
    ran = subprocess.run(
        [sys.executable, "-c", BUILD, " ".join(present)], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert int(ran.stdout) > 100
