"""Report any exception as one line, a hint and an exit code."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import traceback
from collections.abc import Mapping, Sequence

import click

from ldmref.apps.cli.flags import describe_range
from ldmref.apps.cli.messages import rewrite_as_flags, shorten
from ldmref.apps.cli.progress import Stopped, one_line, say
from ldmref.apps.cli.standard_streams import closed_stdout
from ldmref.errors import (
    InputError,
    LdmrefError,
    OutputError,
    ResourceError,
    UsageError,
    closest,
)
from ldmref.modes.aliases import OF_PYTHON, UNLIKE
from ldmref.modes.registry import MODES
from ldmref.support.foreign_code import HINT, describe_exit
from ldmref.support.free_memory import is_out_of_memory

OUT_OF_RANGE = " is not in the range "  # of click's message
MODEL_FLAGS = ("-m", "--model")
MODEL_ARGUMENTS = ("model", "target", "path")  # of export and evaluate, info, and convert
INTERNAL = "E-INTERNAL"
UNWRITABLE = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EIO}


def fail(error: BaseException, argv: Sequence[str], command: click.Command) -> int:
    """Print an error in one line, with its hint, and return the exit code."""
    known = to_ldmref_error(error)
    if known.code == INTERNAL and "-v" not in list_flags(command):
        known.hint = "set LDMREF_DEBUG=1 to see where it happened"
    if os.environ.get("LDMREF_DEBUG") == "1" or {"-v", "--verbose"} & set(argv):
        for line in "".join(traceback.format_exception(error)).rstrip("\n").split("\n"):
            say(line)
    message = rewrite_as_flags(str(known), command)
    hint = rewrite_as_flags(known.hint, command)
    say(f"ldmref: error[{known.code}]: {shorten(one_line(message))}")
    if hint:
        say(f"hint: {shorten(one_line(hint))}")
    if "--json" in argv and not known.is_printed:
        fields = {"code": known.code, "message": message, "hint": hint}
        with contextlib.suppress(OSError):
            click.echo(json.dumps({"error": fields | {"exit": known.exit_code}}))
    return known.exit_code


def to_ldmref_error(error: BaseException) -> LdmrefError:
    """Return the error itself, or an equivalent one with a code and an exit code."""
    if isinstance(error, LdmrefError):
        return error
    if isinstance(error, KeyboardInterrupt | click.Abort):
        stopped = LdmrefError("stopped", code="E-CANCELLED")
        stopped.exit_code = error.exit_code if isinstance(error, Stopped) else 130
        return stopped
    if isinstance(error, SystemExit):
        message = f"code that was called ended the process: {describe_exit(error)}"
        return LdmrefError(message, code="E-EXIT", hint=HINT)
    if is_out_of_memory(error):
        hint = "generate smaller images, or fewer at a time (--batch)"
        return ResourceError("out of memory", code="E-MEMORY", hint=hint)
    if isinstance(error, OSError) and error.errno == errno.EBADF:
        return closed_stdout()
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return OutputError(f"cannot write: {error.strerror}", code="E-WRITE")
    if isinstance(error, FileNotFoundError) and not has_working_folder():
        hint = "change to another folder"
        return OutputError("the working folder has been deleted", code="E-FOLDER", hint=hint)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return InputError(f"cannot open {error.filename!r}: {error.strerror}", code="E-FILE")
    return LdmrefError(
        f"{type(error).__name__}: {error} (please report)",
        code=INTERNAL,
        hint="add -v to see where it happened",
    )


def has_working_folder() -> bool:
    """Return whether the working folder still exists."""
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def to_usage_error(
    error: click.ClickException,
    command: click.Command,
    commands: Mapping[str, click.Command],
    aliases: Mapping[str, str],
) -> UsageError:
    """Convert an error of click to ours, with a hint.

    Args:
        error: The error; its context, if it has one, knows the command that was used.
        command: That command otherwise.
        commands: All commands, which may have a flag that is unknown here.
        aliases: Other names of flags.
    """
    message = " ".join(error.format_message().split()).rstrip(".")
    path = "ldmref" if command.name == "ldmref" else f"ldmref {command.name}"
    if isinstance(error, click.UsageError) and error.ctx is not None:
        command = error.ctx.command
        path = error.ctx.command_path
    hint = f"see {path} --help"
    if isinstance(command, click.Group) and message.startswith("Usage: "):  # its whole help
        message = f"{path} needs a command: {', '.join(sorted(command.commands))}"
    elif isinstance(error, click.NoSuchOption):
        message = f"no such option: {error.option_name}"
        hint = _suggest_option(error.option_name, command, commands, aliases) or hint
    elif OUT_OF_RANGE in message and isinstance(error, click.BadParameter) and error.param:
        message = _range_message(message, error.param)
    elif re.search(r"'-?\d+,\d+'", message):
        hint = "write a decimal point, not a comma"
    return UsageError(message, code="E-USAGE", hint=hint)


def _range_message(message: str, option: click.Parameter) -> str:
    """Name the range of a number in words, where click would write `1<=x<=10`."""
    if not isinstance(option.type, click.IntRange | click.FloatRange):
        return message
    value = message.partition(OUT_OF_RANGE)[0].rpartition(" ")[2]
    return f"{max(option.opts, key=len)} must be {describe_range(option.type)}, not {value}"


def _suggest_option(
    name: str,
    command: click.Command,
    commands: Mapping[str, click.Command],
    aliases: Mapping[str, str],
) -> str:
    """Suggest what takes a model, a similar flag of the command, or the commands with this flag."""
    if name in MODEL_FLAGS and (takes := _where_the_model_goes(command)):
        return f"{command.name} takes the model as {takes}"
    others = [key for key, other in commands.items() if name in list_flags(other)]
    if others:
        return f"{command.name} does not have it, unlike {', '.join(others)}"
    flags = list_flags(command)
    known = [*flags, *(f"--{alias}" for alias, to in aliases.items() if f"--{to}" in flags)]
    unlike = name.strip("-").replace("-", "_").lower()
    if command.name in MODES and unlike in UNLIKE:
        return UNLIKE[unlike]
    if command.name in MODES and unlike in OF_PYTHON:
        return "it is a part of --control, as ldmref txt2img --help says"
    close = closest(name.strip("-"), [flag[2:] for flag in known if flag.startswith("--")])
    return f"did you mean {f'--{close}'!r}?" if close else ""


def _where_the_model_goes(command: click.Command) -> str:
    """Return the argument or the other flag of a command that names a model, or ""."""
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.metavar == "MODEL":
            return f"{parameter.opts[0]} MODEL"
        if isinstance(parameter, click.Argument) and parameter.name in MODEL_ARGUMENTS:
            return "an argument, without a flag"
    return ""


def list_flags(command: click.Command) -> list[str]:
    """Return every flag of a command."""
    return [flag for p in command.params for flag in (*p.opts, *p.secondary_opts) if flag[0] == "-"]
