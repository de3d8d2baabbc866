"""Options of every command: each has one value, and its help names its range in words.

By default, click takes the last of several values silently: `--seed 1 --seed 2` would only use the
second seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from ldmref.errors import UsageError

METAVARS = {
    click.types.IntParamType: "N",
    click.IntRange: "N",
    click.types.FloatParamType: "X",
    click.FloatRange: "X",
}


class SingleOption(click.Option):
    """An option that has one value; if it is given twice, the values must be equal."""

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Describe the range of a number in words (from click 8.2 on)."""
        extra = super().get_help_extra(ctx)
        if isinstance(self.type, click.IntRange | click.FloatRange) and "range" in extra:
            extra["range"] = describe_range(self.type)
        return extra

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Make the parser keep every value instead of the last one."""
        self.multiple = True
        try:
            super().add_to_parser(parser, ctx)
        finally:
            self.multiple = False

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """Take the value if all occurrences agree.

        Raises:
            UsageError: They do not agree.
        """
        values = opts.get(self.name or "")
        if isinstance(values, list):
            others = [value for value in values if value != values[0]]
            if others and not ctx.resilient_parsing:
                raise self._refusal(values[0], others[0])
            opts = {**opts, self.name: values[-1]}
        return super().handle_parse_result(ctx, opts, args)

    def _refusal(self, first: object, second: object) -> UsageError:
        flag = max(self.opts, key=len)
        if self.is_flag:
            message = f"{flag} and {max(self.secondary_opts, key=len)} exclude each other"
        else:
            message = f"{flag} is given twice, as {first!r} and {second!r}"
        return UsageError(message, code="E-USAGE", hint="give it once")


def describe_range(kind: click.IntRange | click.FloatRange) -> str:
    """Describe a range of numbers in words.

    >>> describe_range(click.IntRange(1, 10)), describe_range(click.FloatRange(0, min_open=True))
    ('from 1 to 10', 'above 0')
    """
    closed = not (kind.min_open or kind.max_open)
    if closed and kind.min is not None and kind.max is not None:
        return f"from {kind.min} to {kind.max}"
    limits = []
    if kind.min is not None:
        limits.append(f"{'above' if kind.min_open else 'at least'} {kind.min}")
    if kind.max is not None:
        limits.append(f"{'below' if kind.max_open else 'at most'} {kind.max}")
    return ", ".join(limits)


def simplify_options(command: click.Command) -> None:
    """Give the options of a command and its subcommands one value each, and short metavars.

    Options that are declared as `multiple` or `count` may still be repeated.
    """
    for param in command.params:
        if type(param) is click.Option and not param.multiple and not param.count:
            param.__class__ = SingleOption
        if isinstance(param, click.Option) and param.metavar is None:
            param.metavar = METAVARS.get(type(param.type)) if not param.is_flag else None
    for subcommand in getattr(command, "commands", {}).values():
        simplify_options(subcommand)
