"""docs/flow-schedules.md shows what `ldmref schedule` prints."""

import io
import re
import shlex
from pathlib import Path

import pytest

from ldmref.apps.cli.main import main

PAGE = (Path(__file__).parents[2] / "docs/flow-schedules.md").read_text("utf-8")
BLOCKS = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
SHOWN = [pair for block in BLOCKS for pair in re.findall(r"^\$ (.*)\n([^$]*)", block, re.M)]


@pytest.mark.parametrize(("command", "output"), SHOWN)
def test_the_page_shows_what_the_command_prints(monkeypatch, capsys, command, output):
    echo, _, piped = command.rpartition(" | ")
    monkeypatch.setattr("sys.stdin", io.StringIO(echo.removeprefix("echo ").strip('"')))
    assert main(shlex.split(piped)[1:]) == 0
    assert capsys.readouterr().out == output


def test_there_are_commands():
    assert len(SHOWN) == 4
