"""`ldmref mcp`: tools for coding agents on standard input and output."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ldmref.apps.cli.options import PATH, option, with_options
from ldmref.apps.cli.progress import say
from ldmref.apps.cli.shared_options import BACKEND, CONFIG, MODEL_NAME
from ldmref.errors import UsageError

if TYPE_CHECKING:
    from ldmref.apps.mcp.protocol import ToolCall
    from ldmref.apps.mcp.traces import DiffRequest
    from ldmref.io.checkpoint import Checkpoint


TRACES = option(
    "--traces",
    type=PATH,
    metavar="FOLDER",
    help="Folder of traces that the tool diff_trace may read. Default: none, without that tool.",
)


@click.command()
@with_options((MODEL_NAME,), BACKEND, (CONFIG, TRACES))
def mcp(**flags: Any) -> None:
    """Serve tools for coding agents by the Model Context Protocol, on standard input and output.

    The tools are generate_image, check_formula, where_implementations_differ, find_pitfalls and
    flow_schedule; with --traces also diff_trace, which reads no other folder. An agent starts the
    command itself; its configuration names the command:

    \b
    {"mcpServers": {"ldmref": {"command": "ldmref", "args": ["mcp"]}}}

    check_formula runs Python code that the agent sends, with your rights. The command serve
    offers the same tools at /mcp and does not run code.
    """
    from ldmref.apps.cli.session import CommandSession
    from ldmref.apps.mcp import Protocol, make_tools
    from ldmref.apps.mcp.generation import describe_model, generate_images, image_schema
    from ldmref.apps.mcp.stdio import serve_stdio

    session = CommandSession(flags)
    config = session.find()
    session.open()
    model = cache(session.load)

    def generate(arguments: Mapping[str, Any], call: Any) -> Any:
        return generate_images(config, model, arguments, call)

    about = describe_model(config)
    traces = _open_traces(flags["traces"], session.checkpoint)
    tools = make_tools(generate, image_schema(), about, run_code=True, traces=traces)
    if sys.stdin.isatty():
        say("ldmref mcp waits for messages of an agent; Ctrl-C ends it")
    serve_stdio(Protocol(tools), sys.stdin.buffer, sys.stdout.buffer)


def _open_traces(
    name: str | None, model: Checkpoint
) -> Callable[[DiffRequest, ToolCall], Any] | None:
    """Return the tool `diff_trace` for a folder; None without one.

    Raises:
        UsageError: There is no such folder.
    """
    from ldmref.apps.mcp.traces import answer_diff
    from ldmref.loading import load_checkpoint, open_backend

    if name is None:
        return None
    folder = Path(name)
    if not folder.is_dir():
        raise UsageError(f"no folder {name!r}", code="E-FOLDER", hint="--traces FOLDER")

    @cache
    def reference_model() -> Any:
        return load_checkpoint(model, open_backend("numpy", dtype="float32"))

    return lambda request, call: answer_diff(folder, reference_model, request, call)


COMMANDS = (mcp,)
