"""`ldmref passport make`, `list` and `check`: what they print, and their exit codes."""

import json

import pytest
from kit_runs import run_port, save_port, without

from ldmref.apps.cli.main import main
from ldmref.passport import kit_families


@pytest.fixture(scope="module")
def dump(kit, tmp_path_factory):
    """Return the folder of the dumps of a right port, and of one that lacks a call."""
    folder = tmp_path_factory.mktemp("dumps")
    port = run_port(kit, "numpy", "float32")
    for name, trace in {"right": port, "part": without(port, "transformer.002")}.items():
        save_port(trace, folder / name)
    return folder


def test_a_right_port_gets_a_badge(kit, dump, tmp_path, capsys):
    badge = str(tmp_path / "badge")
    arguments = ["passport", "check", str(dump / "right"), "--kit", str(kit.folder)]
    assert main([*arguments, "--badge", badge]) == 0
    assert f"flux-dev 3.0 ({kit.digest[:12]}): passes: " in capsys.readouterr().out
    assert json.loads((tmp_path / "badge.json").read_text())["message"].startswith("passes")
    assert (tmp_path / "badge.svg").read_text().startswith("<svg")
    assert main([*arguments, "--badge", badge]) == 8
    assert main([*arguments, "--badge", badge, "--overwrite"]) == 0


def test_a_wrong_port_exits_with_4_and_names_the_cause(kit, capsys):
    dump = next(dump for dump in kit.wrong if dump.name == "attention.other_scale")
    path = str(kit.folder / dump.path)
    assert main(["passport", "check", path, "--kit", str(kit.folder)]) == 4
    shown = capsys.readouterr()
    assert dump.cause in shown.out and "E-PASSPORT" in shown.err


def test_a_part_of_a_run_exits_with_10(kit, dump, capsys):
    path = str(dump / "part")
    assert main(["passport", "check", path, "--kit", str(kit.folder), "--json"]) == 10
    shown = capsys.readouterr()
    row = json.loads(shown.out.splitlines()[0])
    assert (
        row["missing"] == ["transformer.002"] and row["digest"] == kit.digest and not row["passed"]
    )
    assert "lacks transformer.002" in shown.err


def test_families_are_listed(capsys):
    assert main(["passport", "list"]) == 0
    assert capsys.readouterr().out.split() == kit_families()
    assert main(["passport", "list", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"family": "z-image-turbo", "in_all": False} in rows
    assert {"family": "z-image", "in_all": True} in rows


@pytest.mark.parametrize("arguments", [[], ["sd15", "--all"]])
def test_make_takes_a_family_or_all(arguments, tmp_path, capsys):
    assert main(["passport", "make", *arguments, "-o", str(tmp_path / "kit")]) == 2
    assert "a family or --all" in capsys.readouterr().err


def test_make_says_what_it_wrote(tmp_path, capsys):
    assert main(["passport", "make", "sd3-medium", "-o", str(tmp_path / "kit"), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["family"], row["version"]) == ("sd3-medium", "3.0") and row["faults"] >= 40
