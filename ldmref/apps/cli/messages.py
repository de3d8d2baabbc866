"""Messages for the terminal: parameters as flags, quoted command lines, shortened texts.

Errors and warnings of the library name parameters as in Python: `cfg_scale must be ...`, `give
config=`, `ema=False reads the last weights`. On the command line they name the flags of the
command instead: `--cfg`, `--model-config`, `--no-ema`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

import click

LOADING = {"config": "model_config", "lora": "loras"}  # parameter of `load` -> of a command
ASSIGNMENT = re.compile(
    r"(?:(?P<before>--[\w-]+) \()?"
    r"\b(?P<name>[a-z_]+)=(?P<value>True|False|\"[^\"]*\"|'[^']*'|[\w.-]*)"
    r"(?(before)\)|(?: \(--[\w-]+\))?)"
)
SUBJECT = re.compile(r"[a-z_]+(?= must )")


def options_by_parameter(command: click.Command) -> dict[str, click.Option]:
    """Return the options of a command by the Python names of their parameters."""
    options = {p.name: p for p in command.params if isinstance(p, click.Option) and p.name}
    return options | {name: options[to] for name, to in LOADING.items() if to in options}


def rewrite_as_flags(text: str, command: click.Command) -> str:
    """Replace assignments such as `ema=False`, and a parameter that is the first word, by flags."""
    options = options_by_parameter(command)

    def flag(match: re.Match[str]) -> str:
        option = options.get(match["name"])
        value = match["value"]
        if option is None:
            return match[0]
        if value == "False" and option.secondary_opts:
            return option.secondary_opts[0]
        return long_flag(option) + ("" if value in ("", "True") else f" {value}")

    def subject(match: re.Match[str]) -> str:
        return long_flag(options[match[0]]) if match[0] in options else match[0]

    text = ASSIGNMENT.sub(flag, text)
    return SUBJECT.sub(subject, text, count=1) if SUBJECT.match(text) else text


def long_flag(option: click.Option) -> str:
    """Return the first long flag of an option."""
    return next((flag for flag in option.opts if flag.startswith("--")), option.opts[0])


def quote_command(words: Iterable[str]) -> str:
    """Return words as typed in a shell, in quotes where it needs them.

    >>> quote_command(["ldmref", "red heart"])
    'ldmref "red heart"'
    """
    return " ".join(
        f'"{word}"' if re.fullmatch(r"[^\"\\$`!]*[ ?*&;][^\"\\$`!]*", word) else shlex.quote(word)
        for word in words
    )


def shorten(text: str, longest: int = 400) -> str:
    """Shorten a long text, for example a hostile file name, by leaving out its middle."""
    if len(text) <= longest:
        return text
    return f"{text[: longest // 2]} ... {text[-longest // 2 :]}"
