"""`ldmref --help` imports the names of the commands, and none of the commands."""

from __future__ import annotations

import subprocess
import sys

from ldmref.apps.cli.main import SECTIONS, SUMMARIES, cli

COUNT = "import sys, {}\n{}\nprint(*sys.modules)"


def modules(imports: str, code: str = "") -> set[str]:
    """Return the modules of a new interpreter after an import and a line of code."""
    command = [sys.executable, "-c", COUNT.format(imports, code)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(ran.stdout.splitlines()[-1].split())


def test_help_imports_less_than_numpy():
    """It took five times as long as `import numpy`, for the networks of every command."""
    loaded = modules("ldmref.apps.cli.main", "ldmref.apps.cli.main.main(['--help'])")
    assert "click" in loaded and len(loaded) < len(modules("numpy"))
    assert not {"numpy", "PIL", "tokenizers", "ldmref.models", "ldmref.modes"} & loaded
    assert {name for name in loaded if name.startswith("ldmref.apps.cli.")} == {
        "ldmref.apps.cli.completion",
        "ldmref.apps.cli.flags",
        "ldmref.apps.cli.main",
        "ldmref.apps.cli.messages",
        "ldmref.apps.cli.progress",
        "ldmref.apps.cli.standard_streams",
    }


def test_the_table_says_what_the_commands_say():
    """After a change of a command or a sentence: python scripts/make_command_table.py."""
    for name, (module, summary) in SUMMARIES.items():
        command = cli.commands[name]
        commands = sys.modules[f"ldmref.apps.cli.{module}"].COMMANDS
        assert {c.name for c in commands} <= set(SUMMARIES) and command in commands, name
        assert command.get_short_help_str(200) == summary, name
        assert cli.commands[name] is command
    assert {name for names in SECTIONS.values() for name in names} == set(SUMMARIES)
    assert len(cli.commands) == len(SUMMARIES) == len(dict(cli.commands))
