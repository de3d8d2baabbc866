"""The commands by name: the module of each, and the sentence that `ldmref --help` prints.

The modules import the networks. `ldmref --help` needs none of them, and a command only its own. So
the sentences are read from `commands.json`, which `scripts/make_command_table.py` writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, MutableMapping
from importlib import import_module
from pathlib import Path

import click

from ldmref.apps.cli.flags import simplify_options

SUMMARIES: dict[str, list[str]] = json.loads(
    Path(__file__).with_name("commands.json").read_text("utf-8")
)
"""Name of a command: [its module in `ldmref.apps.cli`, the first sentence of its help]."""


class Lazy(MutableMapping[str, click.Command]):
    """The commands of `SUMMARIES`, each imported when it is asked for."""

    def __init__(self) -> None:
        self._loaded: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._loaded:
            module, _ = SUMMARIES[name]
            for command in import_module(f"ldmref.apps.cli.{module}").COMMANDS:
                simplify_options(command)
                self._loaded.setdefault(command.name, command)
        return self._loaded[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        raise TypeError("commands cannot be removed")

    def __contains__(self, name: object) -> bool:
        return name in SUMMARIES

    def __iter__(self) -> Iterator[str]:
        return iter(SUMMARIES)

    def __len__(self) -> int:
        return len(SUMMARIES)
