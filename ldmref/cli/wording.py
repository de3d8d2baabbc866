"""Messages and hints in the words of the command line.

Errors and warnings name parameters as Python writes them: `cfg_scale must be ...`, `give config=`,
`ema=False reads the last weights`. Here they become the flags of the command at hand: `--cfg`,
`--model-config`, `--no-ema`.
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


def flags_of(command: click.Command) -> dict[str, click.Option]:
    """The options of a command, by the names that parameters have in Python."""
    options = {p.name: p for p in command.params if isinstance(p, click.Option) and p.name}
    return options | {name: options[to] for name, to in LOADING.items() if to in options}


def in_flags(text: str, command: click.Command) -> str:
    """`text` with flags in place of assignments such as `ema=False`, and of a first word that is
    a parameter."""
    options = flags_of(command)

    def flag(match: re.Match[str]) -> str:
        option = options.get(match["name"])
        value = match["value"]
        if option is None:
            return match[0]
        if value == "False" and option.secondary_opts:
            return option.secondary_opts[0]
        return long(option) + ("" if value in ("", "True") else f" {value}")

    def subject(match: re.Match[str]) -> str:
        return long(options[match[0]]) if match[0] in options else match[0]

    text = ASSIGNMENT.sub(flag, text)
    return SUBJECT.sub(subject, text, count=1) if SUBJECT.match(text) else text


def long(option: click.Option) -> str:
    """The first long flag of an option."""
    return next((flag for flag in option.opts if flag.startswith("--")), option.opts[0])


def command_line(words: Iterable[str]) -> str:
    """Words as they are typed, in double quotes where a shell needs some.

    >>> command_line(["ldmref", "red heart"])
    'ldmref "red heart"'
    """
    return " ".join(
        f'"{word}"' if re.fullmatch(r"[^\"\\$`!]*[ ?*&;][^\"\\$`!]*", word) else shlex.quote(word)
        for word in words
    )


def shortened(text: str, longest: int = 400) -> str:
    """`text` without its middle, if it is long: file names may have thousands of letters."""
    if len(text) <= longest:
        return text
    return f"{text[: longest // 2]} ... {text[-longest // 2 :]}"
