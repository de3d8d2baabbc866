"""Shared by the tests of the guard: an ASGI client in the process, and raw sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from contextlib import contextmanager
from typing import Any, NamedTuple

import uvicorn

from ldmref.apps.server.guard import Limits, guard, uvicorn_options
from ldmref.apps.server.running import open_socket
from ldmref.support.server_settings import ServerSettings

HOST = (b"host", b"localhost:7860")


class Answer(NamedTuple):
    """An answer of an ASGI application."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        return json.loads(self.body)["error"]["code"]


async def echo(scope, receive, send):
    """Answer with the number of bytes received; `/fail` fails, `/stream` never ends."""
    if scope["type"] != "http":
        return
    message = await receive()
    size = len(message.get("body", b""))
    if scope["path"] == "/fail":
        raise KeyError("a red heart \x1b[2J /root/secret")
    if scope["path"] == "/stream":
        await stream(receive, send)
        return
    headers = [(b"content-type", b"application/json"), (b"x-frame-options", b"ALLOWALL")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"size": size}).encode()})


async def stream(receive, send):
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b": open\n\n", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass


def call(app, method="GET", path="/", headers=(), body=b"", *, host=HOST, client="127.0.0.1"):
    """Send one request to an ASGI application; a list is a body in chunks."""
    given = [host, *headers] if host else [*headers]
    chunks = body if isinstance(body, list) else [body]
    if isinstance(body, list):
        given.append((b"transfer-encoding", b"chunked"))
    elif body and not any(name == b"content-length" for name, _ in given):
        given.append((b"content-length", str(len(body)).encode()))
    scope = {
        "type": "http", "method": method, "path": path, "headers": given, "scheme": "http",
        "client": (client, 1), "query_string": b"", "http_version": "1.1",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }  # fmt: skip
    messages: list[Any] = [
        {"type": "http.request", "body": chunk, "more_body": i + 1 < len(chunks)}
        for i, chunk in enumerate(chunks)
    ]
    sent: list[Any] = []

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    start = sent[0]
    assert len({name for name, _ in start["headers"]}) == len(start["headers"])
    received = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], received, b"".join(m.get("body", b"") for m in sent[1:]))


def guarded(app=echo, limits=None, **settings):
    return guard(app, ServerSettings(**settings), limits)


@contextmanager
def serving(app=echo, limits=None, **settings):
    """Serve a guarded application by uvicorn in a thread; yield its port."""
    chosen = ServerSettings(**settings)
    limits = limits or Limits()
    listener = open_socket(ServerSettings(port=0))
    config = uvicorn.Config(
        guard(app, chosen, limits), lifespan="off", **uvicorn_options(chosen, limits)
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def exchange(port: int, data: bytes, timeout: float = 20.0) -> bytes:
    """Send bytes over a raw connection, and return everything until the server closes it."""
    with socket.create_connection(("127.0.0.1", port), timeout) as connection:
        connection.sendall(data)
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    received = bytearray()
    while chunk := connection.recv(65_536):
        received += chunk
    return bytes(received)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def request(method="GET", path="/", *lines: str, host="localhost", body: bytes = b"") -> bytes:
    """Return the bytes of a request that closes its connection."""
    head = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *lines]
    if body:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body
