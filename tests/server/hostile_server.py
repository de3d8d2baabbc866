"""A server of the tiny model for hostile clients, raw requests to it, and their answers."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn
from hostile_table import INTERFACES, Interface

import ldmref
from ldmref.apps.server.app import create_app
from ldmref.apps.server.engine import Engine
from ldmref.apps.server.guard import Limits, uvicorn_options
from ldmref.support.server_settings import ServerSettings

PACKAGE = str(Path(ldmref.__file__).parent)
# No answer may contain lines of a traceback, or paths of this machine.
LEAKS = re.compile(
    rf"Traceback|File \"|\.py:\d|\.py\", line|site-packages|{re.escape(PACKAGE)}|\bline \d+, in "
)
SHAPES = {
    "native": {"code", "message", "hint", "parameter"},
    "OpenAI": {"message", "type", "param", "code"},
    "MCP": {"code", "message", "data"},
}


class Reply(NamedTuple):
    """An answer that was read from a socket."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@contextmanager
def serving_models(models, limits=None, **settings):
    """Serve an engine by uvicorn in a thread; yield its port and the engine."""
    chosen = ServerSettings(**settings)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
    engine = Engine(models, chosen)
    options = uvicorn_options(chosen, limits or Limits())
    config = uvicorn.Config(create_app(engine, chosen), timeout_graceful_shutdown=1, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], engine
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
        engine.close(1.0)
        assert not thread.is_alive()


def available(engine) -> list[str]:
    """Return the interfaces that this version has."""
    app = create_app(engine, engine.settings)
    paths = {route.path for route in app.app.routes}
    return [name for name, interface in INTERFACES.items() if interface.path in paths]


def build(
    interface: Interface, *, method="POST", target=None, host="localhost", headers=(), lines=(),
    body=None,
) -> bytes:  # fmt: skip
    """Return the bytes of a request. Nothing in it is corrected or left out, as a library would."""
    content = interface.plain if body is None else body
    merged = {"Host": host, "Connection": "close", "Content-Type": "application/json"}
    merged |= {"Content-Length": str(len(content))} | dict(headers)
    head = [f"{method} {target or interface.path} HTTP/1.1"]
    head += [f"{name}: {value}" for name, value in merged.items() if value is not None]
    return "\r\n".join([*head, *lines, "", ""]).encode("latin-1") + content


def send(port: int, data: bytes, timeout: float = 30.0) -> Reply:
    """Send bytes, and read one answer; the server may answer before it has read everything."""
    with socket.create_connection(("127.0.0.1", port), timeout) as connection:
        try:
            connection.sendall(data)
        except OSError:
            pass  # the answer is there already, or its absence fails the test
        return read_reply(connection)


def read_reply(connection: socket.socket) -> Reply:
    """Read one answer from a socket."""
    data = bytearray()
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65_536)
        if not chunk:
            raise AssertionError(f"closed without an answer: {bytes(data)!r:.200}")
        data += chunk
    head, _, body = bytes(data).partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in rest)}
    length = int(headers.get("content-length", -1))
    while length < 0 or len(body) < length:
        chunk = connection.recv(65_536)
        if not chunk:
            break
        body += chunk
    return Reply(int(first.split(" ")[1]), headers, body)


def assert_refused(reply: Reply, statuses, name: str) -> None:
    """The answer has one of the statuses, the form of its interface, the headers, and no leak."""
    assert reply.status in statuses, reply
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in reply.headers
    assert_no_leak(reply)
    assert_shape(reply, name)


def assert_no_leak(reply: Reply) -> None:
    assert not LEAKS.search(reply.body.decode("utf-8", "replace")), reply.body
    for value in reply.headers.values():
        assert not LEAKS.search(value)


def assert_shape(reply: Reply, name: str) -> None:
    """The body has the form of an error in an interface, and each text is one line."""
    assert reply.headers["content-type"].startswith("application/json")
    body = reply.json
    if name == "A1111":
        assert {"error", "detail", "body", "errors"} <= {*body} and body["body"] == ""
        return
    if name == "MCP":
        assert body["jsonrpc"] == "2.0"
        assert isinstance(body["error"]["code"], int) and body["error"]["message"]
        return
    assert SHAPES[name] <= {*body["error"]} and body["error"]["message"]
    assert body["error"]["message"].isprintable()


def assert_works(port: int) -> None:
    """A normal request gets an image."""
    reply = send(port, build(INTERFACES["native"]))
    assert reply.status == 200 and reply.body.startswith(b"\x89PNG"), reply


class Watch:
    """The files that this process opens while it is switched on; audit hooks stay for ever."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.on = False
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event == "open":
            self.opened.append(str(arguments[0]))
