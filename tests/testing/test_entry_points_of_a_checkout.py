"""The entry points of a package that is not installed, in its own tests."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest

from ldmref.errors import LdmrefError
from ldmref.testing import add_entry_points

PROJECT = """
[project]
name = "their-parts"
version = "1.2"
[project.entry-points."theirs.samplers"]
fast = "theirs:FAST"
slow = "theirs:SLOW"
[project.entry-points."theirs.families"]
large = "theirs.large:LARGE"
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return the folder of a package; afterwards the process does not know it."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    return tmp_path


def find(group):
    return {point.name: point.value for point in importlib.metadata.entry_points(group=group)}


def test_entry_points_are_those_of_pyproject(project):
    assert find("theirs.samplers") == {}
    add_entry_points(project)
    assert find("theirs.samplers") == {"fast": "theirs:FAST", "slow": "theirs:SLOW"}
    assert find("theirs.families") == {"large": "theirs.large:LARGE"}
    assert importlib.metadata.version("their-parts") == "1.2"


def test_an_installed_package_stays_as_it_is(project):
    add_entry_points(project)
    before = [*sys.path]
    text = PROJECT.replace("1.2", "1.3")
    (project / "pyproject.toml").write_text(text)
    add_entry_points(str(project))
    assert sys.path == before and importlib.metadata.version("their-parts") == "1.2"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[project]\nname = 'x'\n", "has no version and no entry-points"),
        (b"name = 'x'\n", "has no name"),
        (b"[project\n", "is not TOML"),
        (b"\xff", "is not TOML"),
        (None, "pyproject.toml"),
    ],
)
def test_a_project_without_entry_points_is_refused(project, content, message):
    path = project / "pyproject.toml"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LdmrefError, match=message) as caught:
        add_entry_points(project)
    assert caught.value.code == "E-PLUGIN" and "\n" not in str(caught.value)
