"""docs/checking.md shows what the program prints, and its Python blocks run."""

import re
import shlex
import sys
from pathlib import Path

from ldmref.apps.cli.main import main
from ldmref.check import identities

PAGE = (Path(__file__).parents[2] / "docs" / "checking.md").read_text()
BLOCKS = re.findall(r"```(console|python)\n(.*?)```", PAGE, re.DOTALL)


def without_rounding(text):
    """The error of a formula that is right depends on the rounding of the machine."""
    text = re.sub(r"worst +\S+(?= of .* ok$)", "worst", text, flags=re.MULTILINE)
    return re.sub(r"ratio \S+ +(?=ok$)", "ratio ", text, flags=re.MULTILINE)


def test_the_page_shows_what_the_program_prints(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))  # forgets the page's own modules
    shown = 0
    for kind, block in BLOCKS:
        if kind == "python":
            capfd.readouterr()
            exec(compile(block, "docs/checking.md", "exec"), {})  # the project's own page
            comments = re.findall(r"^ +# (.*)", block, re.MULTILINE)  # what the block prints
            assert capfd.readouterr().out.splitlines() == comments
            if file := re.match(r"# (\w+\.py)\n", block):
                (tmp_path / file[1]).write_text(block)
            continue
        command, _, output = block.removeprefix("$ ").partition("\n")
        program, *argv = shlex.split(command)
        capfd.readouterr()
        main(argv)
        out, err = capfd.readouterr()
        *notes, error = [*err.splitlines(), ""] if "error[" not in err else err.splitlines()
        printed = "\n".join([*notes, *out.splitlines(), *([error] if error else [])]) + "\n"
        assert program == "ldmref"
        assert without_rounding(printed) == without_rounding(output)
        shown += 1
    assert shown >= 2


def test_the_page_says_how_many_gradients_numpy_leaves_out():
    gradients = sum(identity.gradients for identity in identities())
    assert f"note: {gradients} gradients are not checked, because numpy computes none" in PAGE
