"""The page's scripts under a type checker and a linter; skipped without Node.js or its registry."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "scripts" / "check_javascript.py"


@pytest.fixture(scope="module")
def script():
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("check_javascript", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tools(script, skip):
    """The folder with both programs, which is kept: LDMREF_JAVASCRIPT_TOOLS, or in build."""
    folder = Path(os.environ.get("LDMREF_JAVASCRIPT_TOOLS") or script.TOOLS).resolve()
    try:
        script.install(folder)
    except script.Missing as error:
        skip("node", error)
    return folder


def test_every_script_is_marked(script):
    """Editors then show what the check finds; it needs no program."""
    assert len(list(script.SCRIPTS.rglob("*.js"))) > 40 and not script.list_unmarked(script.SCRIPTS)


def test_the_pages_scripts_have_no_fault(script, tools):
    assert not script.check(script.SCRIPTS, tools)


def test_faults_are_found(script, tools, tmp_path):
    """A wrong type, a name that does not exist, an unused one, and a script without the mark."""
    (tmp_path / "a.js").write_text(
        "// @ts-check\nconst unused = 1;\ndocument.body.hidden.x = 1;\nmissing();\n"
    )
    (tmp_path / "b.js").write_text("export const one = 1;\n")
    found = "\n".join(script.check(tmp_path, tools))
    for words in ("a.js(3,22): error TS2339", "no-unused-vars: 'unused'", "no-undef: 'missing'"):
        assert words in found, found
    assert "b.js: the first line must be // @ts-check" in found


def test_without_node_the_script_says_what_to_install(script, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda program: None)
    assert script.main([]) == 2
    assert "apt-get install nodejs npm" in capsys.readouterr().err
