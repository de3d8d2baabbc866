"""`ldmref --help` imports the names of the commands, and none of the commands."""

from __future__ import annotations

import subprocess
import sys

from ldmref.cli.command_table import SUMMARIES
from ldmref.cli.main import SECTIONS, cli

COUNT = "import sys, {}\n{}\nprint(*sys.modules)"


def modules(imports: str, code: str = "") -> set[str]:
    """Return the modules of a new interpreter after an import and a line of code."""
    command = [sys.executable, "-c", COUNT.format(imports, code)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(ran.stdout.splitlines()[-1].split())


def test_help_imports_less_than_numpy():
    """It took five times as long as `import numpy`, for the networks of every command."""
    loaded = modules("ldmref.cli.main", "ldmref.cli.main.main(['--help'])")
    assert "click" in loaded and len(loaded) < len(modules("numpy"))
    assert not {"numpy", "PIL", "tokenizers", "ldmref.models", "ldmref.modes"} & loaded
    assert {name for name in loaded if name.startswith("ldmref.cli.")} == {
        "ldmref.cli.command_table", "ldmref.cli.completion", "ldmref.cli.flags", "ldmref.cli.main",
        "ldmref.cli.messages", "ldmref.cli.progress", "ldmref.cli.standard_streams",
    }  # fmt: skip


def test_the_table_says_what_the_commands_say():
    """A command that another module gains, or a sentence that changes, belongs in the table."""
    for name, (module, summary) in SUMMARIES.items():
        command = cli.commands[name]
        commands = sys.modules[f"ldmref.cli.{module}"].COMMANDS
        assert {c.name for c in commands} <= set(SUMMARIES) and command in commands, name
        assert command.get_short_help_str(200) == summary, name
        assert cli.commands[name] is command
    assert {name for names in SECTIONS.values() for name in names} == set(SUMMARIES)
    assert len(cli.commands) == len(SUMMARIES) == len(dict(cli.commands))
