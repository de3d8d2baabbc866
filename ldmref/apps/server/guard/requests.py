"""What is wrong with a request by its head alone, and its body, read within limits.

The head has the method, the target, the framing and the type of the body. The body is read whole,
within a limit of bytes and of time, before it is used. The application starts with a complete body.
It therefore never waits for a client, and a client that sends slowly or without end
takes nothing from others but its connection.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ldmref.apps.server.guard.limits import Limits
from ldmref.apps.server.guard.refused import Refused, has_body, too_large, values_of
from ldmref.errors import short_repr

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope

    from ldmref.support.server_settings import ServerSettings


VERSIONS = ("1.0", "1.1", "2", "3")
METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
JSON = "application/json"
OTHER_BODIES = ("/v1/inspect", "/v1/images/edits")  # an image, a form; all others take JSON
# A form of any page can send these types without asking the server first.
FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")


def check_head(scope: Scope, largest: int) -> None:
    """Refuse a request that is not plain HTTP, or whose end two programs may see differently."""
    check_size(scope, largest)
    check_target(scope)
    check_framing(scope)
    check_type(scope)


def check_size(scope: Scope, largest: int) -> None:
    """Refuse a head of more than `largest` bytes; uvicorn refuses only much larger ones."""
    target = len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"])
    headers = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    if target + headers > largest:
        raise too_large(target > largest, largest)


def check_target(scope: Scope) -> None:
    """Refuse targets that are not paths of this server, and methods that it does not have."""
    if not scope["path"].startswith("/"):
        raise Refused(
            400,
            "the target of the request must be a path",
            code="E-REQUEST",
            hint="the server is not a proxy",
        )
    if scope["http_version"] not in VERSIONS:
        raise Refused(
            505,
            f"the version {short_repr(scope['http_version'])} of HTTP is not supported",
            code="E-REQUEST",
            hint="send HTTP/1.1",
        )
    if scope["method"] not in METHODS:
        allowed = ", ".join(METHODS)
        raise Refused(
            405,
            f"the method {short_repr(scope['method'])} is not allowed",
            code="E-METHOD",
            hint=f"allowed: {allowed}",
            headers={"Allow": allowed},
        )


def check_framing(scope: Scope) -> None:
    """Refuse a body that is coded, or whose length is stated twice.

    A proxy and this server could disagree about where such a request ends; the rest would be read
    as another request (request smuggling).
    """
    lengths = values_of(scope, b"content-length")
    transfer = values_of(scope, b"transfer-encoding")
    length_is_valid = all(value.isascii() and value.isdecimal() for value in lengths)
    chunked = [value.lower() for value in transfer] in ([], ["chunked"])
    if not length_is_valid or not chunked or len(lengths) + len(transfer) > 1:
        raise Refused(
            400,
            "the length of the body is not stated in one valid way",
            code="E-LENGTH",
            hint="send one Content-Length, or Transfer-Encoding: chunked",
        )
    coding = [value.lower() for value in values_of(scope, b"content-encoding")]
    if coding not in ([], ["identity"]):
        raise Refused(
            415,
            f"the content encoding {short_repr(coding[0])} is not accepted",
            code="E-ENCODING",
            hint="send the body as it is",
            headers={"Accept-Encoding": "identity"},
        )


def check_type(scope: Scope) -> None:
    """Require JSON where JSON is read: a page needs the server's permission to send that type.

    The routes of A1111 also take requests without a body or without a type, which clients send.
    """
    path = scope["path"]
    if scope["method"] != "POST":
        return
    values = values_of(scope, b"content-type")
    kind = values[0].partition(";")[0].strip().lower() if values else ""
    own = path.startswith("/v1/") or path.rstrip("/") == "/mcp"
    strict = own and path.rstrip("/") not in OTHER_BODIES
    form = path.startswith("/sdapi/") and has_body(scope) and kind in FORM_TYPES
    if (strict and kind != JSON) or form or len(values) > 1:
        raise Refused(
            415,
            f"the content type {short_repr(kind)} is not accepted here",
            code="E-TYPE",
            hint=f"send JSON with Content-Type: {JSON}",
        )


class ClientLeft(Exception):
    """The client closed the connection before its request was complete."""


class Bodies:
    """Reads bodies, and counts the bytes that all requests hold together."""

    def __init__(self, settings: ServerSettings, limits: Limits):
        self.most = settings.max_body
        self.seconds = settings.body_timeout
        self.chunk_seconds = limits.chunk
        self.room = limits.held * self.most
        self.held = 0

    def check_length(self, scope: Scope) -> None:
        """Refuse a body whose announced length exceeds the limit."""
        lengths = values_of(scope, b"content-length")
        if lengths and (len(lengths[0]) > 18 or int(lengths[0]) > self.most):
            raise self._too_large()

    async def read(self, receive: Receive) -> Body:
        """Read a body.

        Raises:
            Refused: The body is larger than the limit (413), arrives too slowly (408), or finds no
                room besides the bodies of other requests (503).
            ClientLeft: The client disconnected.
        """
        body = Body(self, receive)
        try:
            async with asyncio.timeout(self.seconds):
                await self._fill(body)
        except TimeoutError as error:
            body.release()
            raise Refused(
                408,
                "the body did not arrive in time",
                code="E-TIMEOUT",
                hint=f"{self.seconds:g} s are allowed, and {self.chunk_seconds:g} s without a byte",
            ) from error
        except BaseException:
            body.release()
            raise
        return body

    async def _fill(self, body: Body) -> None:
        """Add messages to `body` until it is complete."""
        more = True
        while more:
            async with asyncio.timeout(self.chunk_seconds):
                message = await body.receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            chunk = message.get("body", b"")
            more = message.get("more_body", False)
            if body.size + len(chunk) > self.most:
                raise self._too_large()
            if self.held + len(chunk) > self.room:
                raise Refused(
                    503,
                    "other requests use all memory that bodies may take",
                    code="E-BUSY",
                    hint="send the request again later",
                    headers={"Retry-After": "5"},
                )
            body.add(chunk)

    def _too_large(self) -> Refused:
        return Refused(
            413,
            f"the body is larger than {self.most} bytes",
            code="E-BODY",
            hint="send smaller images, or start the server with a larger --max-body",
        )


class Body:
    """A body in memory, as the application receives it."""

    def __init__(self, bodies: Bodies, receive: Receive):
        self.bodies = bodies
        self.receive = receive
        self.chunks: list[bytes] = []
        self.size = 0
        self.passed_on = False

    def add(self, chunk: bytes) -> None:
        """Append a part."""
        self.chunks.append(chunk)
        self.size += len(chunk)
        self.bodies.held += len(chunk)

    def release(self) -> None:
        """Return the bytes to the others. A second call does nothing."""
        self.bodies.held -= self.size
        self.size = 0
        self.chunks.clear()

    async def replay(self) -> Message:
        """Return the whole body first, then what the server says: that the client has left."""
        if self.passed_on:
            return await self.receive()
        self.passed_on = True
        whole = b"".join(self.chunks)
        self.chunks.clear()
        return {"type": "http.request", "body": whole, "more_body": False}
