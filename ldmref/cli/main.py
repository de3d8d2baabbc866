"""The command `ldmref`: its group, and the one place where errors become lines and exit codes."""

from __future__ import annotations

import contextlib
import difflib
import errno
import json
import os
import re
import sys
import traceback
from collections.abc import Sequence

import click

import ldmref
from ldmref.cli import bench, check, convert, doctor, info, pictures, replay, train
from ldmref.cli.progress import Stopped, one_line, say
from ldmref.errors import LdmrefError, OutputError, ResourceError, UsageError, did_you_mean

ALIASES = {
    "b": "c",
    "batch-count": "count",
    "batch-size": "batch",
    "cfg-scale": "cfg",
    "denoise": "strength",
    "denoising-strength": "strength",
    "guidance-scale": "cfg",
    "init-img": "image",
    "init-image": "image",
    "mask-image": "mask",
    "negative": "negative-prompt",
    "num-images-per-prompt": "count",
    "num-inference-steps": "steps",
    "sampler-name": "sampler",
    "sampling-method": "sampler",
    "scheduler": "schedule",
}
_UNWRITABLE = {errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EFBIG}


def canonical(name: str) -> str:
    """A flag's own name for what other programs call it; underscores are hyphens."""
    name = name.replace("_", "-")
    return ALIASES.get(name, name)


class Commands(click.Group):
    """The commands; several words in one argument are a prompt to draw."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        word = args[0] if args else ""
        if word and not word.startswith("-") and word not in self.commands:
            if " " not in word.strip():
                raise UsageError(
                    f"no such command: {word}",
                    code="E-USAGE",
                    hint=did_you_mean(word, self.commands) + f". To draw it: ldmref txt2img {word}",
                )
            args = ["txt2img", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=Commands,
    invoke_without_command=True,
    epilog='ldmref "red heart" is short for ldmref txt2img "red heart".',
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": canonical,
        "max_content_width": 100,
    },
)
@click.version_option(ldmref.__version__, prog_name="ldmref")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Draw pictures from words with a latent diffusion model that you can check."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for module in (pictures, replay, train, convert, info, check, bench, doctor):
    for command in module.COMMANDS:
        cli.add_command(command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            # no crash where it is not UTF-8
            stream.reconfigure(errors="backslashreplace")  # pyright: ignore
    try:
        code = _run(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _silence_stdout()
        return 141
    except (Exception, KeyboardInterrupt) as error:
        return _fail(error, argv)


def _run(argv: list[str]) -> int:
    try:
        with cli.make_context("ldmref", argv) as ctx:
            cli.invoke(ctx)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    return 0


def _fail(error: BaseException, argv: Sequence[str]) -> int:
    """Say what went wrong, in one line, and return the exit code."""
    known = _as_ldmref(error)
    if os.environ.get("LDMREF_DEBUG") == "1" or {"-v", "--verbose"} & set(argv):
        traceback.print_exception(error)
    say(f"ldmref: error[{known.code}]: {one_line(str(known))}")
    if known.hint:
        say(f"hint: {one_line(known.hint)}")
    if "--json" in argv:
        fields = {"code": known.code, "message": str(known), "hint": known.hint}
        with contextlib.suppress(OSError):
            click.echo(json.dumps({"error": fields | {"exit": known.exit_code}}))
    return known.exit_code


def _as_ldmref(error: BaseException) -> LdmrefError:
    if isinstance(error, LdmrefError):
        return error
    if isinstance(error, click.ClickException):
        return _usage(error)
    if isinstance(error, KeyboardInterrupt | click.Abort):
        found = LdmrefError("stopped", code="E-CANCELLED")
        found.exit_code = error.exit_code if isinstance(error, Stopped) else 130
        return found
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return ResourceError(
            "out of memory", code="E-MEMORY", hint="draw a smaller picture, or use --batch 1"
        )
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        return OutputError(f"cannot write: {error.strerror}", code="E-WRITE")
    return LdmrefError(
        f"{type(error).__name__}: {error} (please report)",
        code="E-INTERNAL",
        hint="add -v to see where it happened",
    )


def _usage(error: click.ClickException) -> UsageError:
    ctx = getattr(error, "ctx", None)
    message = " ".join(error.format_message().split()).rstrip(".")
    hint = f"see {ctx.command_path} --help" if ctx else ""
    if isinstance(error, click.NoSuchOption):
        message = f"no such option: {error.option_name}"
        names = [name for p in ctx.command.params for name in p.opts] if ctx else []
        names += [f"--{alias}" for alias in ALIASES if len(alias) > 1]
        close = difflib.get_close_matches(error.option_name, names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else hint
    elif re.search(r"'-?\d+,\d+'", message):
        hint = "write a decimal point, not a comma"
    elif "extra argument" in message:
        hint = "put the prompt in quotes"
    return UsageError(message, code="E-USAGE", hint=hint)


def _silence_stdout() -> None:
    """Nobody reads any more: let the interpreter's last flush go nowhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
