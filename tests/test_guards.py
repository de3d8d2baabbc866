"""Which tests guard a file: the stored map, and the tests that are found for what was changed."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest

import ldmref

ROOT = Path(ldmref.__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("guards", ROOT / "scripts" / "guards.py")
guards = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(guards)
STORED = (ROOT / guards.STORED).read_text("utf-8")
AGAIN = "python scripts/guards.py prune forgets them, make map writes the map anew"


def test_the_stored_map_names_files_that_exist():
    stored = guards.read_guards(STORED)
    named = {*stored, *(test for tests, _ in stored.values() for test in tests)}
    gone = sorted(name for name in named if not (ROOT / name).is_file())
    assert not gone, f"{guards.STORED} names {gone[:9]}: {AGAIN}"


def test_the_stored_map_is_small_and_in_order():
    assert len(STORED) < 200_000
    assert guards.write_guards(guards.read_guards(STORED)) == STORED


def test_nearly_all_files_have_tests():
    stored = guards.read_guards(STORED)
    modules = [name for name in stored if not name.endswith("__init__.py")]
    assert sum(bool(stored[name][0]) for name in modules) > 0.97 * len(modules)
    assert "tests/io/test_safetensors.py" in stored["ldmref/io/tensors/safetensors.py"][0]
    assert "tests/samplers/test_unipc.py" not in stored["ldmref/io/tensors/safetensors.py"][0]


def test_files_that_are_gone_are_forgotten():
    known = {"ldmref/a.py": (["tests/test_a.py", "tests/test_b.py"], 3), "ldmref/b.py": ([], 0)}
    pruned = guards.prune_guards(known, {"ldmref/a.py", "tests/test_b.py"})
    assert pruned == {"ldmref/a.py": (["tests/test_b.py"], 3)}


FILES = {
    "ldmref/__init__.py": "",
    "ldmref/io/__init__.py": "from ldmref.io.reading import read",
    "ldmref/io/reading.py": "def read(): pass",
    "ldmref/io/names.py": "NAMES = ()",
    "ldmref/alone.py": "",
    "tests/conftest.py": "",
    "tests/io/conftest.py": "",
    "tests/shared.py": "from ldmref.io import names",
    "tests/io/test_reading.py": "from ldmref.io import read",
    "tests/io/test_names.py": "import shared",
    "tests/io/test_patches.py": "PATCHED = 'ldmref.io.names.NAMES'",
    "tests/test_scripts.py": "run('scripts/clean.py')",
    "scripts/clean.py": "",
    "docs/start.md": "",
    "tests/io/small.npz": "",
    "tests/io/rows/first.json": "",
    "tests/io/runs/first/run.json": "",
    "tests/io/unread/row.json": "",
    "tests/io/stored.py": 'FOLDER = HERE / \'x\' / "rows"\nSMALL = "small.npz"',
    "tests/io/test_stored.py": "from stored import FOLDER",
    "tests/io/test_runs.py": 'RUN = "runs/first"',
}


@pytest.fixture
def repository(tmp_path):
    """A repository with one commit of `FILES`."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "Begin")
    return tmp_path


def git(folder, *command):
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *who, *command], cwd=folder, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("name", "tests"),
    [
        ("ldmref/io/reading.py", ["io/test_reading"]),  # by a name that the package exports
        ("ldmref/io/names.py", ["io/test_names", "io/test_patches"]),  # a helper, a text
        ("ldmref/alone.py", []),
        ("tests/io/test_names.py", ["io/test_names"]),
        ("tests/shared.py", ["io/test_names"]),
        (
            "tests/io/conftest.py",
            [f"io/test_{name}" for name in ("names", "patches", "reading", "runs", "stored")],
        ),
        ("scripts/clean.py", ["test_scripts"]),
        ("tests/io/small.npz", ["io/test_stored"]),  # a helper reads the file
        ("tests/io/rows/first.json", ["io/test_stored"]),  # a helper names its folder
        ("tests/io/runs/first/run.json", ["io/test_runs"]),
        ("tests/io/unread/row.json", []),
    ],
)
def test_the_tests_of_a_file(repository, name, tests):
    found = guards.TestFinder(repository).find(name)
    assert sorted(found) == [f"tests/{test}.py" for test in tests]


def test_stored_tests_come_first(repository):
    stored = {"ldmref/io/reading.py": (["tests/io/test_names.py", "tests/gone.py"], 0)}
    (repository / guards.STORED).write_text(guards.write_guards(stored))
    found = guards.TestFinder(repository).find("ldmref/io/reading.py")
    assert found == ["tests/io/test_names.py", "tests/io/test_reading.py"]


def test_what_was_changed_since_a_commit(repository):
    """In commits of the branch and in the working tree, with files that git does not know yet."""
    git(repository, "checkout", "-qb", "topic")
    (repository / "ldmref/alone.py").write_text("A = 1")
    git(repository, "commit", "-qam", "Change")
    (repository / "ldmref/io/names.py").write_text("NAMES = (1,)")
    (repository / "tests/io/test_new.py").write_text("")
    (repository / "docs/start.md").unlink()
    branch = ["docs/start.md", "ldmref/alone.py", "ldmref/io/names.py", "tests/io/test_new.py"]
    assert guards.find_changed(None, repository) == ("main", branch)
    assert guards.find_changed("HEAD", repository) == ("HEAD", [branch[0], *branch[2:]])
    git(repository, "branch", "-qD", "main")
    assert guards.find_changed(None, repository)[0] == "HEAD"
    with pytest.raises(SystemExit, match="git merge-base nowhere HEAD"):
        guards.find_changed("nowhere", repository)
