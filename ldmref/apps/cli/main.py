"""The command `ldmref`: its commands by name, and the place where errors become exit codes.

The modules of the commands import the networks. `ldmref --help` needs none of them, and a command
only its own. So the sentences of the help are read from `commands.json`, which
`scripts/make_command_table.py` writes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from functools import cache
from importlib import import_module
from itertools import takewhile
from pathlib import Path

import click

import ldmref
from ldmref.apps.cli.completion import VARIABLE, complete
from ldmref.apps.cli.flags import simplify_options
from ldmref.apps.cli.messages import quote_command
from ldmref.apps.cli.progress import ending
from ldmref.apps.cli.standard_streams import finish_streams, prepare_streams
from ldmref.errors import UsageError, closest

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


OWN_FLAGS = {"-h", "--help", "--version"}
OWN_NAMES = {flag.lstrip("-") for flag in OWN_FLAGS}
DEFAULT_COMMAND = "txt2img"
MOVED = {"bench": "python -m benchmarks.alone, in a checkout of the repository"}
SECTIONS = {
    "Generate": (
        "txt2img",
        "img2img",
        "inpaint",
        "interpolate",
        "invert",
        "edit",
        "superres",
        "seg2img",
        "batch",
        "grid",
        "run",
    ),
    "Serve": ("serve", "mcp"),
    "Inspect": (
        "record",
        "trace",
        "words",
        "info",
        "models",
        "samplers",
        "schedule",
        "guidance",
        "backends",
        "config",
        "completion",
    ),
    "Verify": (
        "check",
        "cases",
        "passport",
        "diff",
        "differences",
        "pitfalls",
        "doctor",
        "evaluate",
        "ledger",
    ),
    "Convert and train": ("convert", "quantize", "export", "train", "finetune"),
}


def normalise_flag(name: str) -> str:
    """Return our name for a flag of another program, with hyphens instead of underscores."""
    name = name.replace("_", "-")
    return name if name in OWN_NAMES else aliases().get(name, name)


@cache
def aliases() -> dict[str, str]:
    """Return the names of other programs' flags, each with ours."""
    from ldmref.apps.foreign import flag_aliases
    from ldmref.modes.registry import MODES

    parameters = {name: p for mode in MODES.values() for name, p in mode.parameters.items()}
    return {"b": "c"} | flag_aliases(parameters)


class Commands(click.Group):
    """The commands of ldmref; a prompt without a command generates an image."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert the default command where none is named, then parse the arguments."""
        if args[:1] == ["help"]:
            args = [*args[1:], "--help"]
        if args and args[0] not in self.commands and args[0] not in OWN_FLAGS:
            args = self.expand_shorthand(args)
        return super().parse_args(ctx, args)

    def expand_shorthand(self, args: list[str]) -> list[str]:
        """Expand `ldmref "red heart"`, `ldmref dog` and `ldmref -p heart` to `ldmref txt2img ...`.

        A single word is a prompt unless it resembles the name of a command. Even then it is a
        prompt if a flag follows that txt2img has and the command does not.

        Raises:
            UsageError: The command is misspelt, or the prompt has several words without quotes.
        """
        word = args[0]
        if word.startswith("-") and word != "-":
            command = next((a for a in args if a in self.commands), None)
            if command is None or {"-p", "--prompt"} & set(args):
                return [DEFAULT_COMMAND, *args]
            args.remove(command)
            hint = quote_command(["ldmref", command, *args])
            raise UsageError(f"{word} must come after the command", code="E-USAGE", hint=hint)
        if word in MOVED:
            raise UsageError(f"{word} is no command any more", code="E-USAGE", hint=MOVED[word])
        words = list(takewhile(lambda a: not a.startswith("-"), args))
        close = closest(word, self.commands) if len(words) == 1 else ""
        if " " in word.strip() or (len(words) <= 1 and not close):
            return [DEFAULT_COMMAND, *args]
        if close and self._has_own_flag(args, self.commands[close]):
            return [DEFAULT_COMMAND, *args]
        typed = [" ".join(words)] if len(words) > 1 else [DEFAULT_COMMAND, word]
        hint = "to generate an image of it: " + quote_command(
            ["ldmref", *typed, *args[len(words) :]]
        )
        close = close or closest(word, self.commands)
        if close:
            hint = f"did you mean {close!r}? Otherwise, {hint}"
        raise UsageError(f"no such command: {word}", code="E-USAGE", hint=hint)

    def _has_own_flag(self, args: list[str], other: click.Command) -> bool:
        """Return whether one of the flags belongs to txt2img but not to another command."""
        from ldmref.apps.cli.failures import list_flags

        names = {
            normalise_flag(arg.lstrip("-").partition("=")[0]) for arg in args if arg[:1] == "-"
        }
        own, others = (
            {flag.lstrip("-") for flag in list_flags(command)}
            for command in (self.commands[DEFAULT_COMMAND], other)
        )
        return bool(names & own - others)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands in sections, each with the first sentence of its help."""
        sections = dict(SECTIONS)
        named = {name for names in sections.values() for name in names}
        sections["More"] = tuple(name for name in self.commands if name not in named)
        for title, names in sections.items():
            rows = [(name, SUMMARIES[name][1]) for name in names]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


@click.group(
    cls=Commands,
    invoke_without_command=True,
    epilog="""\b
ldmref "red heart"      is short for ldmref txt2img "red heart".
ldmref COMMAND --help   shows the flags of a command.""",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": normalise_flag,
        "max_content_width": 100,
    },
)
@click.version_option(ldmref.__version__, prog_name="ldmref")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Generate images from text with latent diffusion models, and check every formula."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


cli.commands = Lazy()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line, and return the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    prepare_streams()
    try:
        with ending():
            code = _run(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        code = 141
    except BaseException as error:  # plug-ins and libraries raise any class
        from ldmref.apps.cli.failures import fail, to_usage_error

        command = find_command(argv)
        if isinstance(error, click.ClickException):
            error = to_usage_error(error, command, cli.commands, aliases())
        code = fail(error, argv, command)
    finish_streams()
    return code


def _run(argv: list[str]) -> int:
    instruction = os.environ.get(VARIABLE)
    if instruction:
        return complete(cli, instruction)
    try:
        with cli.make_context("ldmref", argv) as ctx:
            cli.invoke(ctx)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    return 0


def find_command(argv: Sequence[str]) -> click.Command:
    """Return the command (for `config show`: `show`) that a command line names, or `txt2img`."""
    default = cli.commands[DEFAULT_COMMAND]
    command = cli.commands.get(argv[0], default) if argv else default
    if isinstance(command, click.Group) and len(argv) > 1:
        implied = command.commands.get(getattr(command, "default", ""), command)
        return command.commands.get(argv[1], implied)
    return command
