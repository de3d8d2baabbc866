"""A server process: one address, one event loop, and an orderly end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from types import FrameType

import uvicorn

from ldmref.apps.server.app import create_app
from ldmref.apps.server.engine import Engine
from ldmref.apps.server.guard import uvicorn_options
from ldmref.apps.server.guard.tokens import require_token
from ldmref.errors import OutputError
from ldmref.models.control import ControlNet
from ldmref.models.model import LatentDiffusion
from ldmref.support.server_settings import ServerSettings

STOP_SECONDS = 3.5  # for the jobs; then the connections have a second
OTHER_FILES = 200  # that the process opens
BACKLOG = 2048
# Bytes that the system keeps of an answer. Its own choice, megabytes, would hide for minutes that a
# client does not read.
SEND_BUFFER = 2**17


class OrderlyServer(uvicorn.Server):
    """A uvicorn server that ends the jobs before the connections, so event streams end too."""

    def __init__(self, config: uvicorn.Config, engine: Engine):
        super().__init__(config)
        self.engine = engine
        self.signal = 0  # that stopped it

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop at a signal; at the second one, do not wait for the jobs."""
        if self.should_exit:
            self.force_exit = True
            for job in self.engine.jobs():
                job.cancelled.set()
        self.signal = self.signal or int(sig)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop the jobs, then close the connections."""
        await asyncio.to_thread(self.engine.close, STOP_SECONDS)
        await super().shutdown(sockets)


def make_server(engine: Engine, settings: ServerSettings) -> OrderlyServer:
    """Return a server that can be run on a socket."""
    config = uvicorn.Config(
        create_app(engine, settings),
        backlog=BACKLOG,
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
    # asyncio sends an answer at once (TCP_NODELAY) only where the protocol is named; with the
    # default, 0, the body waits 40 ms for the client's acknowledgement of the head.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # of each connection
    try:
        listening.bind((settings.host, settings.port))
        listening.listen(BACKLOG)
    except (OSError, UnicodeError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"cannot listen on {settings.host} port {settings.port}: {reason}",
            code="E-PORT",
            hint="--port N takes another port, --port 0 a free one",
        ) from error
    return listening


def address_of(listening: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def prepare_server(
    models: Mapping[str, LatentDiffusion],
    settings: ServerSettings,
    sources: Mapping[str, str] | None = None,
    reason: str = "",
    warn: Callable[[str], None] = lambda line: None,
    controlnets: Mapping[str, ControlNet] | None = None,
) -> OrderlyServer:
    """Return a server of models that can be run on a socket of `open_socket`.

    Everything that the settings name is read here, so its address is announced only if it starts.

    Args:
        models: By name; the first is the default.
        settings: Access and limits.
        sources: The name or path from which each model was loaded.
        reason: Why the models are on their backend.
        warn: Called with each warning.
        controlnets: The ControlNets that requests may name.

    Raises:
        InputError: The folder of LoRAs or embeddings does not exist, or the styles or wildcards
            cannot be used.
    """
    raise_file_limit(settings.max_connections)
    engine = Engine(models, settings, sources, reason, controlnets)
    for line in engine.adapters.warnings:
        warn(line)
    return make_server(engine, settings)


def raise_file_limit(connections: int) -> None:
    """Let the process open as many files as there may be connections, as far as it is allowed."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHER_FILES
    if soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
