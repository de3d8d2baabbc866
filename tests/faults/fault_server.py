"""A server in a thread, for the rows of the fault table that need sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from ldmref.apps.server.app import create_app
from ldmref.apps.server.engine import Engine
from ldmref.apps.server.guard import Limits, uvicorn_options
from ldmref.support.server_settings import ServerSettings

QUICK = Limits(write=0.5, linger=0.3)


@contextmanager
def serving(model: Any, **changes: Any) -> Iterator[int]:
    """Serve a model with short times; yield the port."""
    settings = ServerSettings(**{"body_timeout": 0.5, "max_body": 100_000} | changes)
    engine = Engine({"tiny": model}, settings)
    listener = socket.create_server(("127.0.0.1", 0))
    options = uvicorn_options(settings, QUICK)
    config = uvicorn.Config(create_app(engine), timeout_graceful_shutdown=1, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        engine.close(1.0)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 30)


def post(*lines: str, path: str = "/v1/generate", length: int | None = None) -> bytes:
    """Return the head of a request with JSON."""
    head = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *lines]
    head += [] if length is None else [f"Content-Length: {length}"]
    return "\r\n".join([*head, "", ""]).encode()


def status_of(connection: socket.socket) -> int:
    """Return the status of the next answer; 0 if the server closes the connection without one."""
    answer = connection.recv(65_536)
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0
