"""`ldmref mcp`: tools for coding agents on standard input and output."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

import click

from ldmref.cli.options import with_options
from ldmref.cli.progress import say
from ldmref.cli.shared_options import BACKEND, CONFIG, MODEL_NAME
from ldmref.config import settings


@click.command()
@with_options((MODEL_NAME,), BACKEND, (CONFIG,))
def mcp(**flags: Any) -> None:
    """Serve tools for coding agents by the Model Context Protocol, on standard input and output.

    The tools are generate_image, check_formula and where_implementations_differ. An agent starts
    the command itself; its configuration names the command:

    \b
    {"mcpServers": {"ldmref": {"command": "ldmref", "args": ["mcp"]}}}

    check_formula runs Python code that the agent sends, with your rights. The command serve
    offers the same tools at /mcp and does not run code.
    """
    from ldmref.io.locate import find_model, read_model_config
    from ldmref.loading import load, open_backend
    from ldmref.mcp import Protocol, make_tools
    from ldmref.mcp.generation import describe_model, generate_images, image_schema
    from ldmref.mcp.stdio import serve_stdio

    configured = settings(flags["config"])
    path = find_model(flags["model"] or configured.defaults.get("model", "emoji"))
    config = read_model_config(path)
    backend = open_backend(
        flags["backend"], flags["device"], flags["dtype"], flags["config"], flags["speed"]
    )

    @cache
    def model() -> Any:
        return load(path, backend=backend, **configured.limits)

    def generate(arguments: Mapping[str, Any], call: Any) -> Any:
        return generate_images(config, model, arguments, call)

    tools = make_tools(generate, image_schema(), describe_model(config), run_code=True)
    if sys.stdin.isatty():
        say("ldmref mcp waits for messages of an agent; Ctrl-C ends it")
    serve_stdio(Protocol(tools), sys.stdin.buffer, sys.stdout.buffer)


COMMANDS = (mcp,)
