"""Bodies of requests: read whole, within a limit of bytes and of time, before they are used.

The application starts with a complete body. It therefore never waits for a client, and a client
that sends slowly or without end takes nothing from others but its connection.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ldmref.apps.server.guard.limits import Limits
from ldmref.apps.server.guard.refused import Refused, values_of

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope

    from ldmref.support.server_settings import ServerSettings


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
