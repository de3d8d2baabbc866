"""Plug-ins that cannot be used: everything else works, and their name gives one clear line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import ldmref
from ldmref.apps.cli.main import main
from ldmref.testing.packages import write_metadata

MODULE = """
from ldmref.backends.numpy import NumpyBackend
from ldmref.samplers import Guidance, Sampler, Spacing, heun

class Mine(NumpyBackend):
    name = "mine"

class NotABackend:
    def __init__(self, device=None, dtype=None):
        pass

class OtherName(Guidance):
    name = "another"

mine = Mine()
sampler = Sampler(heun, 2, 2, False, "nobody 2026")
spacing = Spacing(lambda table, steps: table[:: -(len(table) // (steps + 1))][: steps + 1])
number = 3

def make_sampler():
    return sampler
"""
BROKEN = "raise RuntimeError('the library is too old\\nand says so on two lines')\n"
GROUPS = {
    "backend": "ldmref.backends",
    "sampler": "ldmref.samplers",
    "schedule": "ldmref.schedules",
    "guidance": "ldmref.guidance",
}
OBJECTS = {"backend": "Mine", "sampler": "sampler", "schedule": "spacing", "guidance": "OtherName"}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder in which packages are installed, with the modules `theirs` and `their_broken`."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "theirs.py").write_text(MODULE)
    (folder / "their_broken.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(tmp_path)
    yield folder
    for name in ("theirs", "their_broken"):
        sys.modules.pop(name, None)


def txt2img(capfd, **flags):
    """Run the command with the given flags: its exit code and what it wrote to stderr."""
    arguments = [f"--{name}={value}" for name, value in flags.items()]
    code = main(["txt2img", "-p", "cat", "--steps", "1", "-o", "x.png", "--overwrite", *arguments])
    return code, capfd.readouterr().err.splitlines()


@pytest.mark.parametrize("kind", GROUPS)
def test_an_import_that_fails(site, capfd, kind):
    write_metadata(site, "theirs", "1.2", {GROUPS[kind]: {"broken": "their_broken:X"}})
    code, lines = txt2img(capfd, **{kind: "broken"})
    assert code == (5 if kind == "backend" else 2) and len(lines) == 2
    for part in (
        "'broken'",
        "their_broken:X",
        "theirs 1.2",
        "RuntimeError: the library is too old",
    ):
        assert part in lines[0]
    assert lines[1].startswith("hint: update or uninstall it")


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("backend", "NotABackend", "gave a NotABackend, not a Backend"),
        ("backend", "mine", "is of type Mine, not a Backend class"),
        ("backend", "number", "is of type int, not a Backend class"),
        (
            "backend",
            "make_sampler",
            "cannot be loaded: TypeError: make_sampler() got an unexpected",
        ),
        ("sampler", "make_sampler", "is of type function, not a Sampler"),
        ("sampler", "number", "is of type int, not a Sampler"),
        ("schedule", "number", "is of type int, not a Spacing"),
        ("schedule", "OtherName", "is of type type, not a Spacing"),
        ("guidance", "number", "is not a subclass of ldmref.samplers.Guidance"),
        ("guidance", "OtherName", "has the name 'another'"),
    ],
)
def test_an_entry_point_to_something_else(site, capfd, kind, value, message):
    write_metadata(site, "theirs", "1.2", {GROUPS[kind]: {"odd": f"theirs:{value}"}})
    code, lines = txt2img(capfd, **{kind: "odd"})
    assert code in (2, 5) and len(lines) == 2 and lines[1].startswith("hint: ")
    assert message in lines[0] and "package theirs 1.2" in lines[0]


@pytest.mark.parametrize("kind", GROUPS)
def test_two_packages_claim_a_name(site, capfd, kind):
    group = GROUPS[kind]
    write_metadata(site, "theirs", "1.2", {group: {"mine": f"theirs:{OBJECTS[kind]}"}})
    write_metadata(site, "others", "3.4", {group: {"Mine": "their_broken:X"}})
    code, lines = txt2img(capfd, **{kind: "mine"})
    assert code == 2 and lines[1] == "hint: uninstall one of them"
    assert "two plug-ins are called 'mine'" in lines[0]
    assert "theirs 1.2" in lines[0] and "others 3.4" in lines[0]
    assert "theirs" not in sys.modules
    reasons = {row["topic"]: (row["ok"], row["advice"]) for row in doctor(capfd)}
    for name in ("mine", "Mine"):
        usable, reason = reasons[f"plug-in {name}"]
        assert usable is False and "two plug-ins are called" in reason and "uninstall" in reason


@pytest.mark.parametrize(
    ("kind", "name"), [("backend", "numpy"), ("sampler", "euler"), ("guidance", "cfg")]
)
def test_a_built_in_name_stays_the_built_in(site, capfd, kind, name):
    write_metadata(site, "theirs", "1.2", {GROUPS[kind]: {name: f"theirs:{OBJECTS[kind]}"}})
    code, lines = txt2img(capfd, **{kind: name})
    assert code == 0 and not [line for line in lines if "error" in line]
    assert "theirs" not in sys.modules
    (row,) = [row for row in doctor(capfd) if row["topic"] == f"plug-in {name}"]
    assert row["ok"] is False and "has the name of a built-in, which stays in use" in row["advice"]
    assert row["value"] == f"{kind} of theirs 1.2"


def doctor(capfd):
    assert main(["doctor", "--json"]) == 0
    return json.loads(capfd.readouterr().out)


def test_the_rest_works_beside_broken_plug_ins(site, capfd):
    broken = {group: {"broken": "their_broken:X"} for group in GROUPS.values()}
    write_metadata(site, "theirs", "1.2", broken | {"ldmref.datasets": {"broken": "none:x"}})
    for command in (["backends"], ["samplers"], ["models"], ["doctor"]):
        assert main(command) == 0
        assert "Traceback" not in capfd.readouterr().err
    code, lines = txt2img(capfd, backend="numpy", sampler="euler", guidance="rescale")
    assert code == 0 and not [line for line in lines if "error" in line]
    assert "their_broken" not in sys.modules


@pytest.mark.parametrize("setting", ["variable", "file"])
def test_a_setting_names_a_broken_backend(site, capfd, monkeypatch, setting):
    """Only what needs a backend fails, and a flag overrides the setting."""
    write_metadata(site, "theirs", "1.2", {"ldmref.backends": {"broken": "their_broken:X"}})
    if setting == "variable":
        monkeypatch.setenv("LDMREF_BACKEND", "broken")
    else:
        Path("ldmref.toml").write_text('[backend]\nname = "broken"\n')
    for command in (["backends"], ["samplers"], ["doctor"]):
        assert main(command) == 0
    capfd.readouterr()
    code, lines = txt2img(capfd)
    assert code == 5 and "the library is too old" in lines[0]
    assert txt2img(capfd, backend="numpy")[0] == 0


def test_only_the_named_plug_in_is_imported(site):
    """In a new process, whose modules are counted."""
    points = {
        "ldmref.backends": {"mine": "theirs:Mine", "broken": "their_broken:X"},
        "ldmref.samplers": {"their_sampler": "their_broken:X"},
    }
    write_metadata(site, "theirs", "1.2", points)
    code = """
import sys
import ldmref
from ldmref import modes
from ldmref.backends import available, get_backend
from ldmref.samplers import get_sampler
modes.txt2img(ldmref.random_model("tiny"), "cat", seed=1, steps=1)
available()
get_backend("numpy")
get_sampler("euler")
print([name for name in ("theirs", "their_broken") if name in sys.modules])
model = ldmref.random_model("tiny", backend="mine")
print(modes.txt2img(model, "cat", seed=1, steps=1).params["backend"]["name"])
print([name for name in ("theirs", "their_broken") if name in sys.modules])
"""
    path = f"{site}:{Path(ldmref.__file__).parents[1]}"
    ran = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert ran.stdout.splitlines() == ["[]", "mine", "['theirs']"], ran.stderr
