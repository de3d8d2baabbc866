"""A server process: one address, one event loop, and an orderly end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping

import uvicorn

from ldmref.errors import OutputError
from ldmref.models.model import LatentDiffusion
from ldmref.server.app import create_app
from ldmref.server.engine import Engine
from ldmref.server.guard import uvicorn_options
from ldmref.server.guard.tokens import require_token
from ldmref.server.settings import ServerSettings

STOP_SECONDS = 5.0


class OrderlyServer(uvicorn.Server):
    """A uvicorn server that ends the jobs before the connections, so event streams end too."""

    def __init__(self, config: uvicorn.Config, engine: Engine):
        super().__init__(config)
        self.engine = engine

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop the jobs, then close the connections."""
        await asyncio.to_thread(self.engine.close, STOP_SECONDS - 1.0)
        await super().shutdown(sockets)


def make_server(engine: Engine, settings: ServerSettings) -> OrderlyServer:
    """Return a server that can be run on a socket."""
    config = uvicorn.Config(
        create_app(engine, settings),
        backlog=2048,
        timeout_graceful_shutdown=1,
        lifespan="on",
        **uvicorn_options(settings),
    )
    return OrderlyServer(config, engine)


def open_socket(settings: ServerSettings) -> socket.socket:
    """Listen on the address of the settings.

    Raises:
        UsageError: Other machines could use the server without a token.
        OutputError: The port is in use, or the address does not exist here.
    """
    require_token(settings)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise OutputError(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror}",
            code="E-PORT",
            hint="--port N takes another port, --port 0 a free one",
        ) from error
    return listening


def address_of(listening: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_server(
    models: Mapping[str, LatentDiffusion], settings: ServerSettings, say: Callable[[str], None]
) -> None:
    """Serve models until the process is asked to stop.

    Args:
        models: By name; the first is the default.
        settings: Address, access and limits.
        say: Prints a line for the user.
    """
    listening = open_socket(settings)
    server = make_server(Engine(models, settings), settings)
    say(f"ldmref: serving {', '.join(models)} on {address_of(listening)}  (Ctrl-C stops)")
    server.run(sockets=[listening])
