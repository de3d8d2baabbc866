"""Options that are typed twice: with two values, all but those that may be repeated are refused.

click takes the last value without a word, so that `-p dog -p cat` would generate only the cat.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from ldmref.errors import UsageError


class Once(click.Option):
    """An option that has one value."""

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Let the parser keep every value, instead of the last."""
        self.multiple = True
        try:
            super().add_to_parser(parser, ctx)
        finally:
            self.multiple = False

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """Take the value that all occurrences agree on.

        Raises:
            UsageError: they do not.
        """
        values = opts.get(self.name or "")
        if isinstance(values, list):
            others = [value for value in values if value != values[0]]
            if others and not ctx.resilient_parsing:
                raise self._refusal(values[0], others[0])
            opts = {**opts, self.name: values[-1]}
        return super().handle_parse_result(ctx, opts, args)

    def _refusal(self, first: Any, second: Any) -> UsageError:
        flag = max(self.opts, key=len)
        if self.is_flag:
            message = f"{flag} and {max(self.secondary_opts, key=len)} exclude each other"
        else:
            message = f"{flag} is given twice, as {first!r} and {second!r}"
        return UsageError(message, code="E-USAGE", hint="give it once")


def refuse_repetition(command: click.Command) -> None:
    """Make every option of a command and of its subcommands refuse a second value, unless it is
    declared as `multiple`."""
    for param in command.params:
        if type(param) is click.Option and not param.multiple and not param.count:
            param.__class__ = Once
    for subcommand in getattr(command, "commands", {}).values():
        refuse_repetition(subcommand)
