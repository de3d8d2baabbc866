"""The flags of the commands that generate images: parameters, model and files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from ldmref.apps.foreign import FOREIGN, foreign_names, foreign_value
from ldmref.declare import Doc, Field, Flag, flag_names
from ldmref.errors import UsageError
from ldmref.modes.aliases import ALIASES, NOTES
from ldmref.samplers import GUIDANCES, SAMPLERS, SPACINGS
from ldmref.samplers.noise import STREAMS
from ldmref.support.config import read_number

Option = Callable[[Callable], Callable]
option = click.option
PATH = click.Path(readable=False)  # any text; shells complete it as a file
# Parameters that a mode takes once, and a command several times: one value for each image.
SOURCES = ("image", "mask", "segmentation")
REPEATED = (*SOURCES, "negative_prompt")
SECTIONS = {"model": "Model", "output": "Output"}  # of the help, each begun by an option
NAMES = {
    "sampler": SAMPLERS,
    "schedule": SPACINGS,
    "guidance": GUIDANCES,
    "rng": STREAMS,
}  # which a shell completes


class FileType(click.ParamType):
    """A type whose values a shell completes as files."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return PATH.shell_complete(ctx, param, incomplete)


class WholeNumber(click.types.IntParamType):
    """A whole number as `read_number` reads it."""

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        return _plain(self, value, int, param, ctx)


class Number(click.types.FloatParamType):
    """A number as `read_number` reads it."""

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        return _plain(self, value, float, param, ctx)


def _plain(
    kind: click.ParamType,
    value: object,
    number: type[int] | type[float],
    param: click.Parameter | None,
    ctx: click.Context | None,
) -> Any:
    try:
        return read_number(str(value), number)
    except ValueError:
        kind.fail(f"{value!r} is not a valid {kind.name}.", param, ctx)


class Notation(FileType):
    """A value that its field's flag parses."""

    def __init__(self, flag: Flag):
        self.name = flag.metavar or "TEXT"
        self._parse = flag.parse

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        return self._parse(value) if isinstance(value, str) and self._parse else value


class LoraFile(FileType):
    """A path, or a path and a weight with a colon between: `style.safetensors:0.8`."""

    name = "FILE[:WEIGHT]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path, colon, weight = value.rpartition(":")
        if not colon or Path(value).is_file():
            return value, 1.0
        try:
            return path, read_number(weight)
        except ValueError:
            raise UsageError(
                f"the weight of a LoRA must be a number, not {weight!r}",
                code="E-LORA-WEIGHT",
                hint="--lora style.safetensors:0.8",
            ) from None


def parameter_option(field: Field) -> Option:
    """Return the flag of a parameter, which is None if it is left out: the default."""
    flag = field.get(Flag) or Flag()
    flags = flag_names(field)
    if field.kind is bool:
        if field.optional:
            flags = (f"{flags[0]}/--no-{flags[0].removeprefix('--')}",)
        return option(*flags, field.name, is_flag=True, default=None, help=describe_flag(field))
    kind: Any = {int: WholeNumber(), float: Number()}.get(field.kind, str)
    if field.choices and flag.metavar is None:
        kind = click.Choice(field.choices)
    elif flag.parse is not None:
        kind = Notation(flag)
    elif flag.metavar == "FILE":
        kind = PATH
    known = field.choices or NAMES.get(field.name, ())
    return option(
        *flags,
        field.name,
        type=kind,
        metavar=flag.metavar or {int: "N", float: "X"}.get(field.kind),
        help=describe_flag(field),
        multiple=flag.multiple or field.name in REPEATED,
        required=field.required,
        shell_complete=(lambda ctx, param, start: [n for n in known if n.startswith(start)])
        if known
        else None,
    )


def describe_flag(field: Field) -> str:
    """Return the help text of a parameter's flag, with its default."""
    flag = field.get(Flag) or Flag()
    doc = field.get(Doc) or Doc("")
    text = (flag.help or doc.text).replace("`", "")
    if field.required or isinstance(field.default, bool) or field.default in ("", ()):
        return text
    default = doc.none if field.default is None else field.default
    return text if default == "" else f"{text} Default: {default}."


def foreign_option(field: Field, name: str) -> Option:
    """Return the hidden flag of another program's name, whose value may mean something else."""
    kind: Any = {int: WholeNumber(), float: Number()}.get(field.kind, str)
    return option(f"--{name.replace('_', '-')}", name, type=kind, hidden=True)


def parameter_options(fields: Iterable[Field]) -> tuple[Option, ...]:
    """Return the flags of parameters, except for those that a command declares itself.

    The command must be a `ParameterCommand`.
    """
    options: list[Option] = []
    for field in fields:
        if flag_names(field):
            options.append(parameter_option(field))
            options += [foreign_option(field, name) for name in foreign_names(field)]
    return tuple(options)


class ParameterCommand(click.Command):
    """A command whose flags are parameters, also by the names of other programs."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; what was given under another program's name becomes ours.

        Raises:
            UsageError: A parameter has two names.
        """
        rest = super().parse_args(ctx, args)
        for name in FOREIGN:
            value = ctx.params.pop(name, None)
            if value is None:
                continue
            meant = ALIASES[name]
            if is_set(ctx.params.get(meant)):
                message = f"{meant} is given twice, also as --{name.replace('_', '-')}"
                raise UsageError(message, code="E-USAGE", hint=f"leave one out: {NOTES[name]}")
            ctx.params[meant] = foreign_value(name, value)
        return rest


class ImageCommand(ParameterCommand):
    """A command with its options in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help of every option, below the heading of its section."""
        title = "Image"
        rows = {}
        for param in self.get_params(ctx):
            title = SECTIONS.get(param.name or "", title)
            if isinstance(param, click.Option):
                record = param.get_help_record(ctx)
                rows.setdefault(title, []).extend([record] if record else [])
        for title, records in rows.items():
            with formatter.section(title):
                formatter.write_dl(records)


def is_set(value: object) -> bool:
    """Return whether a flag was given; otherwise it is None, or () if it may be repeated."""
    return value is not None and not (isinstance(value, tuple) and not value)


def listed(value: object) -> list[Any]:
    """Return the values of a flag that may be repeated; a replay gives a single one."""
    if isinstance(value, tuple | list):
        return list(value)
    return [] if value is None else [value]


def with_options(*groups: Iterable[Option]) -> Option:
    """Return one decorator that adds all options."""

    def decorate(function: Callable) -> Callable:
        for add in reversed([add for group in groups for add in group]):
            function = add(function)
        return function

    return decorate
