"""Modules of users that end the process or print: an error with its place, and clean JSON."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import ldmref  # noqa: E402
from ldmref.apps.cli.main import main  # noqa: E402

MODULE = """
import sys
import torch
print("at import")
{at_import}

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner = torch.nn.Linear(4, 4)

    def forward(self, x):
        print("in forward")
        {in_forward}
        return self.inner(x) * {factor}

def make():
    print("in make")
    {in_make}
    return Net()

def pair():
    return make(), {{"x": torch.ones(2, 4)}}
"""
NOTHING = {"at_import": "", "in_forward": "", "in_make": "", "factor": 1}
PLACES = ("at_import", "in_make", "in_forward")
EXITS = {
    "sys.exit(0)": "SystemExit(0)",
    "raise SystemExit": "SystemExit(None)",
    "sys.exit('done')": "SystemExit('done')",
}
RUNS = {
    "diff": ("diff", "port", "--against", "theirs:make"),
    "passport make": ("passport", "make", "theirs:pair", "-o", "kit"),
    "passport check": ("passport", "check", "port", "--kit", "kit", "--against", "theirs:pair"),
}


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """Return a function that writes the module of a user; a port of it is recorded in `port`."""
    monkeypatch.chdir(tmp_path)

    def write(**changes):
        (tmp_path / "theirs.py").write_text(MODULE.format(**(NOTHING | changes)))
        sys.modules.pop("theirs", None)
        sys.dont_write_bytecode = True

    write()
    monkeypatch.syspath_prepend(tmp_path)
    import theirs as module

    network = module.Net()
    with torch.no_grad(), ldmref.recording(network, "port", call="transformer"):
        network(torch.ones(2, 4))
    yield write
    sys.modules.pop("theirs", None)


def ran(capsys, *arguments):
    capsys.readouterr()
    code = main(arguments)
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("statement", "words"), EXITS.items())
@pytest.mark.parametrize("command", RUNS)
def test_code_that_ends_the_process_is_an_error_that_says_where(
    theirs, capsys, command, statement, words, place
):
    if command == "passport check":
        assert ran(capsys, *RUNS["passport make"])[0] == 0
    theirs(**{place: statement})
    code, out, err = ran(capsys, *RUNS[command], "--json")
    assert code == 2
    error = json.loads(out)["error"]
    assert error["code"] in ("E-AGAINST", "E-PASSPORT") and error["exit"] == 2
    assert f"ended the process: {words} in theirs.py:" in error["message"]
    assert f"ended the process: {words}" in err


@pytest.mark.parametrize("place", PLACES[:2])
def test_an_interrupt_stays_one(theirs, capsys, place):
    theirs(**{place: "raise KeyboardInterrupt"})
    code, out, _ = ran(capsys, *RUNS["diff"], "--json")
    assert code == 130 and json.loads(out)["error"]["code"] == "E-CANCELLED"


@pytest.mark.parametrize(("factor", "expected"), [(1, 0), (2, 4)])
@pytest.mark.parametrize("command", ["diff", "passport check"])
def test_json_is_one_object_whatever_the_module_prints(theirs, capsys, command, factor, expected):
    assert ran(capsys, *RUNS["passport make"], "--json")[0] == 0
    theirs(factor=factor)
    code, out, err = ran(capsys, *RUNS[command], "--json")
    assert "in forward" in err and "at import" in err
    assert isinstance(json.loads(out), dict) and len(out.splitlines()) == 1
    if command == "diff":
        assert code == expected


def test_json_of_what_was_not_compared_is_one_object(theirs, capsys, tmp_path):
    np.savez(tmp_path / "more.npz", **{"transformer.000/other/output": np.ones((2, 4), "f4")})
    code, out, err = ran(capsys, "diff", "more.npz", "--against", "theirs:make", "--json")
    assert code == 10 and json.loads(out)["verdict"] in ("incomplete", "nothing compared")
    assert "E-NOT-COMPARED" in err


def test_functions_that_are_checked_may_exit_or_print(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "formulas.py").write_text(
        "import sys\nprint('hello')\ndef snr(alpha_bar):\n    sys.exit(0)\n"
    )
    code, out, err = ran(capsys, "check", "--against", "formulas.py", "--cases", "1", "--json")
    assert code == 1 and "ended the process: SystemExit(0) in formulas.py:4" in err
    assert all(json.loads(line) for line in out.splitlines())
