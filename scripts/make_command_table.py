"""Write ldmref/apps/cli/commands.json: the commands with their modules and first sentences.

    python scripts/make_command_table.py

`ldmref --help` prints the sentences without importing the commands, which takes ten times as long.
The order is that of the sections of the help; `tests/cli/test_help_imports.py` compares.
"""

from __future__ import annotations

import json
import pkgutil
import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ldmref.apps import cli
from ldmref.apps.cli.main import SECTIONS

TABLE = Path(cli.__file__).with_name("commands.json")


def make_table() -> dict[str, list[str]]:
    """Return [module, first sentence of its help] of each command of the sections."""
    found = {}
    for module in pkgutil.iter_modules(cli.__path__):
        commands = getattr(import_module(f"{cli.__name__}.{module.name}"), "COMMANDS", ())
        for command in commands:
            found[command.name] = [module.name, command.get_short_help_str(200)]
    return {name: found[name] for names in SECTIONS.values() for name in names}


def main() -> None:
    rows = (f"{json.dumps(name)}: {json.dumps(row)}" for name, row in make_table().items())
    TABLE.write_text("{\n" + ",\n".join(rows) + "\n}\n", "utf-8")


if __name__ == "__main__":
    main()
