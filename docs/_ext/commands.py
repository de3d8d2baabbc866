"""The reference of the command line, from the declarations of the commands."""

from __future__ import annotations

import inspect
import re

import click

from ldmref.apps.cli.main import SECTIONS, cli
from ldmref.apps.cli.options import SECTIONS as OPTION_SECTIONS
from ldmref.apps.cli.options import ImageCommand


def make_page() -> dict[str, str]:
    """Return the page of all commands, by its place."""
    parts = [
        "# All commands and flags\n\nThe text of `ldmref COMMAND --help`. "
        "[The command line](command-line.md) explains how\nthe commands work together, "
        "and [Modes](modes.md) what they compute.\n"
    ]
    listed = [name for names in SECTIONS.values() for name in names]
    sections = {**SECTIONS, "More": [name for name in cli.commands if name not in listed]}
    for title, names in sections.items():
        commands = [cli.commands[name] for name in names if not cli.commands[name].hidden]
        if commands:
            parts.append(f"## {title}\n")
            parts += [describe(command, f"ldmref {command.name}") for command in commands]
    return {"commands.md": "\n".join(parts)}


def describe(command: click.Command, name: str, level: int = 3) -> str:
    """Return the section of a command and of its subcommands."""
    context = click.Context(command, info_name=name, terminal_width=100)
    usage = " ".join(command.collect_usage_pieces(context))
    parts = [f"{'#' * level} {name}\n", f"```text\n{name} {usage}\n```\n", _help(command.help)]
    parts += [f"{title}\n\n{rows}" for title, rows in option_lists(command, context)]
    if command.epilog:
        parts.append(_help(command.epilog))
    for child, subcommand in getattr(command, "commands", {}).items():
        parts.append(describe(subcommand, f"{name} {child}", level + 1))
    return "\n".join(parts)


def option_lists(command: click.Command, context: click.Context) -> list[tuple[str, str]]:
    """Return the title and the rows of each section of a command's flags."""
    title = "Image" if isinstance(command, ImageCommand) else ""
    rows: dict[str, list[str]] = {}
    for param in command.get_params(context):
        if isinstance(command, ImageCommand):
            title = OPTION_SECTIONS.get(param.name or "", title)
        record = param.get_help_record(context)
        if isinstance(param, click.Option) and record and "--help" not in record[0]:
            flags = re.sub(r"\s+", " ", record[0])
            rows.setdefault(title, []).append(f"`{flags}`\n: {_escape(record[1])}\n")
    return [(f"**{title or 'Flags'}**", "\n".join(group)) for title, group in rows.items()]


def _help(text: str | None) -> str:
    """Return a help text as Markdown; a paragraph after \\b keeps its lines."""
    parts = []
    for paragraph in inspect.cleandoc(text or "").replace("\f", "").split("\n\n"):
        if paragraph.startswith("\b"):
            lines = paragraph.removeprefix("\b").strip("\n")
            parts.append(f"```text\n{inspect.cleandoc(lines)}\n```\n")
        else:
            parts.append(f"{_escape(paragraph)}\n")
    return "\n".join(parts)


def _escape(text: str) -> str:
    return re.sub(r"([$*\\<>_|\[\]`#])", r"\\\1", text)
