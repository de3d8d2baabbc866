"""Samplers of other packages: installed as they are, with metadata and entry points."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.metadata import PathDistribution

import pytest

from ldmref.apps.cli.main import main
from ldmref.backends import get_backend
from ldmref.errors import UsageError
from ldmref.models.presets import preset
from ldmref.modes import plan
from ldmref.samplers import ALIASES, SAMPLERS, Sampler, get_sampler, heun
from ldmref.support.plugins import list_plugins, list_unusable

MODULE = "theirs_of_test_plugins"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package that offers samplers: `install("their-package", mine="module:object")`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    (tmp_path / f"{MODULE}.py").write_text(
        "from ldmref.samplers import Sampler, heun\n"
        "mine = Sampler(heun, 2, 2, False, 'nobody 2026')\nnumber = 3\n"
        "def __getattr__(name):\n"
        "    if name == 'panics':\n"
        "        raise type('Panic', (BaseException,), {})('no Exception')\n"
        "    raise SystemExit(3) if name == 'leaves' else AttributeError(name)\n"
    )

    def write(package, content=None, group="ldmref.samplers", **points):
        folder = tmp_path / f"{package.replace('-', '_')}-1.2.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        lines = [f"{name} = {value}" for name, value in points.items()]
        text = "\n".join(lines) if content is None else content
        (folder / "entry_points.txt").write_text(f"[{group}]\n{text}\n")

    yield write
    sys.modules.pop(MODULE, None)


def test_a_plug_in_adds_a_sampler(install):
    install("their-package", Their_Method=f"{MODULE}:mine")
    mine = replace(Sampler(heun, 2, 2, False, "nobody 2026"), name="Their_Method")
    assert get_sampler("Their_Method") == get_sampler("their_method") == mine
    with pytest.raises(UsageError) as caught:
        get_sampler("their_metod")
    assert caught.value.code == "E-SAMPLER" and "Their_Method" in caught.value.hint


def test_a_plug_in_is_imported_only_when_asked_for(install):
    install("their-package", mine=f"{MODULE}:mine", broken="no_such_module:x")
    assert get_sampler("euler") is SAMPLERS["euler"]
    assert plan("txt2img", preset("tiny"), prompt="cat", sampler="euler").params
    assert MODULE not in sys.modules


@pytest.mark.parametrize(
    "value",
    [
        "no_such_module:x",
        f"{MODULE}:missing",
        f"{MODULE}:leaves",
        f"{MODULE}:panics",
        f"{MODULE}:number",
        ":",
    ],
)
def test_a_broken_plug_in_is_named_with_its_package_and_hurts_nobody_else(install, value):
    install("their-package", broken=value, mine=f"{MODULE}:mine")
    with pytest.raises(UsageError) as caught:
        get_sampler("broken")
    assert caught.value.code == "E-PLUGIN" and caught.value.hint
    assert value in str(caught.value) and "their-package 1.2" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert get_sampler("mine").name == "mine" and get_sampler("heun") is SAMPLERS["heun"]


@pytest.mark.parametrize("name", ["heun", "Heun", "plms"])
def test_a_built_in_name_cannot_be_taken(install, name):
    install("their-package", **{name: f"{MODULE}:mine"})
    for built_in in {*SAMPLERS, *ALIASES, name}:
        assert get_sampler(built_in) in SAMPLERS.values()
    assert MODULE not in sys.modules
    assert "their-package 1.2" in list_unusable("ldmref.samplers", {*SAMPLERS, *ALIASES})[name]


def test_a_package_is_read_once_however_much_it_offers(install, tmp_path, monkeypatch):
    install("their-package", **{f"method_{n}": f"{MODULE}:mine" for n in range(50)})
    read = []
    whole = PathDistribution.metadata.fget
    counted = property(lambda package: read.append(package) or whole(package))
    monkeypatch.setattr(PathDistribution, "metadata", counted)
    assert list_plugins("ldmref.samplers")["method_7"] == "their-package 1.2"
    assert not list_unusable("ldmref.samplers", {*SAMPLERS})
    own = [package for package in read if tmp_path in package.locate_file("x").parents]
    assert len(own) < 20  # also to find which of two packages of one name counts


def test_two_packages_with_one_name(install):
    install("their-package", mine=f"{MODULE}:mine")
    install("another-package", mine=f"{MODULE}:number")
    with pytest.raises(UsageError) as caught:
        get_sampler("mine")
    assert caught.value.code == "E-PLUGIN"
    assert "their-package" in str(caught.value) and "another-package" in str(caught.value)


@pytest.mark.parametrize("name", [None, 3, ""])
def test_what_is_no_name_is_an_unknown_sampler(name):
    with pytest.raises(UsageError) as caught:
        get_sampler(name)
    assert caught.value.code == "E-SAMPLER"


COMMANDS = (["samplers"], ["samplers", "--json"], ["backends"], ["backends", "--json"], ["doctor"])


def test_the_command_lists_plug_ins_and_why_one_cannot_be_used(install, capfd):
    install(
        "their-package", mine=f"{MODULE}:mine", broken="no_such_module:x", heun=f"{MODULE}:mine"
    )
    assert main(["samplers", "--json"]) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == [*SAMPLERS, "broken", "heun", "mine"]
    assert len({tuple(row) for row in rows}) == 1
    by_package = {row["name"]: row for row in rows if row["package"]}
    assert {row["package"] for row in by_package.values()} == {"their-package 1.2"}
    assert [by_package[name]["reason"] for name in ("mine", "broken")] == ["", ""]
    assert "heun" in by_package["heun"]["reason"]
    assert main(["samplers"]) == 0
    assert "plug-in of their-package 1.2" in capfd.readouterr().out


@pytest.mark.parametrize("group", ["ldmref.samplers", "ldmref.backends"])
@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_a_listing_imports_no_plug_in(install, capfd, argv, group):
    install("their-package", group=group, mine=f"{MODULE}:mine")
    assert main(argv) == 0
    assert MODULE not in sys.modules
    listing = "backends" if argv == ["doctor"] else argv[0]
    if group == f"ldmref.{listing}":
        out = capfd.readouterr().out
        assert "mine" in out and "their-package 1.2" in out


@pytest.mark.parametrize("content", ["bare", "bare =", "= bare", "[", "\x00", "odd = a:b:c d"])
def test_a_damaged_list_of_entry_points_hurts_nobody_else(install, capfd, content):
    install("broken-package", content=content)
    install("their-package", mine=f"{MODULE}:mine")
    assert get_sampler("mine").name == "mine"
    for argv in COMMANDS[:-1]:
        assert main(argv) == 0
    with pytest.raises(UsageError) as caught:
        get_sampler("no_such_sampler")
    assert caught.value.code == "E-SAMPLER"
    with pytest.raises(UsageError) as caught:
        get_backend("no_such_backend")
    assert caught.value.code == "E-BACKEND-NAME"
    if content == "bare":
        assert "broken-package 1.2 cannot be read" in caught.value.hint


def test_a_package_without_metadata(install, tmp_path, capfd):
    install("their-package", mine=f"{MODULE}:mine")
    (tmp_path / "their_package-1.2.dist-info" / "METADATA").unlink()
    assert main(["samplers"]) == 0 and get_sampler("mine").name == "mine"
